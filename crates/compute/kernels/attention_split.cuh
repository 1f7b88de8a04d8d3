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
// `active` to arrive. The barrier orders the block's writes before thread 0's atomic, which publishes them all and sees
// what others published.
__device__ __forceinline__ bool arrived_last(const AttentionArgs &a, int block, int active) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 before;
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(a.arrived + block) : "memory");
        last = before == (u32)active - 1;
        if (last) a.arrived[block] = 0;
    }
    __syncthreads();
    return last;
}

// Where row r of a key-value head's queries goes.
__device__ __forceinline__ float *out_row(const AttentionArgs &a, int kv_head, int r) {
    int group = a.heads / a.kv_heads;
    return a.out + ((i64)(r / group) * a.heads + kv_head * group + r % group) * a.dim;
}

// What the sink of row r adds to its sum of e^(score - reference). Added where a row's sum is complete: once.
template <bool NATURAL>
__device__ __forceinline__ float sink_of(const AttentionArgs &a, int kv_head, int r, float reference) {
    if (!a.sinks) return 0.0f;
    const int group = a.heads / a.kv_heads;
    const float sink = __ldg(a.sinks + kv_head * group + r % group);
    return power<NATURAL>((NATURAL ? sink : sink * LOG2_E) - reference);
}

// Four numbers of a row, combined from `active` partial results: read(s, m, v) gives reference and sum, and the numbers,
// of split s, and sink(reference) what joins the sum. AHEAD at a time: all loads are on their way before the first is used.
template <int AHEAD, bool NATURAL, class F, class G>
__device__ __forceinline__ float4 joined(int active, F read, G sink) {
    float largest = LOWEST, sum = 0;
    float4 result = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int s = 0; s < active; s += AHEAD) {
        float2 m[AHEAD];
        float4 v[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            m[i] = make_float2(LOWEST, 0), v[i] = make_float4(0, 0, 0, 0);
            if (s + i < active) read(s + i, m[i], v[i]);
        }
        float raised = largest;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) raised = fmaxf(raised, m[i].x);
        const float before = power<NATURAL>(largest - raised);
        largest = raised;
        sum *= before, result.x *= before, result.y *= before, result.z *= before, result.w *= before;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            float w = power<NATURAL>(m[i].x - raised);
            sum += m[i].y * w;
            result.x += v[i].x * w, result.y += v[i].y * w, result.z += v[i].z * w, result.w += v[i].w * w;
        }
    }
    const float inverse = 1.0f / (sum + sink(largest));
    return make_float4(result.x * inverse, result.y * inverse, result.z * inverse, result.w * inverse);
}

// Numbers 4 * column.. of row r of a key-value head go out; those that are padding do not.
__device__ __forceinline__ void put_out(const AttentionArgs &a, int kv_head, int r, int column, float4 x) {
    float *out = out_row(a, kv_head, r) + 4 * column;
    const int left = a.dim - 4 * column;
    if (left > 1) *(float2 *)out = make_float2(x.x, x.y);
    if (left > 3) *(float2 *)(out + 2) = make_float2(x.z, x.w);
}

// Combines the partial results of a block of rows, `count` of them from `first` on.
template <int ROWS, int DIM, int THREADS, bool NATURAL, int AHEAD>
__device__ __forceinline__ void combine(const AttentionArgs &a, int blocks, int block, int active, int kv_head, int first, int count) {
#pragma unroll 1
    for (int i = threadIdx.x; i < count * (DIM / 4); i += THREADS) {
        const int r = i / (DIM / 4), column = i % (DIM / 4);
        const float2 *own = (const float2 *)partial_sums(a, block, 0, ROWS) + r;
        const float4 *x = (const float4 *)(partial_results(a, blocks, block, 0, ROWS, DIM) + r * DIM) + column;
        float4 y = joined<AHEAD, NATURAL>(
            active, [&](int s, float2 &m, float4 &v) { m = __ldcg(own + s * ROWS), v = __ldcg(x + s * (ROWS * DIM / 4)); },
            [&](float reference) { return sink_of<NATURAL>(a, kv_head, first + r, reference); });
        put_out(a, kv_head, first + r, column, y);
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
