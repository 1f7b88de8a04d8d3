"""Checks attention, rope_store, row, expert and statistics kernels against f64 on a card.

    tools/cuda/attention_build.sh DIR      here: PTX of every module, and these scripts, into DIR
    bash run.sh                            there: assembles for the card, runs this and attention_time.py

Random shapes; caches and outputs are poisoned with NaN, so that a read beyond the text or an unwritten output shows.
"""
import sys, random, math, time
import torch
from attention_device import *

D = torch.device("cuda")
TARGET = int(sys.argv[1])  # of the PTX that was assembled: 75, 80, 90
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1
CASES = int(sys.argv[3]) if len(sys.argv) > 3 else 150
random.seed(SEED), torch.manual_seed(SEED)
modules = {}


def module(name):
    if name not in modules:
        modules[name] = Module(f"{name}.{TARGET}.cubin")
    return modules[name]


class Cache:
    def __init__(self, kind, kv_heads, context, dim):
        self.kind, self.kv_heads, self.context, self.dim = kind, kv_heads, context, dim
        self.row = up(dim, {"f16": 8, "f32": 4, "q8_0": 32}[kind])
        size = kv_heads * context * self.row
        poison = lambda n, dtype: torch.full((n,), float("nan"), device=D, dtype=dtype)
        if kind == "q8_0":
            self.k, self.v = (torch.full((size,), 77, device=D, dtype=torch.int8) for _ in range(2))
            self.ks, self.vs = (poison(size // 32, torch.half) for _ in range(2))
        else:
            dtype = torch.half if kind == "f16" else torch.float
            self.k, self.v, self.ks, self.vs = poison(size, dtype), poison(size, dtype), None, None

    def fields(self):
        scales = dict(k_scales=self.ks, v_scales=self.vs) if self.ks is not None else {}
        return dict(ck=self.k, cv=self.v, context=self.context, row=self.row, **scales)

    def read(self, which, end):
        x = {"k": self.k, "v": self.v}[which].view(self.kv_heads, self.context, self.row)[:, :end].double()
        if self.kind == "q8_0":
            s = {"k": self.ks, "v": self.vs}[which].view(self.kv_heads, self.context, -1)[:, :end].double()
            x = x * s.repeat_interleave(32, dim=2)
        assert bool((x[..., self.dim:] == 0).all()), "padding of the cache"
        return x[..., :self.dim]


def encode(x, kind, row):
    """What the cache should hold of x [..., dim]."""
    if kind == "f16":
        return x.half().double()
    if kind == "f32":
        return x.float().double()
    dim = x.shape[-1]
    x = torch.nn.functional.pad(x, (0, row - dim)).unflatten(-1, (-1, 32))
    d = (x.abs().amax(-1, keepdim=True).float() / 127).half().double()
    codes = torch.where(d > 0, (x / d).round().clamp(-127, 127), torch.zeros_like(x))
    return (codes * d).flatten(-2)[..., :dim]


def rotated(x, cos, sin, pairs, interleaved, norm, weight, eps):
    """x [n][heads][dim] in f64."""
    if norm:
        mean = x.mean(-1, keepdim=True) if norm == 2 else 0
        x = (x - mean) / ((x - mean).pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight
    y = x.clone()
    a, b = (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)) if interleaved else (slice(0, pairs), slice(pairs, 2 * pairs))
    c, s = cos[:, None], sin[:, None]
    y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., a] * s + x[..., b] * c
    return y


def reference(q, k, v, first, scale, window, softcap):
    n, heads, dim = q.shape
    kv_heads, length, _ = k.shape
    q = q.view(n, kv_heads, heads // kv_heads, dim)
    s = torch.einsum("ngjd,gpd->gjnp", q, k) * scale
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    at = torch.arange(length, device=D)
    end = first + 1 + torch.arange(n, device=D)[:, None]
    seen = at < end
    if window:
        seen &= at >= end - window
    s = s.masked_fill(~seen, -math.inf).softmax(-1)
    return torch.einsum("gjnp,gpd->ngjd", s, v).reshape(n, heads, dim)


def error(got, expected):
    if got.isnan().any():
        return math.nan
    rows = (got.double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp_min(1e-30)
    return rows.max().item()


class Batch:
    """q, k, v of n tokens in one of the layouts, with what rotation needs."""

    def __init__(self, n, heads, kv_heads, dim, layout, size=1.0):
        group = heads // kv_heads
        self.q, self.k, self.v = (torch.randn(n, h, dim, device=D) * size for h in (heads, kv_heads, kv_heads))
        if layout == "apart":
            self.memory = [self.q.clone(), self.k.clone(), self.v.clone()]
            at = [pointer(x) for x in self.memory]
            self.strides = (heads * dim, group * dim, kv_heads * dim, dim)
        elif layout == "joined":
            self.memory = [torch.cat([x.flatten(1) for x in (self.q, self.k, self.v)], 1).contiguous()]
            p = pointer(self.memory[0])
            at = [p, p + 4 * heads * dim, p + 4 * (heads + kv_heads) * dim]
            self.strides = ((heads + 2 * kv_heads) * dim, group * dim, (heads + 2 * kv_heads) * dim, dim)
        else:
            self.memory = [torch.cat([self.q.view(n, kv_heads, group, dim), self.k[:, :, None], self.v[:, :, None]], 2).contiguous()]
            p = pointer(self.memory[0])
            at = [p, p + 4 * group * dim, p + 4 * (group + 1) * dim]
            self.strides = ((heads + 2 * kv_heads) * dim, (group + 2) * dim) * 2
        self.at = at

    def fields(self):
        s = self.strides
        return dict(q=self.at[0], k=self.at[1], v=self.at[2], q_token=s[0], q_group=s[1], kv_token=s[2], kv_group=s[3])

    def read_q(self, heads, dim):
        n, group = self.q.shape[0], heads * dim // max(1, dim) // self.k.shape[1]
        out = torch.empty_like(self.q)
        flat = self.memory[0].flatten()
        for h in range(heads):
            start = (h // group) * self.strides[1] + h % group * dim
            index = start + torch.arange(n, device=D)[:, None] * self.strides[0] + torch.arange(dim, device=D)
            out[:, h] = flat[index]
        return out


def one(dim, kind, path, big=False):
    kv_heads = random.choice([1, 1, 2, 3, 4, 8])
    group = random.choice([1, 1, 2, 3, 4, 4, 7, 8, 16, 20] if kv_heads < 4 else [1, 2, 4])
    heads = kv_heads * group
    n = random.choice([1, 1, 1, 2, 3, 4]) if path == "decode" else random.choice([1, 2, 5, 17, 33, 64, 100, 257])
    first = random.choice([0, 0, 1, 7, 40, 100, 255, 256, 300, 511, 1000, 2100] + ([5000] if big else []))
    window = random.choice([0, 0, 0, 1, 5, 64, 130, 600])
    softcap = random.choice([0, 0, 0, 5.0, 30.0])
    scale = random.choice([1.0, 1.0, 2.5]) / math.sqrt(dim)
    layout = random.choice(["apart", "joined", "grouped"])
    pairs = random.choice([dim // 2, dim // 2, dim // 4, 0])
    interleaved, norm = random.random() < 0.4, random.choice([0, 0, 1, 2])
    per_head, eps = random.random() < 0.5, 1e-5
    splits = random.choice([1, 2, 5, 16, 33])
    stored = path != "decode" or random.random() < 0.3
    size = random.choice([1.0, 3.0])
    what = (f"{path} {kind} dim {dim} heads {heads}/{kv_heads} n {n} first {first} window {window} cap {softcap} {layout} "
            f"pairs {pairs} inter {int(interleaved)} norm {norm} splits {splits} stored {int(stored)}")
    total = first + n
    cache = Cache(kind, kv_heads, total + random.choice([0, 3, 50]), dim)
    weights = [torch.rand(h if per_head else 1, dim, device=D) + 0.5 for h in (heads, kv_heads)]
    angles = torch.rand(total, max(pairs, 1), device=D, dtype=torch.float64) * 6.3
    cos, sin = angles.cos().float()[:, :pairs].contiguous(), angles.sin().float()[:, :pairs].contiguous()
    rope = dict(q_norm=weights[0], k_norm=weights[1], pairs=pairs, interleaved=int(interleaved), norm=norm,
                q_norm_stride=dim if per_head else 0, k_norm_stride=dim if per_head else 0, eps=eps)
    shape = dict(heads=heads, kv_heads=kv_heads, dim=dim, scale=scale, softcap=softcap, window=window)

    def store(batch, at, count, position):
        args = RotatedAttentionArgs(**batch.fields(), **cache.fields(), **shape, **rope, position=position, n=count,
                                    cos=cos[at:], sin=sin[at:])
        module("rope_store").launch(f"rope_store_{kind}", args, store_grid(heads, kv_heads, dim, count), 256)

    if first:
        history = Batch(first, heads, kv_heads, dim, "joined", size)
        store(history, 0, first, torch.zeros(1, dtype=torch.int32, device=D))
    batch = Batch(n, heads, kv_heads, dim, layout, size)
    position = torch.tensor([first], dtype=torch.int32, device=D)
    out = torch.full((n, heads, dim), math.nan, device=D)
    if stored:
        store(batch, first, n, position)
    common = dict(**batch.fields(), **cache.fields(), **shape, out=out, position=position, n=n, splits=splits)
    arrived = torch.zeros(4096, dtype=torch.int32, device=D)
    rows = n * group
    if path == "decode":
        d, r, shared = decode_shape(dim, rows)
        blocks = -(-rows // r)
        partial = torch.full((kv_heads * blocks * splits * r * (d + 2),), math.nan, device=D)
        args = RotatedAttentionArgs(**common, **rope, cos=cos[first:], sin=sin[first:], partial=partial, arrived=arrived,
                                    stored=int(stored), early=random.randint(0, 1))
        call = lambda: module("attention_decode").launch(f"attention_decode_{kind}_{d}_{r}", args, (splits, kv_heads, blocks), 256, shared)
    else:
        exact = path == "exact"
        groups = random.choice([1, 2])
        wgmma = path == "wgmma"
        p = None if exact else WgmmaShape(dim, groups) if wgmma else PromptShape(dim, TARGET)
        d, r, shared = exact_shape(dim) if exact else (p.padded, p.rows, p.shared[kind])
        blocks = -(-rows // r)
        partial = torch.full((kv_heads * blocks * splits * r * (d + 2),), math.nan, device=D)
        args = AttentionArgs(**common, partial=partial, arrived=arrived)
        name, block, m = (f"attention_exact_{d}", 128, "attention_exact") if exact else (f"attention_prompt_{kind}", p.threads, f"attention_prompt_{p.dim}")
        if wgmma:
            name, m = f"attention_wgmma_{kind}", f"attention_wgmma_{p.dim}_{groups}"
        call = lambda: module(m).launch(name, args, (blocks, kv_heads, splits), block, shared)
    try:
        call()
        torch.cuda.synchronize()
    except Exception:
        print("FAIL at", what, flush=True)
        raise
    assert int(arrived.abs().sum()) == 0, what + ": arrivals left"
    w = [x.double() for x in weights]
    c, s = cos.double(), sin.double()
    qr = rotated(batch.q.double(), c[first:], s[first:], pairs, interleaved, norm, w[0], eps)
    kr = rotated(batch.k.double(), c[first:], s[first:], pairs, interleaved, norm, w[1], eps)
    k, v = cache.read("k", total), cache.read("v", total)
    # The cache: rounding may fall the other way where f32 arithmetic differs.
    tolerance = {"f16": 6e-4, "f32": 2e-6, "q8_0": 8e-3}[kind]
    for got, want in ((k, kr), (v, batch.v.double())):
        e = error(got[:, first:].transpose(0, 1), encode(want, kind, cache.row))
        assert e < tolerance, f"{what}: cache {e}"
    if first:
        e = error(v[:, :first].transpose(0, 1), encode(history.v.double(), kind, cache.row))
        assert e < tolerance, f"{what}: history {e}"
        kh = rotated(history.k.double(), c[:first], s[:first], pairs, interleaved, norm, w[1], eps)
        assert error(k[:, :first].transpose(0, 1), encode(kh, kind, cache.row)) < tolerance, what + ": history"
    if stored:
        e = error(batch.read_q(heads, dim), qr)
        assert e < 3e-6, f"{what}: q {e}"
    e = error(out, reference(qr, k, v, first, scale, window, softcap))
    first_out = out.clone()
    out.fill_(math.nan)
    call()
    torch.cuda.synchronize()
    return what, e, bool((out == first_out).all())


def attention():
    worst = {}
    dims = [8, 16, 20, 32, 48, 64, 64, 72, 80, 96, 112, 128, 128, 128, 160, 192, 256]
    bad = 0
    for i in range(CASES):
        path = ["decode", "prompt" if TARGET < 90 else "wgmma", "decode", "exact"][i % 4]
        kind = "f32" if path == "exact" else random.choice(["f16", "q8_0"])
        dim = random.choice(dims)
        try:
            what, e, same = one(dim, kind, path, big=i % 10 == 0)
        except AssertionError as failure:
            print("FAIL", failure, flush=True)
            bad += 1
            continue
        limit = {"decode": 2e-5 if kind == "f16" else 3e-3, "prompt": 6e-3, "wgmma": 6e-3, "exact": 2e-5}[path]
        worst[path, kind] = max(worst.get((path, kind), 0), e)
        if not e < limit or not same:
            print(f"FAIL {e:.2e} same {same} {what}", flush=True)
            bad += 1
    print(f"target {TARGET}: {CASES} attention cases, {bad} failed; worst row errors", {" ".join(k): f"{v:.1e}" for k, v in worst.items()}, flush=True)


def close(name, got, expected, limit):
    e = error(got.reshape(got.shape[0], -1), expected.double().reshape(got.shape[0], -1))
    if not e < limit:
        print(f"FAIL {name}: {e}", flush=True)
    return e


def poisoned(*shape, dtype=torch.float):
    return torch.full(shape, math.nan, device=D, dtype=dtype)


def norm_of(x, kind, weight, bias, eps=1e-5):
    x = x.double()
    mean = x.mean(-1, keepdim=True) if kind == 2 else 0
    y = (x - mean) / ((x - mean).pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    return y + bias.double() if bias is not None else y


def rows():
    m = module("rows")
    worst = 0
    for n, width in [(1, 8), (3, 4096), (5, 129), (2, 8192), (3, 11008), (7, 1000), (2, 20000)]:
        x, y, z = (torch.randn(n, width, device=D) * 2 + 0.3 for _ in range(3))
        w, b, w2 = (torch.randn(width, device=D) for _ in range(3))
        for kind, bias in ((1, None), (2, None), (2, b)):
            extra = dict(bias=bias) if bias is not None else {}
            out = poisoned(n, width)
            m.launch("rows_norm", NormArgs(x=x, weight=w, out=out, n=n, width=width, stride=width, out_stride=width, kind=kind, eps=1e-5, **extra), (n,), 1024)
            worst = max(worst, close("norm", out, norm_of(x, kind, w, bias), 2e-6))
            own = x.clone()
            m.launch("rows_norm", NormArgs(x=own, weight=w, out=own, n=n, width=width, stride=width, out_stride=width, kind=kind, eps=1e-5, **extra), (n,), 1024)
            assert (own == out).all(), "norm in place"
            for post in (0, 1):
                for then in ("other", "same", "none"):
                    sx, sy, out = x.clone(), y.clone(), poisoned(n, width)
                    fields = dict(y_weight=w2) if post else {}
                    if then != "none":
                        fields.update(weight=w, out=sx if then == "same" else out, **extra)
                    m.launch("rows_add_norm", AddNormArgs(x=sx, y=sy, n=n, width=width, kind=kind, eps=1e-5, **fields), (n,), 1024)
                    total = x.double() + (norm_of(y, kind, w2, None) if post else y.double())
                    if then == "same":
                        close("add norm same", sx, norm_of(total, kind, w, bias), 3e-6)
                    else:
                        close("add", sx, total, 1e-6)
                        if then == "other":
                            close("add norm", out, norm_of(total, kind, w, bias), 3e-6)
        grid = (-(-width // 1024), n)
        s = dict(n=n, width=width, x_stride=width, y_stride=width, z_stride=width)
        gelu = torch.nn.functional.gelu
        acts = [torch.nn.functional.silu, gelu, lambda t: gelu(t, approximate="tanh"), torch.relu]
        both = torch.cat([y, z], 1).contiguous()
        for a, f in enumerate(acts):
            own = x.clone()
            m.launch("rows_activate", MapArgs(x=own, activation=a, **s), grid, 256)
            close(f"act {a}", own, f(x.double()), 1e-6)
            out = poisoned(n, width)
            m.launch("rows_activate_mul", MapArgs(x=out, y=both, z=pointer(both) + 4 * width, activation=a, **{**s, "y_stride": 2 * width, "z_stride": 2 * width}), grid, 256)
            close(f"act mul {a}", out, f(y.double()) * z.double(), 1e-6)
        order = torch.randperm(width, device=D, dtype=torch.int32)
        for name, want, fields in [
            ("add", x.double() + y, dict(y=y)),
            ("softcap", 3 * torch.tanh(x.double() / 3), dict(value=3.0)),
            ("permute", y.double()[:, order.long()], dict(y=y, order=order))]:
            own = x.clone()
            m.launch(f"rows_{name}", MapArgs(x=own, **fields, **s), grid, 256)
            close(name, own, want, 1e-6)
    torch.cuda.synchronize()
    print(f"rows: worst norm {worst:.1e}", flush=True)


def experts():
    m = module("experts")
    for n, count, used, normalized, width in [(1, 8, 2, 1, 96), (5, 60, 4, 0, 1500), (300, 128, 8, 1, 256), (64, 8, 2, 1, 4096), (9, 4, 4, 0, 33), (40, 256, 8, 1, 64)]:
        logits = (torch.randn(n, count, device=D) * 2)
        logits[0] = (logits[0] * 1).round()  # ties
        expert = torch.full((n, used), -1, device=D, dtype=torch.int32)
        share = poisoned(n, used)
        m.launch("experts_route", RouteArgs(logits=logits, expert=expert, share=share, n=n, count=count, used=used, normalized=normalized, scale=1.0),
                 (n,), 32)
        p = torch.softmax(logits.double(), -1)
        order = torch.argsort(p.float(), dim=-1, descending=True, stable=True)[:, :used]
        chosen = order.sort(-1)[0]
        want = p.gather(1, chosen)
        if normalized:
            want = want / want.sum(-1, keepdim=True)
        agree = (expert.long() == chosen).all(-1)
        if agree.float().mean() < 0.99 or not agree[0]:
            print(f"FAIL route {n} {count} {used}: {agree.float().mean()} {expert[0]} {chosen[0]}")
            continue
        close("share", share[agree], want[agree], 2e-6)
        first = torch.full((count + 1,), -1, device=D, dtype=torch.int32)
        token, slot = (torch.full((n * used,), -1, device=D, dtype=torch.int32) for _ in range(2))
        slot_share = poisoned(n * used)
        m.launch("experts_group", GroupArgs(expert=expert, share=share, first=first, token=token, slot=slot, slot_share=slot_share, n=n, count=count, used=used), (1,), 1024, 8 * count)
        flat = expert.flatten().long()
        by = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=count)
        assert (first[1:].long() == counts.cumsum(0)).all() and first[0] == 0, "first"
        assert (token.long() == by // used).all() and (slot_share == share.flatten()[by]).all(), "tokens"
        x, made, out = torch.randn(n, width, device=D), torch.randn(n * used, width, device=D), poisoned(n, width)
        rows = poisoned(n * used, width)
        grid = -(-width // 1024)
        m.launch("experts_gather", MoveArgs(x=x, rows=rows, token=token, width=width), (grid, n * used), 256)
        assert (rows == x[token.long()]).all(), "gather"
        m.launch("experts_combine", MoveArgs(x=out, rows=made, slot=slot, share=share, width=width, used=used), (grid, n), 256)
        expected = torch.zeros(n, width, device=D, dtype=torch.float64).index_add_(0, token.long(), made.double() * slot_share.double()[:, None])
        close("combine", out, expected, 1e-6)
        step = torch.zeros(n, width, device=D)
        at = first.tolist()
        for e in range(count):
            if at[e + 1] > at[e]:
                m.launch("experts_scatter", MoveArgs(x=step, rows=pointer(made) + 4 * width * at[e], token=pointer(token) + 4 * at[e], share=pointer(slot_share) + 4 * at[e], width=width), (grid, at[e + 1] - at[e]), 256)
        assert (step == out).all(), "scatter is combine"
    torch.cuda.synchronize()
    print("experts: done", flush=True)


def statistics():
    m = module("statistics")
    for n, vocab, stride in [(1, 7, 7), (5, 32000, 32000), (3, 50257, 50304), (130, 1000, 1000)]:
        x, r = (torch.randn(n, stride, device=D) * 4 for _ in range(2))
        x[0, vocab // 2] = x[0, vocab - 1] = 30.0
        target = torch.randint(vocab, (n,), device=D, dtype=torch.int32)
        lse, logit, top = poisoned(n, dtype=torch.double), poisoned(n), torch.full((n,), -1, device=D, dtype=torch.int32)
        m.launch("statistics_rows", StatisticsArgs(logits=x, target=target, log_sum_exp=lse, target_logit=logit, largest=top, stride=stride, rows=n, vocab=vocab), (n,), 512)
        own, ref = x[:, :vocab].double(), r[:, :vocab].double()
        close("lse", lse, torch.logsumexp(own, -1), 1e-7)
        assert (logit == x.gather(1, target.long()[:, None])[:, 0]).all() and top[0] == vocab // 2, "statistics"
        assert (own.gather(1, top.long()[:, None])[:, 0] == own.amax(-1)).all(), "largest"
        kl = poisoned(n, dtype=torch.double)
        m.launch("statistics_kl", KlArgs(reference=r, logits=x, divergence=kl, reference_stride=stride, stride=stride, rows=n, vocab=vocab), (n,), 512)
        lp, lq = ref.log_softmax(-1), own.log_softmax(-1)
        close("kl", kl, (lp.exp() * (lp - lq)).sum(-1), 1e-6)
        x[0, 3] = math.nan
        m.launch("statistics_rows", StatisticsArgs(logits=x, target=target, log_sum_exp=lse, target_logit=logit, largest=top, stride=stride, rows=n, vocab=vocab), (n,), 512)
        assert lse[0].isnan(), "NaN shows"
    print("statistics: done", flush=True)


start = time.time()
for part in (rows, experts, statistics, attention):
    try:
        part()
    except Exception as failure:
        print("FAIL", part.__name__, type(failure).__name__, failure, flush=True)
print(f"{time.time() - start:.1f} s", flush=True)
