// Activations for the tensor-core products: f32 rows to f16 in the order and layout that matmul*.cu read.
//
//   extern "C" __global__ void prepare_x16(PrepareArgs)      grid padded_n, block 256, dynamic shared memory: the
//   row as f32 (columns rounded up to a multiple of 4), with `cached` = 1; where that is too much, none and `cached` = 0
//
// value[i] = v[j], j = permutation ? permutation[i] : i, for column i of the weights, where v is the row x, or
// act(x) * up (gated activation in front of the down projection), then optionally an RMS or Layer norm of it.
// Each token gets a power of two `scale` so that its largest value is between 2^13 and 2^14: out = value / scale in f16.
//
// out: for every 64 columns (a slab) padded_n rows of 128 bytes; the 16-byte unit u of row r is at place u ^ (r & 7).
// Columns are padded with zeros to a multiple of 128, tokens with zeros to a multiple of 8. Order inside 128 columns (two
// slabs), position p = 16 s + f:   column 32 t + 4 s + 2 e      f = 2 t + e < 8
//                                  column 32 t + 4 s + 1 + 2 e  f = 8 + 2 t + e
#include <cuda_fp16.h>
#include "common.cuh"

// Mirrored by cuda/matmul_args.rs; passed by value.
struct PrepareArgs {
    const float* x;          // [n][x_stride]
    const float* up;         // [n][up_stride], or null: no gated activation
    const float* weight;     // of the norm [columns]
    const float* bias;       // of the norm, or null
    const int* permutation;  // [columns], or null
    u8* out;
    float* scale;  // [padded_n]
    u32 n, padded_n, columns, x_stride, up_stride;
    u32 norm;        // NORM_*
    u32 activation;  // ACT_*, used if `up` is given
    u32 cached;      // 1: the row has room in dynamic shared memory
    float eps;
};
enum : u32 { NORM_NONE, NORM_RMS, NORM_LAYER };
enum : u32 { ACT_SILU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_RELU };

DEVICE float activate(float v, u32 kind) {
    if (kind == ACT_SILU) return v / (1.0f + __expf(-v));
    if (kind == ACT_GELU_ERF) return 0.5f * v * (1.0f + erff(v * 0.70710678f));
    if (kind == ACT_GELU_TANH) return v / (1.0f + __expf(-v * (1.5957691f + 0.071354814f * v * v)));
    return fmaxf(v, 0.0f);
}

// One result for the whole block.
template <class Op>
DEVICE float over_block(float v, float* shared, Op op) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v = op(v, __shfl_xor_sync(0xffffffffu, v, d));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
#pragma unroll
    for (int i = 1; i < 8; i++) v = op(v, shared[i]);
    __syncthreads();
    return v;
}
struct Add { DEVICE float operator()(float a, float b) const { return a + b; } };
struct Max { DEVICE float operator()(float a, float b) const { return fmaxf(a, b); } };

DEVICE float largest_of(const float4& v) { return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))); }

// One token's row. With room in shared memory the values are computed once; otherwise again in every pass.
struct Row {
    const PrepareArgs& a;
    const float *x, *up;
    float* cache;  // [columns rounded up to 4], or null
    bool vector;
    DEVICE Row(const PrepareArgs& args, u32 token, float* shared)
        : a(args), x(args.x + (u64)token * args.x_stride),
          up(args.up == nullptr ? nullptr : args.up + (u64)token * args.up_stride), cache(args.cached ? shared : nullptr) {
        vector = a.permutation == nullptr && ((u64)x | (u64)up | (u64)a.weight | (u64)a.bias) % 16 == 0;
    }
    // Columns c .. c + 3 of a vector over columns; zeros past the end.
    DEVICE float4 four(const float* row, u32 c) const {
        if (vector && c + 4 <= a.columns) return *(const float4*)(row + c);
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = c + i >= a.columns ? 0.0f : row[a.permutation == nullptr ? c + i : (u32)a.permutation[c + i]];
        return make_float4(v[0], v[1], v[2], v[3]);
    }
    DEVICE float4 combine(const float4& v, const float4& u) const {
        if (up == nullptr) return v;
        return make_float4(activate(v.x, a.activation) * u.x, activate(v.y, a.activation) * u.y,
                           activate(v.z, a.activation) * u.z, activate(v.w, a.activation) * u.w);
    }
    DEVICE float4 compute(u32 c) const {
        const float4 v = four(x, c);
        return up == nullptr ? v : combine(v, four(up, c));
    }
    DEVICE float4 value(u32 c) const {
        if (c >= a.columns) return make_float4(0, 0, 0, 0);
        return cache != nullptr ? *(const float4*)(cache + c) : compute(c);
    }
    DEVICE float4 normalized(u32 c, float4 v, float mean, float factor) const {
        if (a.norm == NORM_NONE || c >= a.columns) return v;
        const float4 w = four(a.weight, c);
        const float4 b = a.bias == nullptr ? make_float4(0, 0, 0, 0) : four(a.bias, c);
        return make_float4(fmaf((v.x - mean) * factor, w.x, b.x), fmaf((v.y - mean) * factor, w.y, b.y),
                           fmaf((v.z - mean) * factor, w.z, b.z), fmaf((v.w - mean) * factor, w.w, b.w));
    }
};

