#!/usr/bin/env python3
"""Tests and times the matrix product kernels (crates/compute/kernels/{prepare,matmul_wgmma,matmul,matmul_f32}.cu).

Here, where NVRTC 12.4 is:   python3 tools/cuda/test_matmul.py pack DIR [--formats Q4_0,F16,...] [--archs 90a,80,75]
On a machine with a card:    python3 test_matmul.py run [check,time]       (in DIR; needs torch)

`pack` compiles every module to PTX and copies this file beside. `run` loads the PTX through the driver, checks results
against torch in float64 with poisoned outputs for odd shapes, then times 7B shapes with weights that rotate past L2."""
import ctypes, gzip, json, os, shutil, struct, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

# Planes of a format: bytes, for how many values, what is in them (r random bytes, h halfs, k two halfs and 12 random bytes,
# x one half and 6 random bytes, e exponents, s small UE4M3 scales, m iq1_m's header).
PLANES = {
    'Q4_0': [(16, 32, 'r'), (2, 32, 'h')], 'Q4_1': [(16, 32, 'r'), (4, 32, 'h')],
    'Q5_0': [(16, 32, 'r'), (4, 32, 'r'), (2, 32, 'h')], 'Q5_1': [(16, 32, 'r'), (4, 32, 'r'), (4, 32, 'h')],
    'Q8_0': [(16, 32, 'r'), (16, 32, 'r'), (2, 32, 'h')], 'IQ4_NL': [(16, 32, 'r'), (2, 32, 'h')],
    'NF4': [(16, 32, 'r'), (2, 32, 'h')], 'FP4': [(16, 32, 'r'), (2, 32, 'h')],
    'MXFP4': [(16, 32, 'r'), (1, 32, 'e')], 'NVFP4': [(16, 32, 'r'), (2, 32, 's')],
    'Q2_K': [(8, 32, 'r'), (2, 32, 'r'), (4, 256, 'h')],
    'Q3_K': [(8, 32, 'r'), (4, 32, 'r'), (1, 32, 'r'), (4, 256, 'r'), (2, 256, 'h')],
    'Q4_K': [(16, 32, 'r'), (16, 256, 'k')], 'Q5_K': [(16, 32, 'r'), (4, 32, 'r'), (16, 256, 'k')],
    'Q6_K': [(16, 32, 'r'), (8, 32, 'r'), (2, 32, 'r'), (2, 256, 'h')], 'IQ4_XS': [(16, 32, 'r'), (8, 256, 'x')],
    'TQ2_0': [(8, 32, 'r'), (2, 256, 'h')], 'TQ1_0': [(8, 32, 'r'), (2, 256, 'h')],
    'Q1_0': [(4, 32, 'r'), (2, 128, 'h')], 'Q2_0': [(8, 32, 'r'), (2, 64, 'h')],
    'IQ2_XXS': [(8, 32, 'r'), (2, 256, 'h')], 'IQ2_XS': [(8, 32, 'r'), (1, 32, 'r'), (2, 256, 'h')],
    'IQ2_S': [(8, 32, 'r'), (2, 32, 'r'), (2, 256, 'h')], 'IQ3_XXS': [(8, 32, 'r'), (4, 32, 'r'), (2, 256, 'h')],
    'IQ3_S': [(8, 32, 'r'), (4, 32, 'r'), (1, 32, 'r'), (4, 256, 'r'), (2, 256, 'h')],
    'IQ1_S': [(4, 32, 'r'), (2, 32, 'r'), (2, 256, 'h')], 'IQ1_M': [(4, 32, 'r'), (2, 32, 'r'), (8, 256, 'm')],
    'F16': [(64, 32, 'w')], 'BF16': [(64, 32, 'b')],
}
COMMON = ['Q4_0', 'Q4_K', 'Q6_K', 'Q8_0', 'NF4', 'F16', 'BF16']
HERE = os.path.dirname(os.path.abspath(__file__))


