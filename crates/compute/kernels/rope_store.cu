// Norms of heads, rotation, and appending to the cache, for a batch of any number of tokens: q is rotated in place,
// k and v go to the cache at positions *position + token.
//
//   extern "C" void rope_store_f16(RotatedAttentionArgs), rope_store_q8_0(...), rope_store_f32(...)
//
// Reads rows, cache, position, n, heads, kv_heads, dim of AttentionArgs and all of Rotation (pairs 0: no rotation).
// Grid: (ceil((heads + 2 kv_heads) / 8), n). Block: 256 threads, a warp for each row. No dynamic shared memory.
#include "rope.cuh"

template <class T> __device__ __forceinline__ void rope_store(const RotatedAttentionArgs &args) {
    __shared__ float rows[8][256];
    pdl_launch();
    pdl_wait();
    const AttentionArgs &a = args.a;
    const int lane = threadIdx.x % 32, token = blockIdx.y;
    const int head = blockIdx.x * 8 + threadIdx.x / 32, group = a.heads / a.kv_heads;
    if (head >= a.heads + 2 * a.kv_heads) return;
    float *row = rows[threadIdx.x / 32];
    const bool query = head < a.heads, key = head < a.heads + a.kv_heads;
    const int kv_head = query ? head / group : (head - a.heads) % a.kv_heads;
    const RowTask task = query ? query_task(a, args.r, token, kv_head, head % group)
                         : key ? key_task(a, args.r, token, kv_head)
                               : value_task(a, token, kv_head);
    make_row<256>(row, task, load_row<256>(task, a.dim, args.r.interleaved, lane), a.dim, args.r.interleaved, args.r.eps, lane);
    if (query) {
        float *to = (float *)task.x;
        for (int i = lane; i < a.dim; i += 32) to[i] = row[i];
    } else {
        store_row(row, (T *)(key ? a.cache.k : a.cache.v), key ? a.cache.k_scales : a.cache.v_scales,
                  row_at(a.cache, kv_head, *a.position + token), a.cache.row, lane);
    }
}

extern "C" __global__ void __launch_bounds__(256) rope_store_f16(const __grid_constant__ RotatedAttentionArgs args) { rope_store<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_store_q8_0(const __grid_constant__ RotatedAttentionArgs args) { rope_store<signed char>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_store_f32(const __grid_constant__ RotatedAttentionArgs args) { rope_store<float>(args); }
