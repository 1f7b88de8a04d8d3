// One head's row on its way into attention: norm, rotation, and into the cache. A warp works on a row in shared
// memory; head_dim is at most 256.
//
// Rotation of pair p by its angle: (x_i, x_j) -> (x_i cos - x_j sin, x_i sin + x_j cos), where (i, j) is (p, p + pairs)
// or, interleaved, (2p, 2p + 1). Numbers beyond 2 * pairs stay as they are. As crates/compute/src/ops/{norm,rope}.rs.
#pragma once
#include "attention.cuh"

constexpr u32 FULL = 0xffffffffu;

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

// row[0..dim] = x, padded with zeros up to `padded`.
__device__ __forceinline__ void read_row(float *row, const float *x, int dim, int padded, int lane) {
    for (int i = lane; i < padded; i += 32) row[i] = i < dim ? x[i] : 0.0f;
    __syncwarp();
}

__device__ __forceinline__ void norm_row(float *row, const float *weight, int kind, float eps, int dim, int lane) {
    float mean = 0;
    if (kind == 2) {
        for (int i = lane; i < dim; i += 32) mean += row[i];
        mean = warp_sum(mean) / dim;
    }
    float squares = 0;
    for (int i = lane; i < dim; i += 32) squares += (row[i] - mean) * (row[i] - mean);
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
    for (int i = lane; i < dim; i += 32) row[i] = (row[i] - mean) * scale * weight[i];
    __syncwarp();
}

__device__ __forceinline__ void rotate_row(float *row, const Rotation &r, int token, int lane) {
    const float *cos = r.cos + (i64)token * r.pairs, *sin = r.sin + (i64)token * r.pairs;
    for (int p = lane; p < r.pairs; p += 32) {
        int i = r.interleaved ? 2 * p : p, j = r.interleaved ? 2 * p + 1 : p + r.pairs;
        float x = row[i], y = row[j], c = cos[p], s = sin[p];
        row[i] = x * c - y * s;
        row[j] = x * s + y * c;
    }
    __syncwarp();
}

// A query head's or key head's row, normalised and rotated, in shared memory.
__device__ __forceinline__ void query_row(float *row, const AttentionArgs &a, const Rotation &r, int token, int head,
                                          int padded, int lane) {
    int group = a.heads / a.kv_heads;
    const float *x = a.rows.q + (i64)token * a.rows.q_token + (head / group) * a.rows.q_group + (head % group) * a.dim;
    read_row(row, x, a.dim, padded, lane);
    if (r.norm) norm_row(row, r.q_norm + head * r.q_norm_stride, r.norm, r.eps, a.dim, lane);
    rotate_row(row, r, token, lane);
}
__device__ __forceinline__ void key_row(float *row, const AttentionArgs &a, const Rotation &r, int token, int kv_head,
                                        int padded, int lane) {
    const float *x = a.rows.k + (i64)token * a.rows.kv_token + kv_head * a.rows.kv_group;
    read_row(row, x, a.dim, padded, lane);
    if (r.norm) norm_row(row, r.k_norm + kv_head * r.k_norm_stride, r.norm, r.eps, a.dim, lane);
    rotate_row(row, r, token, lane);
}

// Puts a row (padded with zeros to `length`) into the cache.
__device__ __forceinline__ void store_row(const float *row, float *to, __half *, i64 at, int length, int lane) {
    for (int i = lane; i < length; i += 32) to[at + i] = row[i];
}
__device__ __forceinline__ void store_row(const float *row, __half *to, __half *, i64 at, int length, int lane) {
    for (int i = lane; i < length; i += 32) to[at + i] = __float2half_rn(row[i]);
}
// q8_0 as encode_q8_0 in attention/q8_0.rs: the scale is the largest magnitude / 127 in f16, a code the nearest whole
// number to x / scale; a block with a NaN becomes NaN as a whole.
__device__ __forceinline__ void store_row(const float *row, signed char *to, __half *scales, i64 at, int length,
                                          int lane) {
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

// Both of a token's rows of one key-value head: rotated key and value into the cache at `position`.
template <class T>
__device__ __forceinline__ void append_key(float *row, const AttentionArgs &a, const Rotation &r, int token,
                                           int kv_head, int position, int lane) {
    key_row(row, a, r, token, kv_head, a.cache.row, lane);
    i64 at = ((i64)kv_head * a.cache.context + position) * a.cache.row;
    store_row(row, (T *)a.cache.k, a.cache.k_scales, at, a.cache.row, lane);
    __syncwarp();
}
template <class T>
__device__ __forceinline__ void append_value(float *row, const AttentionArgs &a, int token, int kv_head, int position,
                                             int lane) {
    const float *x = a.rows.v + (i64)token * a.rows.kv_token + kv_head * a.rows.kv_group;
    read_row(row, x, a.dim, a.cache.row, lane);
    i64 at = ((i64)kv_head * a.cache.context + position) * a.cache.row;
    store_row(row, (T *)a.cache.v, a.cache.v_scales, at, a.cache.row, lane);
    __syncwarp();
}
