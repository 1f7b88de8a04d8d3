// Norms of heads, rotation, and appending to the cache, for a batch of any number of tokens: q is rotated in place,
// k and v go to the cache at positions *position + token.
//
//   extern "C" void rope_store_f16(RotatedAttentionArgs), rope_store_q8_0(...), rope_store_f32(...)
//
// Reads rows, cache, position, n, heads, kv_heads, dim of AttentionArgs and all of Rotation (pairs 0: no rotation).
// A warp takes one of a token's heads + 2 kv_heads rows (several at once were slower).
// Grid: (ceil((heads + 2 kv_heads) / 8), n). Block: 256. No dynamic shared memory.
#include "rope.cuh"

template <class T, int LENGTH> __device__ __forceinline__ void rope_store(const RotatedAttentionArgs &args, float *row) {
    const AttentionArgs &a = args.a;
    const int lane = threadIdx.x % 32, token = blockIdx.y, head = blockIdx.x * 8 + threadIdx.x / 32, other = head - a.heads;
    const int group = a.heads / a.kv_heads;
    if (other >= 2 * a.kv_heads) return;
    const bool query = other < 0, key = other < a.kv_heads;
    const int position = *a.position + token, kv_head = query ? head / group : other % a.kv_heads;
    const RowTask task = query ? query_task(a, args.r, token, kv_head, head % group)
                         : key ? key_task(a, args.r, token, kv_head)
                               : value_task(a, token, kv_head);
    make_row<LENGTH>(row, task, load_row<LENGTH>(task, a.dim, args.r.interleaved, lane), a.dim, args.r.interleaved, args.r.eps, lane);
    if (query) {
        float *to = (float *)task.x;
#pragma unroll
        for (int j = 0; j < LENGTH; j += 32)
            if (j + lane < a.dim) to[j + lane] = row[j + lane];
    } else {
        store_row(row, (T *)(key ? a.cache.k : a.cache.v), key ? a.cache.k_scales : a.cache.v_scales,
                  row_at(a.cache, kv_head, position), a.cache.row, lane);
    }
}

template <class T> __device__ __forceinline__ void rope_store(const RotatedAttentionArgs &args) {
    __shared__ float rows[8][256];
    pdl_launch();
    pdl_wait();
    float *row = rows[threadIdx.x / 32];
    if (args.a.dim <= 128)
        rope_store<T, 128>(args, row);
    else
        rope_store<T, 256>(args, row);
}

extern "C" __global__ void __launch_bounds__(256) rope_store_f16(const __grid_constant__ RotatedAttentionArgs args) { rope_store<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_store_q8_0(const __grid_constant__ RotatedAttentionArgs args) { rope_store<signed char>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_store_f32(const __grid_constant__ RotatedAttentionArgs args) { rope_store<float>(args); }
