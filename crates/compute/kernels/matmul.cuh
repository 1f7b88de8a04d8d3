// The matrix product y[token][row] = x W^T for many tokens: arguments, division of the work, and what is done with sums.
//
// Tiles of 256 rows (128 of each matrix of a gated pair) and N tokens, each done by a block, or by a cluster of two (9.0a).
// The grid is `parts` x `token_tiles` of them, number = part * token_tiles + token tile, so that those of the same part read
// the same weights at the same time. All row tiles together are row_tiles * steps units of 128 columns; every part gets an
// equal run of units, whether or not it ends with a tile ("stream-K", Osama et al. 2023). A block works from its last unit
// down to its first, so the tile that it leaves unfinished at the end of its run (whose last columns belong to the next
// part) is done first and its sums go to memory; the block that has the tile's last columns does them at the end of its own
// run, then waits for those sums and adds them in a fixed order: equal inputs give equal bits. Blocks wait only for blocks
// with lower numbers: there is no deadlock however they are scheduled. Two launches that may run at the same time need
// workspaces of their own.
#pragma once
#include "common.cuh"
#include "fragment.cuh"

// One matrix of a launch. Mirrored by cuda/matmul_args.rs.
struct MatmulMatrix {
    Matrix weights;     // 48 bytes
    float* out;         // [n][out_stride] f32
    const float* bias;  // [rows] f32, or null
    u32 out_stride;     // floats from a token to the next
    u32 first_tile;     // row tiles of the matrices before this one
};

// Mirrored by cuda/matmul_args.rs; passed by value.
struct MatmulArgs {
    MatmulMatrix matrix[3];
    const u8* x;           // prepared activations, see prepare.cu
    const float* x_scale;  // [padded_n] f32
    float4* sums;          // workspace: for every block a tile of f32
    u32* ready;            // workspace: for every block 8 words, zero before the first launch; every launch leaves zeros
    u32 n;                 // tokens
    u32 padded_n;          // n rounded up to a multiple of 8
    u32 columns;
    u32 steps;             // columns / 128, rounded up
    u32 matrices;          // 1 .. 3
    u32 row_tiles;         // of all matrices together; of one of them in a gated pair
    u32 token_tiles;
    u32 parts;
    u32 mode;              // MODE_*
    float factor;          // power of two that weights are multiplied by on the way to f16
    float gate[2];         // the activation of a gated pair, see gate()
    float limit;           // of a gated pair: not 0: see gated()
    u32 unused;
};

enum : u32 {
    MODE_STORE = 0,
    MODE_ADD = 1,    // add to what is in `out`
    MODE_GATED = 2,  // out of matrix 0 = act(matrix 0) * matrix 1, two matrices of the same size; biases are added first
};

// A run of units of one tile: columns 128 * begin .. 128 * end.
struct Segment {
    u32 tile, begin, end;
};
struct Work {
    const MatmulArgs& a;
    u32 first, next;
    // A product of 32 bits: units * parts stays below 2^32 (matmul_plan.rs).
    static DEVICE u32 start_of(const MatmulArgs& a, u32 part) { return part * (a.row_tiles * a.steps) / a.parts; }
    DEVICE Work(const MatmulArgs& args, u32 part) : a(args), first(start_of(args, part)), next(start_of(args, part + 1)) {}
    // The next segment, from the last unit down.
    DEVICE bool take(Segment& s) {
        if (next <= first) return false;
        s.tile = (next - 1) / a.steps;
        const u32 base = s.tile * a.steps;
        s.end = next - base;
        s.begin = first > base ? first - base : 0;
        next = base + s.begin;
        return true;
    }
};

// v times the logistic function of v (c0 + c1 v^2). silu: c0 = 1, c1 = 0; gelu (tanh): c0 = 1.5957691, c1 = 0.071354814,
// for 0.5 (1 + tanh u) is the logistic function of 2 u; relu: c0 = 1e30, c1 = 0; clamped SwiGLU: c0 = 1.702, c1 = 0.
DEVICE float gate(float v, float c0, float c1) { return __fdividef(v, 1.0f + __expf(-v * fmaf(c1, v * v, c0))); }

// ---- sums of unfinished tiles: each group of `threads` threads has its own place and its own word of `ready` ----

