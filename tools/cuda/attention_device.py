"""The driver API by ctypes, and the argument structs of the attention, row, expert and statistics kernels.

Mirrors crates/compute/src/cuda/args.rs and attention_plan.rs; used by attention_check.py and attention_time.py.
"""
import ctypes as C
import torch

cuda = C.CDLL("libcuda.so.1")
P, I, F, L = C.c_void_p, C.c_int, C.c_float, C.c_longlong


def ok(result, what=""):
    if result:
        text = C.c_char_p()
        cuda.cuGetErrorString(result, C.byref(text))
        raise RuntimeError(f"{what}: {text.value}")


class Struct(C.Structure):
    def __init__(self, **fields):
        super().__init__()
        for name, value in fields.items():
            setattr(self, name, pointer(value) if isinstance(value, torch.Tensor) else value)


def pointer(tensor):
    return tensor.data_ptr()


def struct(name, *fields):
    return type(name, (Struct,), {"_fields_": list(fields)})


Rows = [("q", P), ("k", P), ("v", P), ("q_token", I), ("q_group", I), ("kv_token", I), ("kv_group", I)]
Cache = [("ck", P), ("cv", P), ("k_scales", P), ("v_scales", P), ("context", I), ("row", I)]
ATTENTION = Rows + Cache + [("out", P), ("position", P), ("partial", P), ("arrived", P), ("sinks", P),
                            ("n", I), ("heads", I), ("kv_heads", I), ("dim", I), ("scale", F), ("softcap", F), ("window", I), ("splits", I),
                            ("stored", I), ("early", I)]
ROTATION = [("cos", P), ("sin", P), ("q_norm", P), ("k_norm", P), ("pairs", I), ("interleaved", I), ("norm", I),
            ("q_norm_stride", I), ("k_norm_stride", I), ("eps", F)]
AttentionArgs = struct("AttentionArgs", *ATTENTION)
RotatedAttentionArgs = struct("RotatedAttentionArgs", *ATTENTION, *ROTATION)
NormArgs = struct("NormArgs", ("x", P), ("weight", P), ("bias", P), ("out", P), ("n", I), ("width", I), ("stride", I),
                  ("out_stride", I), ("kind", I), ("heads", I), ("weight_stride", I), ("eps", F))
AddNormArgs = struct("AddNormArgs", ("x", P), ("y", P), ("y_weight", P), ("y_bias", P), ("weight", P), ("bias", P),
                     ("out", P), ("n", I), ("width", I), ("kind", I), ("eps", F))
MapArgs = struct("MapArgs", ("x", P), ("y", P), ("z", P), ("order", P), ("n", I), ("width", I), ("x_stride", I),
                 ("y_stride", I), ("z_stride", I), ("activation", I), ("value", F), ("unused", I))
RouteArgs = struct("RouteArgs", ("logits", P), ("bias", P), ("expert", P), ("share", P), ("n", I), ("count", I),
                   ("used", I), ("normalized", I), ("scores", I), ("groups", I), ("groups_used", I), ("group_rank", I),
                   ("scale", F), ("jitter", F))
GroupArgs = struct("GroupArgs", ("expert", P), ("share", P), ("first", P), ("token", P), ("slot", P),
                   ("slot_share", P), ("n", I), ("count", I), ("used", I), ("unused", I))
MoveArgs = struct("MoveArgs", ("x", P), ("rows", P), ("token", P), ("slot", P), ("share", P), ("width", I),
                  ("used", I), ("scaled", I), ("unused", I))
StatisticsArgs = struct("StatisticsArgs", ("logits", P), ("target", P), ("log_sum_exp", P), ("target_logit", P),
                        ("largest", P), ("stride", L), ("rows", I), ("vocab", I))
KlArgs = struct("KlArgs", ("reference", P), ("logits", P), ("divergence", P), ("reference_stride", L), ("stride", L),
                ("rows", I), ("vocab", I))
assert C.sizeof(AttentionArgs) == 160 and C.sizeof(RotatedAttentionArgs) == 216