extern "C" __global__ void __launch_bounds__(256, 4) prepare_x16(PrepareArgs a) {
    __shared__ float partial[8];
    extern __shared__ float4 cache[];
    launch_next();
    wait_for_previous();
    const u32 token = blockIdx.x, steps = (a.columns + 127) / 128, fours = (a.columns + 3) / 4;
    if (token >= a.n) {
        if (threadIdx.x == 0) a.scale[token] = 1.0f;
        for (u32 i = threadIdx.x; i < steps * 16; i += 256)
            *(uint4*)(a.out + ((u64)(i / 8) * a.padded_n + token) * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
        return;
    }
    const Row row(a, token, (float*)cache);
    float mean = 0.0f, factor = 1.0f, sum = 0.0f, largest = 0.0f;
    // A thread reads back only what it wrote itself until the last pass.
    auto take = [&](u32 i, const float4& x, const float4& u) {
        const float4 v = row.combine(x, u);
        if (row.cache != nullptr) cache[i] = v;
        sum += v.x + v.y + (v.z + v.w);
        largest = fmaxf(largest, largest_of(v));
    };
    u32 at = threadIdx.x;
    if (row.vector) {
        // Whole batches: several loads are on their way at a time.
        constexpr u32 BATCH = 4;
        const float4* x4 = (const float4*)row.x;
        const float4* u4 = (const float4*)(row.up == nullptr ? row.x : row.up);
        for (; at + 256 * (BATCH - 1) < a.columns / 4; at += 256 * BATCH) {
            float4 x[BATCH], u[BATCH];
#pragma unroll
            for (u32 k = 0; k < BATCH; k++) x[k] = x4[at + 256 * k];
            if (row.up != nullptr)
#pragma unroll
                for (u32 k = 0; k < BATCH; k++) u[k] = u4[at + 256 * k];
#pragma unroll
            for (u32 k = 0; k < BATCH; k++) take(at + 256 * k, x[k], u[k]);
        }
    }
    for (; at < fours; at += 256) {
        const float4 x = row.four(row.x, 4 * at);
        take(at, x, row.up == nullptr ? x : row.four(row.up, 4 * at));
    }
    if (a.norm == NORM_LAYER) mean = over_block(sum, partial, Add()) / (float)a.columns;
    if (a.norm != NORM_NONE) {
        sum = 0.0f;
        for (u32 i = threadIdx.x; i < fours; i += 256) {
            const float4 v = row.value(4 * i);
            const float d[4] = {v.x - mean, v.y - mean, v.z - mean, v.w - mean};
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (4 * i + k < a.columns) sum = fmaf(d[k], d[k], sum);
        }
        factor = rsqrtf(over_block(sum, partial, Add()) / (float)a.columns + a.eps);
    }
    if (a.norm != NORM_NONE) {
        largest = 0.0f;
#pragma unroll 2
        for (u32 i = threadIdx.x; i < fours; i += 256) {
            const float4 v = row.normalized(4 * i, row.value(4 * i), mean, factor);
            if (row.cache != nullptr) cache[i] = v;
            largest = fmaxf(largest, largest_of(v));
        }
    }
    largest = over_block(largest, partial, Max());
    // 2^(e - 13) for 2^e <= largest < 2^(e + 1), kept among normal numbers.
    const int exponent = min(max((int)(__float_as_uint(largest) >> 23) - 13, 1), 253);
    const float scale = __uint_as_float((u32)exponent << 23), inverse = __uint_as_float((u32)(254 - exponent) << 23);
    if (threadIdx.x == 0) a.scale[token] = scale;
    // A thread makes the two units of one product: columns 128 step + 32 t + 4 s .. + 3.
    for (u32 i = threadIdx.x; i < steps * 8; i += 256) {
        const u32 step = i / 8, s = i % 8;
        u32 even[4], odd[4];
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const u32 c = 128 * step + 32 * t + 4 * s;
            float4 v = row.value(c);
            if (row.cache == nullptr) v = row.normalized(c, v, mean, factor);  // else it is normalised already
            const __half2 first = __floats2half2_rn(v.x * inverse, v.z * inverse);
            const __half2 second = __floats2half2_rn(v.y * inverse, v.w * inverse);
            even[t] = *(const u32*)&first;
            odd[t] = *(const u32*)&second;
        }
        u8* out = a.out + ((u64)(2 * step + s / 4) * a.padded_n + token) * 128;
        const u32 u = s % 4 * 2;
        *(uint4*)(out + 16 * (u ^ (token & 7))) = make_uint4(even[0], even[1], even[2], even[3]);
        *(uint4*)(out + 16 * ((u + 1) ^ (token & 7))) = make_uint4(odd[0], odd[1], odd[2], odd[3]);
    }
}
