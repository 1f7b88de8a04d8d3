// What the kernels of attention over latent vectors share: arguments, and how the cache is read.
#pragma once
#include "attention.cuh"

// Query row r is head r % heads of token r / heads. partial: [splits][rows][2] reference and sum of e^(score - reference),
// then [splits][rows][rank].
struct LatentArgs {
    const float *absorbed;  // [n][heads][rank]
    const float *q;         // [n][heads][nope + rope], rotated
    KvCache cache;
    float *out;             // [n][heads][rank]
    const int *position;    // of the first token of the pass, which is `offset` in front of the first here
    float *partial;         // where splits > 1
    int n, heads, rank, nope, rope, splits;
    float scale;
    int offset;
};

// Eight numbers of a row of the cache from `at` on.
__device__ __forceinline__ void eight(const float *x, const __half *, i64 at, float (&out)[8]) {
    const float4 a = *(const float4 *)(x + at), b = *(const float4 *)(x + at + 4);
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
__device__ __forceinline__ void eight(const __half *x, const __half *, i64 at, float (&out)[8]) {
    const uint4 raw = *(const uint4 *)(x + at);
    const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 v = __half22float2(halves(words[i]));
        out[2 * i] = v.x, out[2 * i + 1] = v.y;
    }
}
__device__ __forceinline__ void eight(const signed char *x, const __half *scales, i64 at, float (&out)[8]) {
    const uint2 raw = *(const uint2 *)(x + at);
    const float scale = __half2float(scales[at >> 5]);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = scale * (float)(signed char)((i < 4 ? raw.x : raw.y) >> (8 * (i % 4)));
}