class Attribute(C.Structure):
    _fields_ = [("id", I), ("pad", I), ("value", C.c_ubyte * 64)]


class Config(C.Structure):
    _fields_ = [("grid", C.c_uint * 3), ("block", C.c_uint * 3), ("shared", C.c_uint), ("stream", P),
                ("attributes", C.POINTER(Attribute)), ("count", C.c_uint)]


DEPENDENT = Attribute(6, 0, (C.c_ubyte * 64)(1))  # programmatic stream serialization


class Module:
    def __init__(self, path):
        torch.zeros(1, device="cuda")
        self.module, self.functions = P(), {}
        ok(cuda.cuModuleLoadData(C.byref(self.module), open(path, "rb").read() + b"\0"), path)

    def launch(self, name, args, grid, block, shared=0, dependent=False):
        key = (name, shared > 48 * 1024 and shared)
        if key not in self.functions:
            function = P()
            ok(cuda.cuModuleGetFunction(C.byref(function), self.module, name.encode()), name)
            if shared > 48 * 1024:
                ok(cuda.cuFuncSetAttribute(function, 8, shared), name)
            self.functions[key] = function
        grid = tuple(grid) + (1,) * (3 - len(grid))
        config = Config((C.c_uint * 3)(*grid), (C.c_uint * 3)(block, 1, 1), shared,
                        torch.cuda.current_stream().cuda_stream, None, 0)
        if dependent:
            config.attributes, config.count = (Attribute * 1)(DEPENDENT), 1
        parameters = (P * 1)(C.cast(C.byref(args), P))
        ok(cuda.cuLaunchKernelEx(C.byref(config), self.functions[key], parameters, None), name)


def up(x, step):
    return -(-x // step) * step


def padded_dim(dim, of):
    return next(d for d in of if d >= dim)


PROMPT_DIMS = (64, 80, 96, 112, 128, 160, 192, 256)


class PromptShape:
    """Tile of attention_prompt.cu for a head_dim on a PTX target."""

    def __init__(self, dim, target):
        d = self.dim = padded_dim(dim, PROMPT_DIMS)
        if target >= 80:
            mt, warps = (2 if d <= 128 else 1), (4 if d <= 128 or d > 160 else 8)
            keys, stages = (64 if d <= 96 else 32 if d <= 192 else 16), 2
        else:
            mt, warps, keys, stages = 1, 4, (32 if d <= 128 else 16), 1
        self.rows, self.threads, self.keys = 16 * mt * warps, 32 * warps, keys
        stride, codes = d + 8, up(d, 32)
        self.shared = {"f16": 2 * stride * (self.rows + 2 * stages * keys),
                       "q8_0": 2 * stride * (self.rows + 2 * keys) + 2 * keys * (codes + codes // 16)}
        self.padded = padded_dim(d, (64, 128, 256))


class WgmmaShape:
    """Tile of attention_wgmma.cu."""

    def __init__(self, dim, groups):
        d = self.dim = padded_dim(dim, PROMPT_DIMS)
        self.rows, self.threads = 64 * groups, 128 * groups
        slabs, codes = up(d, 64) // 64, up(d, 32)
        queries, tile = slabs * self.rows * 128, slabs * 64 * 128
        self.shared = {"f16": 1024 + queries + 4 * tile, "q8_0": 1024 + queries + 2 * tile + 128 * (codes + codes // 16)}
        self.padded = padded_dim(d, (64, 128, 256))


def decode_shape(dim, rows):
    """(padded head_dim, rows of a block, dynamic shared memory) of attention_decode.cu."""
    d = padded_dim(dim, (64, 128, 256))
    r = 8 if rows <= 8 or d == 256 else 16
    slots = 8 if r * d <= 1024 else 4
    return d, r, 4 * d * (r + max(slots * r, 8))


def exact_shape(dim):
    d = padded_dim(dim, (64, 128, 256))
    r = 16 if d == 256 else 32
    return d, r, 4 * ((r + 32) * (d + 4) + r * 32)


def store_grid(heads, kv_heads, dim, n):
    return -(-(heads + 2 * kv_heads) // 8), n