// Writes a group's sums. All threads of the group call it; `sync` is a barrier among them.
template <int COUNT, class Sync>
DEVICE void leave_sums(const float (&d)[COUNT], float4* place, u32 thread, u32 threads, u32* ready, Sync sync) {
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++)
        __stcg(place + i * threads + thread, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
    __threadfence();
    sync();
    if (thread == 0) atomicExch(ready, 1u);
}
// Adds the sums of parts part - 1, part - 2, ... down to the one that has the tile's first unit `base`. place(p) and ready(p)
// are where part p left them.
template <int COUNT, class Place, class Ready, class Sync>
DEVICE void add_sums(const MatmulArgs& a, float (&d)[COUNT], u32 part, u32 base, u32 thread, u32 threads, Place place,
                     Ready ready, Sync sync) {
    u32 lowest = part - 1;
    while (Work::start_of(a, lowest) > base) lowest--;
    for (u32 p = lowest + thread; p < part; p += threads) {
        while (atomicAdd(ready(p), 0u) == 0) {}
        *(volatile u32*)ready(p) = 0;
        __threadfence();
    }
    sync();
    constexpr int BATCH = COUNT / 4 < 8 ? COUNT / 4 : 8;
    for (u32 p = part; p-- > lowest;) {
        const float4* from = place(p) + thread;
#pragma unroll
        for (int i = 0; i < COUNT / 4; i += BATCH) {
            float4 v[BATCH];
#pragma unroll
            for (int k = 0; k < BATCH; k++) v[k] = __ldcg(from + (i + k) * threads);
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
                d[4 * (i + k)] += v[k].x;
                d[4 * (i + k) + 1] += v[k].y;
                d[4 * (i + k) + 2] += v[k].z;
                d[4 * (i + k) + 3] += v[k].w;
            }
        }
    }
}

// ---- results ----

// Adds without waiting for an answer. Only one block adds to an element, so the result doesn't depend on an order.
DEVICE void add_four(float* p, float4 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
#else
    atomicAdd(p, v.x);
    atomicAdd(p + 1, v.y);
    atomicAdd(p + 2, v.z);
    atomicAdd(p + 3, v.w);
#endif
}
// Stores four rows of a token's result, or adds them.
DEVICE void store_four(const MatmulArgs& a, const MatmulMatrix& m, float4 v, u32 row, u32 token) {
    float* p = m.out + (u64)token * m.out_stride + row;
    const u32 rows = m.weights.rows;
    if (row + 4 <= rows && (u64)p % 16 == 0) {
        if (a.mode == MODE_ADD) add_four(p, v);
        else *(float4*)p = v;
        return;
    }
    const float e[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (row + i < rows) {
            if (a.mode == MODE_ADD) atomicAdd(p + i, e[i]);
            else p[i] = e[i];
        }
}
DEVICE float scale_of(const MatmulArgs& a, u32 token) { return token < a.n ? __ldg(a.x_scale + token) : 0.0f; }
DEVICE float4 bias_of(const MatmulMatrix& m, u32 row) {
    float b[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) b[i] = m.bias != nullptr && row + i < m.weights.rows ? __ldg(m.bias + row + i) : 0.0f;
    return make_float4(b[0], b[1], b[2], b[3]);
}
// Cuts a gate's results off above the limit, and at both ends what they multiply, to which 1 is added. NaN stays.
DEVICE void cut(const MatmulArgs& a, float& g, float& u) {
    g = g > a.limit ? a.limit : g;
    u = (u > a.limit ? a.limit : u < -a.limit ? -a.limit : u) + 1.0f;
}
DEVICE float4 gated(const MatmulArgs& a, float4 g, float4 u) {
    if (a.limit != 0.0f) cut(a, g.x, u.x), cut(a, g.y, u.y), cut(a, g.z, u.z), cut(a, g.w, u.w);
    return make_float4(gate(g.x, a.gate[0], a.gate[1]) * u.x, gate(g.y, a.gate[0], a.gate[1]) * u.y,
                       gate(g.z, a.gate[0], a.gate[1]) * u.z, gate(g.w, a.gate[0], a.gate[1]) * u.w);
}
DEVICE float4 scaled(float4 v, float scale, float4 bias) {
    return make_float4(fmaf(v.x, scale, bias.x), fmaf(v.y, scale, bias.y), fmaf(v.z, scale, bias.z), fmaf(v.w, scale, bias.w));
}
