// One head's row on its way into attention: norm, rotation (or first the rotation), and into the cache. A warp takes a row and leaves
// it in shared memory; head_dim is even and at most 256.
//
// Rotation of pair p by its angle: (x_i, x_j) -> (x_i cos - x_j sin, x_i sin + x_j cos), where (i, j) is (p, p + pairs)
// or, interleaved, (2p, 2p + 1). Numbers beyond 2 * pairs stay as they are. As crates/compute/src/ops/{norm,rope}.rs.
#pragma once
#include "attention.cuh"


__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) x += __shfl_xor_sync(FULL, x, i);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, i));
    return x;
}

// What becomes of one row: a query head's, a key's or a value's. Without norm and pairs it is only copied.
struct RowTask {
    const float *x, *weight, *cos, *sin;
    int norm, pairs;  // norm as Rotation has it
};

// A lane's numbers of a row: pairs that rotate together, and behind them neighbours. All loads are on their way before
// the first is used; what is done with them meanwhile is up to the caller.
template <int LENGTH> struct RowValues {
    static constexpr int OWN = (LENGTH + 63) / 64;
    float x[OWN], y[OWN], c[OWN], s[OWN];
};

template <int LENGTH>
__device__ __forceinline__ RowValues<LENGTH> load_row(const RowTask &task, int dim, int interleaved, int lane) {
    RowValues<LENGTH> v;
#pragma unroll
    for (int i = 0; i < v.OWN; i++) {
        const int pair = lane + 32 * i;
        const bool apart = pair < task.pairs && !interleaved, inside = 2 * pair < dim;
        v.x[i] = inside ? task.x[apart ? pair : 2 * pair] : 0.0f;
        v.y[i] = inside ? task.x[apart ? pair + task.pairs : 2 * pair + 1] : 0.0f;
        v.c[i] = 1.0f, v.s[i] = 0.0f;
        if (pair < task.pairs) v.c[i] = task.cos[pair], v.s[i] = task.sin[pair];
    }
    return v;
}

// row[0..LENGTH] = the row normalised and rotated, zeros behind dim.
template <int LENGTH>
__device__ __forceinline__ void make_row(float *row, const RowTask &task, RowValues<LENGTH> values, int dim, int interleaved,
                                         float eps, int lane) {
    constexpr int OWN = RowValues<LENGTH>::OWN;
    auto &x = values.x, &y = values.y;
    auto rotate = [&] {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float first = x[i] * values.c[i] - y[i] * values.s[i];
            y[i] = x[i] * values.s[i] + y[i] * values.c[i];
            x[i] = first;
        }
    };
    const bool norm_last = task.norm & NORM_LAST;
    if (norm_last) rotate();
    if (task.norm) {
        float mean = 0, squares = 0;
        if ((task.norm & ~NORM_LAST) == 2) {
#pragma unroll
            for (int i = 0; i < OWN; i++) mean += x[i] + y[i];
            mean = warp_sum(mean) / dim;
        }
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (2 * (lane + 32 * i) < dim) x[i] -= mean, y[i] -= mean, squares += x[i] * x[i] + y[i] * y[i];
        const float scale = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int pair = lane + 32 * i;
            const bool apart = pair < task.pairs && !interleaved;
            if (2 * pair < dim) {
                x[i] *= scale * task.weight[apart ? pair : 2 * pair];
                y[i] *= scale * task.weight[apart ? pair + task.pairs : 2 * pair + 1];
            }
        }
    }
    if (!norm_last) rotate();
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int pair = lane + 32 * i;
        const bool apart = pair < task.pairs && !interleaved;
        const int at = apart ? pair : 2 * pair, other = apart ? pair + task.pairs : 2 * pair + 1;
        if (2 * pair < LENGTH) {
            row[at] = x[i];
            row[other] = y[i];
        }
    }
    __syncwarp();
}

__device__ __forceinline__ RowTask query_task(const AttentionArgs &a, const Rotation &r, int token, int kv_head, int in_group) {
    const int head = kv_head * (a.heads / a.kv_heads) + in_group;
    const float *x = a.rows.q + (i64)token * a.rows.q_token + kv_head * a.rows.q_group + in_group * a.dim;
    const i64 at = (i64)token * r.pairs;
    return {x, r.q_norm + head * r.q_norm_stride, r.cos + at, r.sin + at, r.norm, r.pairs};
}
__device__ __forceinline__ RowTask key_task(const AttentionArgs &a, const Rotation &r, int token, int kv_head) {
    const float *x = a.rows.k + (i64)token * a.rows.kv_token + kv_head * a.rows.kv_group;
    const i64 at = (i64)token * r.pairs;
    return {x, r.k_norm + kv_head * r.k_norm_stride, r.cos + at, r.sin + at, r.norm, r.pairs};
}
__device__ __forceinline__ RowTask value_task(const AttentionArgs &a, int token, int kv_head) {
    return {a.rows.v + (i64)token * a.rows.kv_token + kv_head * a.rows.kv_group, nullptr, nullptr, nullptr, 0, 0};
}

// Puts a row (padded with zeros to `length`) into the cache.
__device__ __forceinline__ void store_row(const float *row, float *to, __half *, i64 at, int length, int lane) {
#pragma unroll 1
    for (int i = lane; i < length; i += 32) to[at + i] = row[i];
}
__device__ __forceinline__ void store_row(const float *row, __half *to, __half *, i64 at, int length, int lane) {
#pragma unroll 1
    for (int i = 2 * lane; i < length; i += 64) *(__half2 *)(to + at + i) = __floats2half2_rn(row[i], row[i + 1]);
}
// q8_0 as encode_q8_0 in attention/q8_0.rs: the scale is the largest magnitude / 127 in f16, a code the nearest whole
// number to x / scale; a block with a NaN becomes NaN as a whole.
__device__ __forceinline__ void store_row(const float *row, signed char *to, __half *scales, i64 at, int length,
                                          int lane) {
#pragma unroll 1
    for (int i = lane; i < length; i += 32) {
        float x = row[i];
        float largest = warp_max(fabsf(x));
        bool nan = __any_sync(FULL, x != x);
        __half d = __float2half_rn(nan ? __int_as_float(0x7fc00000) : largest / 127.0f);
        float wide = __half2float(d);
        float inverse = wide > 0.0f ? 1.0f / wide : 0.0f;
        float scaled = fminf(fmaxf(x * inverse, -127.0f), 127.0f);
        to[at + i] = (signed char)__float2int_rn(scaled);
        if (lane == 0) scales[(at + i) >> 5] = d;
    }
}

// Where a position's row of a key-value head begins in the cache.
__device__ __forceinline__ i64 row_at(const KvCache &c, int kv_head, int position) {
    return ((i64)kv_head * c.context + position) * c.row;
}
