// Attention of a block of query rows split over the keys: partial results and their combination in the block that
// arrives last.
//
// partial, f32:  sums [blocks][splits][ROWS][2]           reference and sum of e^(score - reference) of a row
//           then results [blocks][splits][ROWS][DIM]      sum of e^(score - reference) * value
// blocks = kv_heads * row blocks. Sums are added in the order of the splits: the same on every run.
#pragma once
#include "attention.cuh"

// A reference that no score is below.
constexpr float LOWEST = -1e30f;

__device__ __forceinline__ float *partial_sums(const AttentionArgs &a, int block, int split, int rows) {
    return a.partial + ((i64)block * a.splits + split) * rows * 2;
}
__device__ __forceinline__ float *partial_results(const AttentionArgs &a, int blocks, int block, int split, int rows,
                                                  int dim) {
    float *results = a.partial + (i64)blocks * a.splits * rows * 2;
    return results + ((i64)block * a.splits + split) * rows * dim;
}

// e^x or 2^x: the unit of a kernel's scores.
template <bool NATURAL> __device__ __forceinline__ float power(float x) {
    return NATURAL ? expf(x) : power_2(x);
}

// To be called by all threads of a block after its partial result is written. True in the block that is the last of
// `active` to arrive.
__device__ __forceinline__ bool arrived_last(const AttentionArgs &a, int block, int active) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(a.arrived + block, 1u) == (u32)active - 1;
        if (last) a.arrived[block] = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

// Where row r of a key-value head's queries goes.
__device__ __forceinline__ float *out_row(const AttentionArgs &a, int kv_head, int r) {
    int group = a.heads / a.kv_heads;
    return a.out + ((i64)(r / group) * a.heads + kv_head * group + r % group) * a.dim;
}

// Combines the partial results of a block of rows, `count` of them from `first` on.
template <int ROWS, int DIM, int THREADS, bool NATURAL>
__device__ void combine(const AttentionArgs &a, int blocks, int block, int active, int kv_head, int first, int count) {
    constexpr int LANES = DIM / 4;  // threads for a row, four numbers each
    constexpr int AT_ONCE = THREADS / LANES;
    const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
    for (int base = 0; base < count; base += AT_ONCE) {
        int r = base + slot;
        // The rows' largest reference and sums: each thread for itself, the loads are broadcast.
        if (r < count && slot < AT_ONCE) {
            float largest = LOWEST;
            for (int s = 0; s < active; s++) largest = fmaxf(largest, __ldcg(partial_sums(a, block, s, ROWS) + 2 * r));
            float sum = 0;
            float4 result = make_float4(0, 0, 0, 0);
#pragma unroll 8
            for (int s = 0; s < active; s++) {
                float2 own = __ldcg((const float2 *)partial_sums(a, block, s, ROWS) + r);
                float4 x = __ldcg((const float4 *)(partial_results(a, blocks, block, s, ROWS, DIM) + r * DIM) + lane);
                float w = power<NATURAL>(own.x - largest);
                sum += own.y * w;
                result.x += x.x * w, result.y += x.y * w, result.z += x.z * w, result.w += x.w * w;
            }
            float inverse = 1.0f / sum;
            float *out = out_row(a, kv_head, first + r) + 4 * lane;
            float got[4] = {result.x, result.y, result.z, result.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (4 * lane + i < a.dim) out[i] = got[i] * inverse;
        }
    }
}

// The keys of split number `split`: of begin..end, `chunk` keys each; `active` splits have any.
struct Span {
    int low, high, active;
};
__device__ __forceinline__ Span span_of(int begin, int end, int split, int splits, int least, int multiple) {
    int length = end - begin;
    int chunk = (length + splits - 1) / splits;
    chunk = max(least, (chunk + multiple - 1) / multiple * multiple);
    Span span;
    span.active = (length + chunk - 1) / chunk;
    span.low = begin + split * chunk;
    span.high = min(end, span.low + chunk);
    return span;
}
