#!/usr/bin/env python3
"""Checks repack.cu and matvec.cu on a card, format by format, against numpy in f64; then times them.

    tools/cuda/matvec_run.sh FOLDER     compiles the modules into FOLDER and puts these scripts beside them
    cd FOLDER && python3 check_matvec.py [check] [time]       (numpy, torch; the gguf package)
"""
import ctypes, itertools, pathlib, sys, time
import numpy as np
import torch
import formats
from card import Module, graph, seconds
from matvec_args import *

SMS = torch.cuda.get_device_properties(0).multi_processor_count
here = pathlib.Path(__file__).resolve().parent
modules = {}


def module(name, target):
    key = f"matvec_{name.lower()}.{target}"
    if key not in modules:
        modules[key] = Module(here / key)
    return modules[key]


def upload(a):
    return torch.from_numpy(np.ascontiguousarray(a)).cuda()


class Weights:
    """A matrix (or `experts` of them): random blocks, repacked on the card; `values` as the reference has them."""

    def __init__(self, name, rows, columns, rng, experts=1):
        self.rows, self.columns, total = rows, columns, rows * experts
        if name in formats.FLOATS:
            w = rng.standard_normal((total, columns)).astype(np.float32) * 0.05
            if name == "f16":
                raw = w.astype(np.float16)
                self.values = raw.astype(np.float32)
            elif name == "bf16":
                raw = (w.view(np.uint32) >> 16).astype(np.uint16)
                self.values = (raw.astype(np.uint32) << 16).view(np.float32)
            else:
                raw = self.values = w
            padded = (columns + 31) // 32 * 32
            sizes, chunks, kernel = [total * padded * formats.FLOATS[name]], total * padded // 32, f"repack_{8 * formats.FLOATS[name]}"
        else:
            values = formats.FORMATS[name][0]
            raw = formats.random_blocks(name, total * columns // values, rng)
            self.values = formats.decode(name, raw).reshape(total, columns)
            sizes, chunks, kernel = formats.plane_bytes(name, total, columns), total * columns // 32, f"repack_{name.lower()}"
        raw = upload(raw.reshape(-1).view(np.uint8))
        self.planes = [torch.full(((n + 511) // 256 * 256,), 0xEE, dtype=torch.uint8, device="cuda") for n in sizes]
        a = RepackArgs()
        a.raw, a.first, a.chunks, a.matrix = raw.data_ptr(), 0, chunks, self.matrix()
        repack.launch(kernel, (chunks + 255) // 256, 256, 0, a)
        torch.cuda.synchronize()

    def matrix(self):
        m = Matrix()
        for i, plane in enumerate(self.planes):
            m.plane[i] = plane.data_ptr()
        m.rows, m.columns = self.rows, self.columns
        return m


def quantized(x, name):
    """What the kernel makes of the input: int8 codes with a scale for 32 values."""
    if name in formats.FLOATS:
        return x.astype(np.float32).astype(np.float64)
    g = x.astype(np.float32).reshape(len(x), -1, 32)
    top = np.abs(g).max(axis=2, keepdims=True)
    codes = np.rint(g * np.where(top > 0, np.float32(127) / np.maximum(top, 1e-30), 0).astype(np.float32))
    return (codes.astype(np.float64) * (top * np.float32(1 / 127)).astype(np.float64)).reshape(x.shape)


def act(kind, x):
    from math import erf
    if kind == 1:
        return x / (1 + np.exp(-x))
    if kind == 2:
        return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    if kind == 3:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
    return np.maximum(x, 0) if kind == 4 else x


def norm(kind, x, w, b, eps):
    if kind == PLAIN:
        return x
    x = x.astype(np.float64)
    if kind == LAYER:
        x = x - x.mean(axis=1, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps) * w
    return y if b is None else y + b


def one_case(name, target, rng, n, columns, rows, prologue, epilogue, activation, bias, permuted, experts=0, sum_slots=False):
    slots = 3 if experts else 1
    weights = [Weights(name, r, columns, rng, experts or 1) for r in rows]
    vectors = slots if sum_slots else n
    stride = columns + 4
    x = rng.standard_normal((vectors, stride)).astype(np.float32) * rng.uniform(0.5, 2, (vectors, 1)).astype(np.float32)
    permutation = rng.permutation(columns).astype(np.int32) if permuted else None
    w = rng.uniform(0.5, 1.5, columns).astype(np.float32)
    b = rng.standard_normal(columns).astype(np.float32) * 0.1 if prologue == LAYER else None
    biases = [rng.standard_normal(r * max(experts, 1)).astype(np.float32) if bias else None for r in rows]
    expert = rng.permutation(experts)[:slots].astype(np.int32) if experts else None
    share = rng.uniform(0.1, 1, slots).astype(np.float32) if experts else None
    width = (rows[0] if epilogue == GATED or experts else sum(rows)) * (slots if experts and not sum_slots else 1)
    out_stride = width + 3
    before = rng.standard_normal((n, out_stride)).astype(np.float32)
    out = upload(before)
    keep = [upload(v) if v is not None else None for v in [x, permutation, w, b, expert, share, *biases]]
    pointer = lambda i: keep[i].data_ptr() if keep[i] is not None else None
    a = Args()
    for i, m in enumerate(weights):
        a.m[i] = m.matrix()
        a.bias[i] = pointer(6 + i)
    a.x, a.permutation, a.norm_weight, a.norm_bias = pointer(0), pointer(1), pointer(2), pointer(3)
    a.out, a.expert, a.share = out.data_ptr(), pointer(4), pointer(5)
    a.x_stride, a.out_stride, a.matrices, a.prologue, a.epilogue, a.activation = stride, out_stride, len(rows), prologue, epilogue, activation
    a.slots, a.sum_slots, a.eps, a.x_scale = slots, int(sum_slots), 1e-5, 1.0
    grid, shared = geometry(name, width, columns, vectors, SMS)
    if name not in formats.FLOATS:
        ahead(a, name, [([p.data_ptr() for p in m.planes], m.rows, columns) for m in weights], epilogue == GATED, 1 << 20)
    module(name, target).launch(f"matvec_{n}", grid, BLOCK, shared, a, overlap=True)
    torch.cuda.synchronize()

    v = norm(prologue, x[:, :columns], w, b, 1e-5)
    v = quantized(v[:, permutation] if permuted else v, name)
    values = [m.values.astype(np.float64) for m in weights]

    def product(i, vector, e):
        r = rows[i]
        y = values[i][e * r:(e + 1) * r] @ vector
        return y if biases[i] is None else y + biases[i][e * r:(e + 1) * r]

    def group(vector, e):
        if epilogue == GATED:
            return act(activation, product(0, vector, e)) * product(1, vector, e)
        return act(activation, np.concatenate([product(i, vector, e) for i in range(len(rows))]))

    if experts:
        parts = [group(v[s if sum_slots else 0], expert[s]) * share[s] for s in range(slots)]
        want = (sum(parts) if sum_slots else np.concatenate(parts))[None]
    else:
        want = np.stack([group(v[t], 0) for t in range(n)])
    if epilogue == ADD:
        want = want + before[:, :width]
    got = out.cpu().numpy()
    error = np.linalg.norm(got[:, :width] - want) / np.linalg.norm(want)
    untouched = np.array_equal(got[:, width:], before[:, width:])
    return error if untouched and np.isfinite(got).all() else float("inf")


def check(names, targets):
    bad = 0
    for name in names:
        rng = np.random.default_rng(len(name) + 7)
        worst = {}
        for target in targets:
            # n, columns, rows, prologue, epilogue, activation, bias, permuted
            cases = [(n, 1280, (96, 40, 24), RMS, STORE, 0, True, False) for n in (1, 2, 3, 4)]
            cases += [(1, 2816, (300,), PLAIN, ADD, 0, False, False), (2, 5632, (33,), PLAIN, ADD, 0, True, True),
                      (1, 1024, (200, 200), LAYER, GATED, 1, True, True), (4, 512, (40, 40), RMS, GATED, 3, False, False),
                      (1, 256, (2500,), LAYER, STORE, 2, False, False), (1, 13056, (37,), RMS, STORE, 4, False, False),
                      (1, 512, (64, 64), RMS, GATED, 1, True, False, 5, False), (1, 768, (50,), PLAIN, ADD, 0, True, False, 5, True)]
            if name in formats.FLOATS:
                cases += [(1, 20, (50,), RMS, STORE, 0, False, False), (3, 75, (50, 10), PLAIN, STORE, 0, False, True)]
            elif formats.FORMATS[name][0] == 32:
                cases += [(1, 96, (50,), RMS, STORE, 0, False, False), (2, 32, (3,), PLAIN, STORE, 0, False, False)]
            for case in cases:
                error = one_case(name, target, rng, *case)
                worst[target] = max(worst.get(target, 0), error)
                if not error < (2e-6 if name in formats.FLOATS else 5e-4):  # a code may round the other way
                    bad += 1
                    print("BAD", name, target, case, f"{error:.2e}", flush=True)
        print(f"{name:8}", " ".join(f"{t} {e:.1e}" for t, e in worst.items()), flush=True)
    print("all right" if not bad else f"{bad} BAD")
    return bad


def random_planes(name, rows, columns):
    """Planes of plausible random bytes, for timing."""
    out = []
    for size, values in planes(name):
        n = rows * columns // values * size
        plane = torch.randint(0, 256, ((n + 511) // 256 * 256,), dtype=torch.uint8, device="cuda")
        if size == 2 and name != "q6_K" or size == 16 and values != 32:  # f16 scales of about 2^-7
            plane[1::2] = (plane[1::2] & 0x83) | 0x20
        out.append(plane)
    return out


SHAPES = {  # name: rows of each matrix, columns, prologue, epilogue
    "7b": {"qkv": ((4096, 1024, 1024), 4096, RMS, STORE), "o": ((4096,), 4096, PLAIN, ADD),
           "gate_up": ((14336, 14336), 4096, RMS, GATED), "down": ((4096,), 14336, PLAIN, ADD)},
    "1.1b": {"qkv": ((2048, 256, 256), 2048, RMS, STORE), "o": ((2048,), 2048, PLAIN, ADD),
             "gate_up": ((5632, 5632), 2048, RMS, GATED), "down": ((2048,), 5632, PLAIN, ADD)},
}


class Timing:
    def __init__(self, name, shape, layers=0):
        self.name, self.layers = name, layers or (32 if shape == "7b" else 22)
        self.ops = dict(SHAPES[shape])
        hidden = 4096 if shape == "7b" else 2048
        self.x = torch.randn(4 * 32000, device="cuda")
        self.out = torch.zeros(4 * 32000, device="cuda")
        self.w = torch.ones(16384, device="cuda")
        self.weights = {op: [[random_planes(name, r, spec[1]) for r in spec[0]] for _ in range(self.layers)]
                        for op, spec in self.ops.items()}
        self.ops["head"] = ((32000,), hidden, RMS, STORE)
        self.weights["head"] = [[random_planes(name, 32000, hidden)] for _ in range(4)]

    def bytes(self, op):
        rows, columns, _, _ = self.ops[op]
        return sum(rows) * columns * sum(s / v for s, v in planes(self.name))

    def matrices(self, op, layer):
        rows, columns, _, _ = self.ops[op]
        return [([p.data_ptr() for p in m], r, columns) for m, r in zip(self.weights[op][layer], rows)]

    def launch(self, op, layer, following, target, n, overlap, budget, grids=1):
        rows, columns, prologue, epilogue = self.ops[op]
        a = Args()
        for i, (addresses, r, _) in enumerate(self.matrices(op, layer)):
            for p, address in enumerate(addresses):
                a.m[i].plane[p] = address
            a.m[i].rows, a.m[i].columns = r, columns
        a.x, a.out, a.norm_weight = self.x.data_ptr(), self.out.data_ptr(), self.w.data_ptr()
        a.x_stride = a.out_stride = 32000
        a.matrices, a.prologue, a.epilogue, a.activation = len(rows), prologue, epilogue, 1 if epilogue == GATED else 0
        a.slots, a.eps, a.x_scale = 1, 1e-5, 1.0
        if budget and following:
            ahead(a, self.name, self.matrices(*following), self.ops[following[0]][3] == GATED, budget)
        width = rows[0] if epilogue == GATED else sum(rows)
        grid, shared = geometry(self.name, width, columns, n, grids * SMS)
        block = int(target[5:]) if target.startswith("block") else BLOCK
        module(self.name, target).launch(f"matvec_{n}", grid, block, shared, a, overlap)

    def run(self, label, target="cubin", n=1, overlap=True, budget=0, grids=1):
        def chain(steps):
            for step, following in zip(steps, steps[1:] + steps[:1]):
                self.launch(*step, following, target, n, overlap, budget, grids)

        cells, ops = [], ["qkv", "o", "gate_up", "down"]
        for op in ops + ["head"]:
            layers = len(self.weights[op])
            t = seconds(graph(lambda: chain([(op, layer) for layer in range(layers)]))) / layers
            cells.append(f"{op} {t * 1e6:6.2f} us {self.bytes(op) / t / 1e9:5.0f}")
        t = seconds(graph(lambda: chain([(op, layer) for layer in range(self.layers) for op in ops] + [("head", 0)])))
        total = self.layers * sum(map(self.bytes, ops)) + self.bytes("head")
        print(f"{self.name:5} n={n} {label:24} " + "  ".join(cells) + f"  ALL {t * 1e6:7.1f} us {total / t / 1e9:5.0f} GB/s", flush=True)


def time_all():
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    t = seconds(graph(lambda: torch.sum(a.view(torch.int64))))
    print(f"sum {a.numel() / t / 1e9:.0f} GB/s (read)")
    del a
    MB = 1 << 20
    for name in ("q4_0", "q4_K", "q6_K", "q8_0", "nf4", "f16"):
        run = Timing(name, "7b")
        run.run("in order", overlap=False)
        run.run("overlap")
        for budget in (4, 8):
            run.run(f"overlap, {budget} MB ahead", budget=budget * MB)
        for target in sorted(p.suffix[1:] for p in here.glob(f"matvec_{name.lower()}.*")):
            if target != "cubin":
                run.run(f"{target}", target)
                run.run(f"{target}, 2 blocks", target, grids=2)
        for n in (2, 4) if name in ("q4_0", "q4_K") else (2,):
            run.run("overlap", n=n)
        del run
        torch.cuda.empty_cache()
    for name in ("q4_0", "q4_K", "f16"):
        run = Timing(name, "1.1b")
        run.run("in order", overlap=False)
        run.run("overlap")
        run.run("overlap, 12 MB ahead", budget=12 * MB)
        del run


if __name__ == "__main__":
    repack = Module(here / "repack.ptx")
    todo = sys.argv[1:] or ["check", "time"]
    print(torch.cuda.get_device_name(), SMS, "multiprocessors")
    bad = 0
    if "check" in todo:
        start = time.time()
        Module(here / "matvec_q4_0.ptx").function("matvec_1")
        print(f"the driver compiles matvec_q4_0 in {time.time() - start:.2f} s")
        bad = check(list(formats.FORMATS) + list(formats.FLOATS), ["cubin"])
    if "time" in todo:
        time_all()
    if "profile" in todo:  # for ncu: one launch of every op
        run = Timing("q4_0", "7b", 1)
        for op in ("qkv", "o", "gate_up", "down"):
            run.launch(op, 0, None, "cubin", 1, False, 0)
        torch.cuda.synchronize()
    sys.exit(bad != 0)
