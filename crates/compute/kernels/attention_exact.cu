// Attention over an f32 cache in f32 arithmetic, for any number of tokens and any head_dim up to 256: what the others
// are compared with, and what `--kv f32` runs.
//
//   extern "C" void attention_exact_{64,128,256}(AttentionArgs)    head_dim rounded up to one of the three
//
// rope_store_f32 has rotated q and put k and v into the cache. A block of 4 warps takes ROWS query rows of one key-value
// head (see attention.cuh), 32 keys at a time: a lane computes the scores of one key with the rows of its warp, then
// sums values for its DIM / 32 dimensions. Keys and values take the same shared memory in turn.
//
// Grid: (ceil(n * group / ROWS), kv_heads, splits), ROWS = 32 (256: 16). Block: 128. Dynamic shared memory:
// 4 * ((ROWS + 32) * (DIM + 4) + ROWS * 32) bytes. splits > 1: `partial` holds blocks * splits * ROWS * (DIM + 2) floats.
#include "attention_split.cuh"


template <int DIM, int ROWS> __device__ __forceinline__ void attention_exact(const AttentionArgs &a) {
    constexpr int STRIDE = DIM + 4, OWN = ROWS / 4, PER_LANE = DIM / 32, LEAST = 128;
    extern __shared__ __align__(16) float floats[];
    float *queries = floats, *tile = queries + ROWS * STRIDE, *factors = tile + 32 * STRIDE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int kv_head = blockIdx.y, group = a.heads / a.kv_heads;
    const int from_row = (gridDim.x - 1 - blockIdx.x) * ROWS, rows = min(ROWS, a.n * group - from_row);
    pdl_launch();
    pdl_wait();
    const int first = *a.position;
    const int low_token = first + from_row / group, high_token = first + (from_row + rows - 1) / group;
    const int begin = a.window > 0 ? max(0, low_token + 1 - a.window) : 0;
    const Span span = span_of(begin, high_token + 1, blockIdx.z, a.splits, LEAST, 32);
    if ((int)blockIdx.z >= span.active) return;

    for (int at = threadIdx.x; at < ROWS * DIM; at += 128) {
        int r = at / DIM, c = at % DIM, row = from_row + r;
        float x = 0;
        if (r < rows && c < a.dim)
            x = a.rows.q[(i64)(row / group) * a.rows.q_token + kv_head * a.rows.q_group + row % group * a.dim + c] * a.scale;
        queries[r * STRIDE + c] = x;
    }
    const i64 head_at = (i64)kv_head * a.cache.context * a.cache.row;
    auto load = [&](const void *from, int base) {
        const float *x = (const float *)from + head_at;
        for (int at = threadIdx.x; at < 32 * (DIM / 4); at += 128) {
            int key = at / (DIM / 4), c = at % (DIM / 4) * 4;
            bool inside = base + key < span.high && c < a.cache.row;
            *(float4 *)(tile + key * STRIDE + c) =
                inside ? *(const float4 *)(x + (i64)(base + key) * a.cache.row + c) : make_float4(0, 0, 0, 0);
        }
    };

    float result[OWN][PER_LANE] = {}, reference[OWN], sum[OWN];
#pragma unroll
    for (int r = 0; r < OWN; r++) reference[r] = LOWEST, sum[r] = 0;
    for (int base = span.low; base < span.high; base += 32) {
        __syncthreads();
        load(a.cache.k, base);
        __syncthreads();
        float scores[OWN] = {};
        const float *key = tile + lane * STRIDE, *own = queries + warp * OWN * STRIDE;
#pragma unroll 4
        for (int c = 0; c < DIM; c += 4) {
            float4 x = *(const float4 *)(key + c);
#pragma unroll
            for (int r = 0; r < OWN; r++) {
                float4 q = *(const float4 *)(own + r * STRIDE + c);
                scores[r] += q.x * x.x + q.y * x.y + q.z * x.z + q.w * x.w;
            }
        }
        __syncthreads();
        load(a.cache.v, base);
#pragma unroll
        for (int r = 0; r < OWN; r++) {
            float s = scores[r];
            if (a.softcap > 0) s = a.softcap * (1.0f - 2.0f / (1.0f + expf(2.0f * s / a.softcap)));
            const int end = first + (from_row + warp * OWN + r) / group + 1, at = base + lane;
            if (at >= min(end, span.high) || (a.window > 0 && at < end - a.window)) s = -infinity();
            float largest = s;
#pragma unroll
            for (int i = 16; i > 0; i >>= 1) largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, i));
            float raised = fmaxf(reference[r], largest), factor = expf(reference[r] - raised);
            reference[r] = raised;
            float p = expf(s - raised), total = p;
#pragma unroll
            for (int i = 16; i > 0; i >>= 1) total += __shfl_xor_sync(FULL, total, i);
            sum[r] = sum[r] * factor + total;
            factors[(warp * OWN + r) * 32 + lane] = p;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) result[r][i] *= factor;
        }
        __syncthreads();
#pragma unroll 2
        for (int k = 0; k < 32; k += 4) {
            float x[4][PER_LANE];
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int i = 0; i < PER_LANE; i++) x[e][i] = tile[(k + e) * STRIDE + 32 * i + lane];
#pragma unroll
            for (int r = 0; r < OWN; r++) {
                float4 p = *(const float4 *)(factors + (warp * OWN + r) * 32 + k);
#pragma unroll
                for (int i = 0; i < PER_LANE; i++)
                    result[r][i] += p.x * x[0][i] + p.y * x[1][i] + p.z * x[2][i] + p.w * x[3][i];
            }
        }
    }
    const int blocks = gridDim.y * gridDim.x, block = blockIdx.y * gridDim.x + blockIdx.x;
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        int row = warp * OWN + r;
        if (row >= rows) continue;
        if (span.active == 1) {
            float *out = out_row(a, kv_head, from_row + row);
            const float total = sum[r] + sink_of<true>(a, kv_head, from_row + row, reference[r]);
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
                if (32 * i + lane < a.dim) out[32 * i + lane] = result[r][i] / total;
        } else {
            if (lane == 0) ((float2 *)partial_sums(a, block, blockIdx.z, ROWS))[row] = make_float2(reference[r], sum[r]);
            float *out = partial_results(a, blocks, block, blockIdx.z, ROWS, DIM) + row * DIM;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) out[32 * i + lane] = result[r][i];
        }
    }
    if (span.active > 1 && arrived_last(a, block, span.active))
        combine<ROWS, DIM, 128, true, 4>(a, blocks, block, span.active, kv_head, from_row, rows);
}

extern "C" __global__ void __launch_bounds__(128, 3) attention_exact_64(const __grid_constant__ AttentionArgs a) { attention_exact<64, 32>(a); }
extern "C" __global__ void __launch_bounds__(128, 3) attention_exact_128(const __grid_constant__ AttentionArgs a) { attention_exact<128, 32>(a); }
extern "C" __global__ void __launch_bounds__(128, 3) attention_exact_256(const __grid_constant__ AttentionArgs a) { attention_exact<256, 16>(a); }
