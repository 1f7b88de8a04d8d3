"""Times attention and row kernels on a card, in graphs of 32 launches that stand for a model's layers.

Run by run.sh beside attention_check.py. Caches of all layers together exceed the L2. Times are medians; shares are of
COPY bytes per second, the rate of a large copy on the same card.
"""
import sys, math, os
import torch
from attention_device import *

D = torch.device("cuda")
TARGET = int(sys.argv[1])
QUICK = len(sys.argv) > 2
modules = {}


def module(name):
    if name not in modules:
        modules[name] = Module(f"{name}.{TARGET}.cubin")
    return modules[name]


def timed(body, repeat=20):
    """Median microseconds of a graph that holds what body launches."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    for _ in range(3):
        graph.replay()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)]
    for a, b in events:
        a.record(), graph.replay(), b.record()
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) for a, b in events)[repeat // 2] * 1e3


big = torch.empty(1 << 30, device=D, dtype=torch.uint8)
other = torch.empty_like(big)
for _ in range(200):
    other.copy_(big)
COPY = 2 * (1 << 30) / timed(lambda: other.copy_(big)) * 1e6
del big, other
print(f"{torch.cuda.get_device_name()} target {TARGET}: copy {COPY / 1e12:.2f} TB/s", flush=True)
LAYERS = 32


class Layers:
    def __init__(self, kind, heads, kv_heads, dim, context, n, layers=LAYERS):
        self.kind, self.heads, self.kv_heads, self.dim, self.n = kind, heads, kv_heads, dim, n
        self.row = up(dim, {"f16": 8, "f32": 4, "q8_0": 32}[kind])
        self.context, size = context, kv_heads * context * self.row
        def numbers():
            if kind == "q8_0":
                return torch.randint(-127, 128, (size,), device=D, dtype=torch.int8), torch.rand(size // 32, device=D).half() * 0.02
            return torch.randn(size, device=D, dtype=torch.half if kind == "f16" else torch.float), None
        self.caches = [numbers() + numbers() for _ in range(layers)]
        self.bytes = 2 * size * {"f16": 2, "f32": 4, "q8_0": 34 / 32}[kind] / context
        self.qkv = torch.randn(n, (heads + 2 * kv_heads) * dim, device=D)
        self.out = torch.empty(n, heads * dim, device=D)
        self.partial = torch.empty(1 << 26, device=D)
        self.arrived = torch.zeros(4096, device=D, dtype=torch.int32)
        self.position = torch.zeros(1, device=D, dtype=torch.int32)
        self.cos, self.sin = torch.rand(n, dim // 2, device=D), torch.rand(n, dim // 2, device=D)

    def fields(self, layer, splits):
        k, ks, v, vs = self.caches[layer]
        p, group, width = pointer(self.qkv), self.heads // self.kv_heads, self.qkv.shape[1]
        scales = dict(k_scales=ks, v_scales=vs) if ks is not None else {}
        return dict(q=p, k=p + 4 * self.heads * self.dim, v=p + 4 * (self.heads + self.kv_heads) * self.dim, q_token=width,
                    q_group=group * self.dim, kv_token=width, kv_group=self.dim, ck=k, cv=v, context=self.context, row=self.row,
                    out=self.out, position=self.position, partial=self.partial, arrived=self.arrived, n=self.n, heads=self.heads,
                    kv_heads=self.kv_heads, dim=self.dim, scale=1 / math.sqrt(self.dim), splits=splits, **scales)

    def rotated(self, layer, splits, **more):
        return RotatedAttentionArgs(**self.fields(layer, splits), cos=self.cos, sin=self.sin, pairs=self.dim // 2, **more)

    def decode(self, splits, dependent, early=1):
        d, r, shared = decode_shape(self.dim, self.n * self.heads // self.kv_heads)
        for layer in range(len(self.caches)):
            module("attention_decode").launch(f"attention_decode_{self.kind}_{d}_{r}", self.rotated(layer, splits, early=early),
                (splits, self.kv_heads, -(-self.n * self.heads // self.kv_heads // r)), 256, shared, dependent)

    def wgmma(self, groups, splits=1):
        p = WgmmaShape(self.dim, groups)
        blocks = -(-self.n * (self.heads // self.kv_heads) // p.rows)
        for layer in range(len(self.caches)):
            module(f"attention_wgmma_{p.dim}_{groups}").launch(f"attention_wgmma_{self.kind}", AttentionArgs(**self.fields(layer, splits)),
                (blocks, self.kv_heads, splits), p.threads, p.shared[self.kind])

    def exact(self, splits):
        d, r, shared = exact_shape(self.dim)
        for layer in range(len(self.caches)):
            module("attention_exact").launch(f"attention_exact_{d}", AttentionArgs(**self.fields(layer, splits)),
                (-(-self.n * (self.heads // self.kv_heads) // r), self.kv_heads, splits), 128, shared, False)

    def store(self):
        for layer in range(len(self.caches)):
            module("rope_store").launch(f"rope_store_{self.kind}", self.rotated(layer, 1), store_grid(self.heads, self.kv_heads, self.dim, self.n), 256)


# The floor of a chain of launches.
x = torch.zeros(1024, device=D)
def chain(dependent):
    for _ in range(64):
        module("rows").launch("rows_softcap", MapArgs(x=x, n=1, width=1024, x_stride=1024, value=1.0), (1, 1), 256, 0, dependent)
print(f"a launch in a chain of tiny kernels: {timed(lambda: chain(False)) / 64:.2f} us, dependent {timed(lambda: chain(True)) / 64:.2f} us", flush=True)

print("decode: us a layer, share of the copy rate; splits: plain | dependent | dependent and early", flush=True)
shapes = [(32, 8, 128, 1), (32, 4, 64, 1), (32, 32, 128, 1), (16, 8, 256, 1), (32, 8, 128, 4)]
for heads, kv, dim, n in shapes[:1] if QUICK else shapes:
    for kind in ("f16", "q8_0"):
        for depth in (64, 200, 512, 1024, 4096, 16384):
            if (heads, kv, dim, n) != shapes[0] and depth not in (200, 4096):
                continue
            layers = Layers(kind, heads, kv, dim, depth + 16, n, 8 if depth * kv > 60000 else LAYERS)
            layers.position.fill_(depth - n)
            count, line = len(layers.caches), ""
            floor = layers.bytes * depth / COPY * 1e6
            for splits in (max(1, 132 // kv), max(1, 264 // kv)):
                times = [timed(lambda: layers.decode(splits, dependent, early)) / count for dependent, early in ((False, 0), (True, 0), (True, 1))]
                line += f"  {splits}: " + " | ".join(f"{t:.2f} ({100 * floor / t:.0f}%)" for t in times)
            print(f"  {heads}/{kv} x {dim} n {n} {kind} depth {depth}: floor {floor:.2f}{line}", flush=True)
            del layers
print("prompt: us a layer, TFLOP/s (causal half counted): blocks of 64 rows | of 128", flush=True)
for heads, kv, dim in ([(32, 8, 128)] if QUICK else [(32, 8, 128), (32, 32, 128), (32, 4, 64), (16, 8, 256), (32, 32, 80)]):
    for n in (128, 512, 1024, 2048, 4096):
        line, work = "", 4 * heads * dim * n * (n + 1) / 2 / 1e6
        for kind in ("f16", "q8_0"):
            layers = Layers(kind, heads, kv, dim, n, n, 4)
            times = [timed(lambda: layers.wgmma(g)) / 4 for g in (1, 2)]
            line += f"  {kind} " + " | ".join(f"{t:.1f} us {work / t:.0f}" for t in times)
        if (heads, kv, dim) == (32, 8, 128):
            line += f"  store {timed(layers.store) / 4:.1f} us"
        q, k, v = (torch.randn(1, heads, n, dim, device=D, dtype=torch.half) for _ in range(3))
        t = timed(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        print(f"  {heads}/{kv} x {dim} n {n}:{line}  torch {t:.1f} us {work / t:.0f}", flush=True)
for n, depth in ((8, 4096), (16, 4096), (64, 4096), (512, 4096)):
    layers = Layers("f16", 32, 8, 128, depth, n, 8)
    layers.position.fill_(depth - n)
    print(f"  prompt n {n} at depth {depth}: " + "  ".join(f"splits {s} {timed(lambda: layers.wgmma(1, s)) / 8:.1f} us" for s in ((1, 4, 16, 32) if n < 512 else (1, 2))), flush=True)
layers = Layers("f32", 32, 8, 128, 512, 512, 4)
print(f"exact n 512: {timed(lambda: layers.exact(1)) / 4:.1f} us")
layers = Layers("f32", 32, 8, 128, 4096, 1, 8)
layers.position.fill_(4095)
print(f"exact n 1 depth 4096: {timed(lambda: layers.exact(16)) / 8:.1f} us  32 splits {timed(lambda: layers.exact(32)) / 8:.1f}")
width = 4096
for n in (1, 512):
    xs, y, out, w = (torch.randn(n, width, device=D) for _ in range(3)), 0, 0, torch.randn(width, device=D)
    x, y, out = xs
    args = AddNormArgs(x=x, y=y, weight=w, out=out, n=n, width=width, kind=1, eps=1e-5)
    t = timed(lambda: [module("rows").launch("rows_add_norm", args, (n,), 1024) for _ in range(32)]) / 32
    g = torch.randn(n, 2 * 14336, device=D)
    h = torch.empty(n, 14336, device=D)
    a = MapArgs(x=h, y=g, z=pointer(g) + 4 * 14336, n=n, width=14336, x_stride=14336, y_stride=28672, z_stride=28672)
    t2 = timed(lambda: [module("rows").launch("rows_activate_mul", a, (14, n), 256) for _ in range(32)]) / 32
    print(f"rows n {n}: add_norm 4096 {t:.2f} us, activate_mul 14336 {t2:.2f} us")
logits, target = torch.randn(512, 32000, device=D), torch.zeros(512, dtype=torch.int32, device=D)
lse, top, tl = torch.empty(512, device=D, dtype=torch.double), target.clone(), torch.empty(512, device=D)
a = StatisticsArgs(logits=logits, target=target, log_sum_exp=lse, target_logit=tl, largest=top, stride=32000, rows=512, vocab=32000)
b = KlArgs(reference=logits, logits=logits, divergence=lse, reference_stride=32000, stride=32000, rows=512, vocab=32000)
print(f"statistics 512 x 32000: {timed(lambda: module('statistics').launch('statistics_rows', a, (512,), 512)):.1f} us, kl {timed(lambda: module('statistics').launch('statistics_kl', b, (512,), 512)):.1f} us")