def pack(folder, formats, archs, ptx_formats):
    kernels = os.path.join(HERE, '../../crates/compute/kernels')
    nvrtc = os.path.join(HERE, 'nvrtc.py')
    os.makedirs(folder, exist_ok=True)

    def ptx(source, arch, out, *more):
        command = [sys.executable, nvrtc, source, arch, '-o', os.path.join(folder, out), '-I', kernels, *more]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f'{source} {more}: {done.stdout}{done.stderr}')
        path = os.path.join(folder, out)
        open(path + '.gz', 'wb').write(gzip.compress(open(path, 'rb').read()))
        os.remove(path)

    ptx(f'{kernels}/prepare.cu', 'compute_75', 'prepare.ptx')
    if os.path.exists(f'{kernels}/matmul_f32.cu'):
        ptx(f'{kernels}/matmul_f32.cu', 'compute_75', 'matmul_f32.ptx')
    for f in formats:
        ptx(f'{HERE}/matmul_reference.cu', 'compute_75', f'reference_{f}.ptx', '-D', f'FORMAT={f}') if f not in ('F16', 'BF16') else None
        for a in archs:
            if a != '90a' and f not in ('Q4_0', 'F16', 'Q4_K', 'BF16', 'IQ2_XS'):
                continue
            source = 'matmul_wgmma.cu' if a == '90a' else 'matmul.cu'
            target = 'compute' if f in ptx_formats or a != '90a' else 'sm'  # what the others' PTX would become, without the wait
            ptx(f'{kernels}/{source}', f'{target}_{a}', f'matmul_{f}_{a}.ptx', '-D', f'FORMAT={f}')
    shutil.copy(os.path.abspath(__file__), folder)
    json.dump({'formats': formats, 'archs': archs}, open(f'{folder}/pack.json', 'w'))


# ---- below: on the machine with a card ----

class Driver:
    def __init__(self):
        self.cu = ctypes.CDLL('libcuda.so.1')
        self.context = ctypes.c_void_p()
        self.check(self.cu.cuCtxGetCurrent(ctypes.byref(self.context)), 'context')

    def check(self, r, what):
        if r:
            name = ctypes.c_char_p()
            self.cu.cuGetErrorString(r, ctypes.byref(name))
            raise SystemExit(f'{what}: CUDA error {r} {name.value}')

    def load(self, path):
        log = ctypes.create_string_buffer(8192)
        options = (ctypes.c_int * 2)(5, 6)  # CU_JIT_ERROR_LOG_BUFFER, its size
        values = (ctypes.c_void_p * 2)(ctypes.cast(log, ctypes.c_void_p), 8192)
        module = ctypes.c_void_p()
        self.cu.cuCtxSetCurrent(self.context)
        r = self.cu.cuModuleLoadDataEx(ctypes.byref(module), gzip.open(path + '.gz').read() + b'\0', 2, options, values)
        if r:
            print(log.value.decode())
        self.check(r, path)
        return module

    def function(self, module, name, shared=0):
        f = ctypes.c_void_p()
        self.check(self.cu.cuModuleGetFunction(ctypes.byref(f), module, name.encode()), name)
        if shared > 48 * 1024:
            self.check(self.cu.cuFuncSetAttribute(f, 8, shared), f'{name}: shared memory')
        return f

    def launch(self, f, grid, block, shared, *args):
        import torch
        pointers = (ctypes.c_void_p * len(args))(*[ctypes.addressof(a) for a in args])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        x, y = grid if isinstance(grid, tuple) else (grid, 1)
        r = self.cu.cuLaunchKernel(f, x, y, 1, block, 1, 1, shared, stream, pointers, None)
        self.check(r, 'launch')


def blob(b):
    return ctypes.create_string_buffer(b, len(b))


def shared_bytes(arch, n):
    if arch == '90a':
        stages = {256: 6, 128: 8}.get(n, 16)
        return 128 * n * stages + 2 * min(n, 64) * 68 * 4 + 16 * stages
    return max(128 * n * (3 if arch == '80' else 2), (32 if n == 128 else 16) * 260 * 4)


def plan(arch, rows, columns, n, sms, gated, tile=None, parts=None):
    """As matmul_plan.rs."""
    padded = (n + 7) // 8 * 8
    if tile is None:
        tiles = [256, 128, 64, 32, 16] if arch == '90a' else [128, 64, 32, 16] if arch == '80' else [64, 32, 16]
        tile = min(tiles, key=lambda t: (-(-padded // t)) * (t + (180 if arch == '90a' else 56)))
    token_tiles = -(-padded // tile)
    cluster = 2 if arch == '90a' else 1
    height = 128 if gated else 256
    row_tiles = -(-rows[0] // height) if gated else sum(-(-r // height) for r in rows)
    steps = -(-columns // 128)
    units = row_tiles * steps
    if parts is None:
        def cost(p):
            load = -(-units // p)
            return load + 3 * (0 if row_tiles % p == 0 else p // row_tiles - 1 if p % row_tiles == 0 else -(-(steps - 1) // load))
        parts = min(range(1, max(1, min(sms // cluster // token_tiles, units)) + 1), key=cost)
    grid = cluster * parts * token_tiles
    return dict(arch=arch, tile=tile, token_tiles=token_tiles, row_tiles=row_tiles, steps=steps, parts=parts, padded=padded,
                height=height, shared=shared_bytes(arch, tile), block=(384 if tile >= 128 else 288) if arch == '90a' else 256,
                grid=grid, sums=grid * 256 // cluster * tile * 4)


class Matrix:
    """Random packed rows on the card."""
    def __init__(self, f, rows, columns, generator):
        import torch
        self.rows, self.columns, self.planes = rows, columns, []
        for size, values, kind in PLANES[f]:
            count = rows * columns // values
            raw = torch.randint(0, 256, (count, size), dtype=torch.uint8, device='cuda', generator=generator)
            def halfs(k):
                return ((torch.rand(count, k, device='cuda', generator=generator) + 0.5) * 0.01).half().view(torch.uint8).view(count, 2 * k)
            if kind == 'h':
                raw = halfs(size // 2)
            elif kind == 'k':
                raw[:, :4] = halfs(2)
            elif kind == 'x':
                raw[:, :2] = halfs(1)
            elif kind == 'e':
                raw = raw % 8 + 118
            elif kind == 's':
                raw = raw % 0x48
            elif kind == 'm':
                # the f16 0x2c.. in the top nibbles of four words of scales
                words = raw.view(torch.int16).view(count, 4)
                words &= 0x0fff
                d = 0x2105
                for i in range(4):
                    v = ((d >> (4 * i)) & 15) << 12
                    words[:, i] |= v - 65536 if v >= 32768 else v
            elif kind in 'wb':
                v = torch.randn(count, 32, device='cuda', generator=generator) * 0.05
                raw = (v.half() if kind == 'w' else v.bfloat16()).view(torch.uint8)
            self.planes.append(raw.contiguous())
        self.format = f

    def struct(self):
        p = [x.data_ptr() for x in self.planes] + [0] * (5 - len(self.planes))
        return struct.pack('<5Qii', *p, self.rows, self.columns)

    def values(self, driver, functions):
        import torch
        if self.format == 'F16':
            return self.planes[0].view(torch.float16).view(self.rows, self.columns).double()
        if self.format == 'BF16':
            return self.planes[0].view(torch.bfloat16).view(self.rows, self.columns).double()
        out = torch.full((self.rows, self.columns), float('nan'), device='cuda')
        chunks = self.rows * self.columns // 32
        driver.launch(functions[self.format], -(-chunks // 256), 256, 0, blob(self.struct()), ctypes.c_uint64(out.data_ptr()))
        torch.cuda.synchronize()
        return out.double()


class Work:
    def __init__(self):
        import torch
        self.sums = torch.full((64 << 20,), float('nan'), device='cuda')
        self.ready = torch.zeros(8 * 1024, dtype=torch.int32, device='cuda')


def prepare(driver, f, x, up=None, weight=None, bias=None, permutation=None, norm=0, act=0, eps=1e-5, columns=None, cached=1):
    import torch
    n, columns = x.shape[0], columns or x.shape[1]
    padded, steps = (n + 7) // 8 * 8, -(-columns // 128)
    out = torch.full((2 * steps, padded, 64), float('nan'), device='cuda', dtype=torch.float16)
    scale = torch.full((padded,), float('nan'), device='cuda')
    ptr = lambda t: 0 if t is None else t.data_ptr()
    args = struct.pack('<7Q8If', x.data_ptr(), ptr(up), ptr(weight), ptr(bias), ptr(permutation), out.data_ptr(),
                       scale.data_ptr(), n, padded, columns, x.stride(0), 0 if up is None else up.stride(0), norm, act, cached, eps)
    args += b'\0' * (-len(args) % 8)
    a = blob(args)
    def go(keep=(x, up, weight, bias, permutation, out, scale)):
        driver.launch(f, padded, 256, (columns + 3) // 4 * 16 if cached else 0, a)
    go()
    return out, scale, go


def call(driver, function, p, work, matrices, outs, biases, x16, scale, n, mode=0, factor=64.0, gate=(1.0, 0.0)):
    columns = matrices[0].columns
    b, first = b'', 0
    for m, o, bias in zip(matrices, outs, biases):
        b += m.struct() + struct.pack('<QQII', o.data_ptr(), 0 if bias is None else bias.data_ptr(), o.stride(0), first)
        first += -(-m.rows // p['height'])
    b += b'\0' * (72 * (3 - len(matrices)))
    b += struct.pack('<4Q9I4fI', x16.data_ptr(), scale.data_ptr(), work.sums.data_ptr(), work.ready.data_ptr(), n, p['padded'],
                     columns, p['steps'], len(matrices), p['row_tiles'], p['token_tiles'], p['parts'], mode, factor, *gate, 0.0, 0)
    a = blob(b)
    assert p['sums'] <= work.sums.numel() * 4
    def go(keep=(work, matrices, outs, biases, x16, scale)):
        driver.launch(function, p['grid'], p['block'], p['shared'], a)
    return go


def error(out, ref, size=None):
    """The error's norm over that of the reference, or of `size`: what it is the difference or the cut of."""
    import torch
    d = (out.double() - ref).norm() / (ref if size is None else size).norm()
    return float(d) if torch.isfinite(out).all() else float('nan')


def check_prepare(driver, f):
    import torch
    bad = 0
    g = torch.Generator('cuda').manual_seed(5)
    for n, columns in [(5, 32), (9, 96), (17, 160), (3, 4096), (8, 14336), (2, 20000)]:
        for kind in range(7):
            for cached in (0, 1):
                x = torch.randn(n, columns, device='cuda', generator=g) * 3 + 1
                x[0, 7] = 1e6
                kw, ref = {}, x.double()
                if kind == 1:
                    kw = dict(norm=1, weight=torch.rand(columns, device='cuda'))
                if kind == 2:
                    kw = dict(norm=2, weight=torch.rand(columns, device='cuda'), bias=torch.rand(columns, device='cuda'))
                if kind in (3, 4, 5):
                    kw = dict(up=torch.randn(n, columns, device='cuda'), act=kind - 3)
                    ref = [torch.nn.functional.silu(ref), torch.nn.functional.gelu(ref),
                           torch.nn.functional.gelu(ref, approximate='tanh')][kind - 3] * kw['up'].double()
                perm = None
                if kind == 6:
                    kw = dict(norm=1, weight=torch.rand(columns, device='cuda'))
                    perm = torch.randperm(columns, device='cuda').int()
                if kw.get('norm') == 1:
                    ref = ref * (ref.pow(2).mean(1, keepdim=True) + 1e-5).rsqrt() * kw['weight'].double()
                if kw.get('norm') == 2:
                    ref = torch.nn.functional.layer_norm(ref, (columns,), kw['weight'].double(), kw['bias'].double(), 1e-5)
                if perm is not None:
                    ref = ref[:, perm.long()]
                out, scale, _ = prepare(driver, f, x, permutation=perm, cached=cached, **kw)
                torch.cuda.synchronize()
                padded, steps = out.shape[1], out.shape[0] // 2
                u = out.view(2 * steps, padded, 8, 8)
                r = torch.arange(padded, device='cuda') & 7
                place = torch.arange(8, device='cuda')[None, :] ^ r[:, None]
                u = torch.gather(u, 2, place[None, :, :, None].expand(2 * steps, padded, 8, 8))
                flat = u.view(steps, 2, padded, 64).permute(0, 2, 1, 3).reshape(steps, padded, 128)
                k = []
                for q in range(128):
                    s, e = divmod(q, 16)
                    h, e = divmod(e, 8)
                    k.append(32 * (e // 2) + 4 * s + h + 2 * (e % 2))
                plain = torch.empty_like(flat)
                plain[:, :, k] = flat
                plain = plain.permute(1, 0, 2).reshape(padded, steps * 128).double() * scale.double()[:, None]
                full = torch.zeros_like(plain)
                full[:n, :columns] = ref
                e = max(error(plain[i:i + 1].float(), full[i:i + 1]) for i in range(n))
                pads = float(plain[n:].abs().sum() + plain[:, columns:].abs().sum())
                if not (e < 1e-3 and pads == 0):
                    bad += 1
                    print('prepare WRONG', n, columns, 'kind', kind, 'cached', cached, 'error', e, 'pads', pads)
    print('prepare:', 'correct' if not bad else f'{bad} WRONG')


def check(driver, f, arch, functions, reference, prep, work, most, every):
    import torch
    g = torch.Generator('cuda').manual_seed(1)
    unit = max(v for _, v, _ in PLANES[f])
    shapes = [(1, 32, 5), (300, 96, 9), (77, 160, 33), (128, 4096, 17), (300, 4096, 70), (129, 512, 130), (256, 1024, 300),
              (200, 2048, 600), (4096, 4096, 16), (4096, 14336, 40), (1000, 4096, 512)]
    if every == 'small':
        shapes = [(70, 96, 9), (129, 512, 70)]
    elif not every:
        shapes = [(300, 96, 9), (129, 512, 130), (300, 4096, 300), (77, 1024, 33)]
    worst, bad = 0.0, 0
    for rows, columns, n in shapes:
        columns = -(-columns // max(unit, 32)) * max(unit, 32)
        x = torch.randn(n, columns, device='cuda', generator=g)
        x[n // 2] *= 1e5
        x16, scale, _ = prepare(driver, prep, x)
        factor = 1.0 if f == 'F16' else 64.0
        for mode in ('store', 'add', 'three', 'gated'):
            count = {'three': 3, 'gated': 2}.get(mode, 1)
            sizes = [rows, max(1, rows // 3), rows // 2 + 1][:count] if mode == 'three' else [rows] * count
            ms = [Matrix(f, r, columns, g) for r in sizes]
            refs = [x.double() @ m.values(driver, reference).T for m in ms]
            biases = [torch.randn(r, device='cuda', generator=g) if mode != 'store' else None for r in sizes]
            refs = [r if b is None else r + b.double() for r, b in zip(refs, biases)]
            outs = [torch.full((n, r + 5), float('nan'), device='cuda') for r in sizes]
            if mode == 'add':
                outs[0].normal_(generator=g)
                refs[0] += outs[0][:, :rows].double()
            gate, size = (1.0, 0.0), None
            if mode == 'gated':
                gate = [(1.0, 0.0), (1.5957691, 0.071354814), (1e30, 0.0)][rows % 3]
                act = [torch.nn.functional.silu, lambda v: torch.nn.functional.gelu(v, approximate='tanh'), torch.relu][rows % 3]
                size = refs[0] * refs[1]  # relu may leave next to nothing of it
                refs = [act(refs[0]) * refs[1]]
            for tile in sorted(functions):
                sms = [most, 7, 20, 60][(rows + n + tile) % 4]  # other divisions of the work than this card's
                p = plan(arch, sizes, columns, n, sms, mode == 'gated', tile)
                os_ = [o.clone() for o in outs]
                call(driver, functions[tile], p, work, ms, os_, biases, x16, scale, n, {'add': 1, 'gated': 2}.get(mode, 0), factor, gate)()
                torch.cuda.synchronize()
                for o, r, m in zip(os_, refs, ms):
                    e = max(error(o[i:i + 1, :m.rows], r[i:i + 1], None if size is None else size[i:i + 1]) for i in range(0, n, max(1, n // 8)))
                    whole = error(o[:, :m.rows], r, size)
                    e = max(e, whole) if whole == whole else whole
                    extra = bool(torch.isnan(o[:, m.rows:]).all()) if mode != 'add' else True
                    limit = 3e-3 if mode == 'gated' else 1.5e-3
                    if not (e < limit and extra) or int(work.ready.abs().sum()):
                        bad += 1
                        if bad < 12:
                            print(f'WRONG {f} {arch} rows {m.rows} columns {columns} n {n} tile {tile} {mode}: error {e:.2e} outside kept {extra} parts {p["parts"]} ready {int(work.ready.abs().sum())}')
                        work.ready.zero_()
                    else:
                        worst = max(worst, e)
    print(f'{f:8} {arch}: {"correct" if not bad else str(bad) + " WRONG"}, largest error {worst:.2e}', flush=True)


def check_f32(driver):
    import torch
    module, bad = driver.load('matmul_f32.ptx'), 0
    g = torch.Generator('cuda').manual_seed(3)
    for rows, columns, n in [(1, 1, 5), (300, 96, 9), (77, 163, 33), (129, 4096, 70), (4096, 4096, 512), (4096, 4096, 16)]:
        for tile in (16, 64):
            for add in (0, 1):
                w = torch.randn(rows, columns, device='cuda', generator=g)
                x = torch.randn(n, columns + 3, device='cuda', generator=g)
                out = torch.randn(n, rows + 2, device='cuda', generator=g) if add else torch.full((n, rows + 2), float('nan'), device='cuda')
                bias = torch.randn(rows, device='cuda', generator=g) if add else None
                ref = x[:, :columns].double() @ w.double().T
                if add:
                    ref += out[:, :rows].double() + bias.double()
                a = blob(struct.pack('<4Q6I', w.data_ptr(), x.data_ptr(), out.data_ptr(), 0 if bias is None else bias.data_ptr(),
                                     rows, columns, n, columns + 3, rows + 2, add))
                f = driver.function(module, f'matmul_f32_n{tile}')
                go = lambda: driver.launch(f, (-(-rows // 64), -(-n // tile)), 256, 0, a)
                go()
                torch.cuda.synchronize()
                e = error(out[:, :rows], ref)
                if not e < 2e-6 * max(1, columns / 4096) ** 0.5 + 1e-6:
                    bad += 1
                    print(f'f32 WRONG rows {rows} columns {columns} n {n} tile {tile}: {e:.2e}')
                if rows == 4096 and not add:
                    t = median_ms([go] * 10)
                    print(f'f32 {rows}x{columns} n {n} tile {tile}: {t * 1e3:.1f} us {2 * rows * columns * n / t / 1e9:.1f} TFLOP/s')
    print('f32:', 'correct' if not bad else f'{bad} WRONG', flush=True)


def median_ms(runs, repeat=5):
    """All runs in one graph, so that launches from Python cost nothing."""
    import torch
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for r in runs[:2]:
            r()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for r in runs:
            r()
    graph.replay()
    times = []
    for _ in range(repeat):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda.synchronize()
        events[0].record()
        graph.replay()
        events[1].record()
        torch.cuda.synchronize()
        times.append(events[0].elapsed_time(events[1]) / len(runs))
    return sorted(times)[len(times) // 2]


SHAPES = {'qkv': ([4096, 1024, 1024], 4096, 0), 'o': ([4096], 4096, 1), 'gate/up': ([14336, 14336], 4096, 2), 'down': ([4096], 14336, 1)}


def clocks():
    return subprocess.run(['nvidia-smi', '--query-gpu=clocks.sm,power.draw', '--format=csv,noheader'], capture_output=True, text=True).stdout.strip()


def time_shapes(driver, f, arch, functions, work, sms, prep, tokens=(512, 128, 32)):
    import torch
    g = torch.Generator('cuda').manual_seed(2)
    per_row = sum(s / v for s, v, _ in PLANES[f])
    for n in tokens:
        total = 0
        for name, (rows, columns, mode) in SHAPES.items():
            size = sum(rows) * columns * per_row
            sets = max(3, min(24, int(4e8 / size) + 1))
            ms = [[Matrix(f, r, columns, g) for r in rows] for _ in range(sets)]
            x16, scale, _ = prepare(driver, prep, torch.randn(n, columns, device='cuda'), columns=columns, cached=0)
            outs = [torch.zeros(n, r, device='cuda') for r in rows]
            p = plan(arch, rows, columns, n, sms, mode == 2)
            runs = [call(driver, functions[p['tile']], p, work, m, outs, [None] * 3, x16, scale, n, mode, 64.0) for m in ms]
            t = median_ms(runs * max(1, 40 // sets))
            total += t
            flops = 2 * sum(rows) * columns * n
            line = f'tile {p["tile"]:3} parts {p["parts"]:3}: {t * 1e3:7.1f} us {flops / t / 1e9:6.1f} TFLOP/s {size / t / 1e6:6.0f} GB/s'
            print(f'{f:6} {arch} n {n:3} {name:8}', line, flush=True)
            del ms
        print(f'{f:6} {arch} n {n:3} all: {n / total / 32 * 1e3:8.0f} tokens/s ({2 * 218103808 * n / total / 1e9:.0f} TFLOP/s)', flush=True)


def time_cublas(tokens=(512, 128, 32)):
    import torch
    for n in tokens:
        total, line = 0, []
        for name, (rows, columns, _) in SHAPES.items():
            size = sum(rows) * columns * 2
            ws = [torch.randn(sum(rows), columns, device='cuda', dtype=torch.float16) * 0.05 for _ in range(max(3, min(24, int(4e8 / size) + 1)))]
            x = torch.randn(n, columns, device='cuda', dtype=torch.float16)
            runs = [lambda w=w: torch.mm(x, w.T) for w in ws] * max(1, 40 // len(ws))
            t = median_ms(runs)
            total += t
            line.append(f'{name} {t * 1e3:.1f} us {2 * sum(rows) * columns * n / t / 1e9:.0f} TFLOP/s')
        print(f'cuBLAS f16 n {n}: ' + ' | '.join(line) + f' | all {n / total / 32 * 1e3:.0f} tokens/s', flush=True)


def sample_clocks(driver, functions, work, sms, prep):
    """The clock and power under load: the product of gate and up, and cuBLAS, for a second each."""
    import torch
    rows, columns, mode = SHAPES['gate/up']
    g = torch.Generator('cuda').manual_seed(2)
    ms = [Matrix('Q4_0', r, columns, g) for r in rows]
    x16, scale, _ = prepare(driver, prep, torch.randn(512, columns, device='cuda'), columns=columns)
    p = plan('90a', rows, columns, 512, sms, True)
    go = call(driver, functions[p['tile']], p, work, ms, [torch.zeros(512, rows[0], device='cuda')] * 2, [None] * 2, x16, scale, 512, mode)
    w, x = torch.randn(28672, 4096, device='cuda', dtype=torch.float16), torch.randn(512, 4096, device='cuda', dtype=torch.float16)
    for name, f in [('quern', go), ('cuBLAS', lambda: torch.mm(x, w.T))]:
        torch.cuda.synchronize()
        begin = time.time()
        for _ in range(3000):
            f()
        log = []
        while time.time() - begin < 0.6:
            log.append(clocks())
        torch.cuda.synchronize()
        print(f'{name}: {(time.time() - begin) / 3000 * 1e6:.0f} us each;', ' | '.join(log[:8]), flush=True)


def time_prepare(driver, f):
    import torch
    for n, columns, gated in [(512, 4096, False), (512, 14336, False), (512, 14336, None), (512, 14336, True), (32, 4096, False)]:
        x = torch.randn(n, columns, device='cuda')
        kw = {} if gated is None else dict(up=torch.randn(n, columns, device='cuda')) if gated else dict(norm=1, weight=torch.rand(columns, device='cuda'))
        for cached in (0, 1):
            go = prepare(driver, f, x, cached=cached, **kw)[2]
            print(f'prepare n {n} columns {columns} gated {gated} cached {cached}: {median_ms([go] * 40) * 1e3:.1f} us', flush=True)


def run(what):
    import torch
    torch.zeros(1, device='cuda')
    driver, work = Driver(), Work()
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    print(torch.cuda.get_device_name(), sms, clocks())
    info = json.load(open('pack.json'))
    wanted = [f for f in info['formats'] if f in COMMON] if 'time' in what else info['formats']
    prep = driver.function(driver.load('prepare.ptx'), 'prepare_x16')
    driver.check(driver.cu.cuFuncSetAttribute(prep, 8, 200 << 10), 'shared memory of prepare_x16')
    reference = {f: driver.function(driver.load(f'reference_{f}.ptx'), 'values') for f in info['formats'] if f not in ('F16', 'BF16')}
    loaded = {}
    begin = time.time()
    with ThreadPoolExecutor(16) as pool:
        keys = [(f, a) for a in info['archs'] for f in wanted if os.path.exists(f'matmul_{f}_{a}.ptx.gz')]
        modules = dict(zip(keys, pool.map(lambda k: driver.load(f'matmul_{k[0]}_{k[1]}.ptx'), keys)))
    print(f'{len(keys)} modules loaded in {time.time() - begin:.1f} s', flush=True)
    for f, arch in keys:
        tiles = [16, 32, 64, 128, 256] if arch == '90a' else [16, 32, 64, 128] if arch == '80' else [16, 32, 64]
        loaded[f, arch] = {t: driver.function(modules[f, arch], f'matmul_n{t}', shared_bytes(arch, t)) for t in tiles}
    for w in what:
        begin = time.time()
        if w == 'prepare':
            check_prepare(driver, prep)
            time_prepare(driver, prep)
        if w == 'check':
            for (f, arch), functions in loaded.items():
                check(driver, f, arch, functions, reference, prep, work, sms, f in ('Q4_0', 'F16'))
        if w == 'f32':
            check_f32(driver)
        if w == 'small':
            for key in [('Q4_0', '90a'), ('Q4_0', '80'), ('Q4_0', '75'), ('F16', '90a')]:
                check(driver, *key, loaded[key], reference, prep, work, sms, 'small')
        if w == 'cublas':
            time_cublas()
        if w == 'clocks':
            sample_clocks(driver, loaded['Q4_0', '90a'], work, sms, prep)
        if w == 'time':
            for (f, arch), functions in loaded.items():
                if f in COMMON and (arch == '90a' or f in ('Q4_0', 'F16')):
                    time_shapes(driver, f, arch, functions, work, sms, prep, tokens=(512, 128, 32, 8) if arch == '90a' else (512,))
        print(f'-- {w}: {time.time() - begin:.1f} s', flush=True)
    print('clocks after', clocks())


if __name__ == '__main__':
    if sys.argv[1] == 'pack':
        option = lambda name, default: sys.argv[sys.argv.index(name) + 1].split(',') if name in sys.argv else default
        pack(sys.argv[2], option('--formats', list(PLANES)), option('--archs', ['90a', '80', '75']), option('--ptx', ['Q4_0', 'F16']))
    else:
        run(sys.argv[2].split(',') if len(sys.argv) > 2 else ['prepare', 'check', 'cublas', 'time'])
