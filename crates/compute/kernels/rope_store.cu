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
    int head = blockIdx.x * 8 + threadIdx.x / 32;
    float *row = rows[threadIdx.x / 32];
    if (head < a.heads) {
        query_row(row, a, args.r, token, head, a.dim, lane);
        int group = a.heads / a.kv_heads;
        float *to = a.rows.q + (i64)token * a.rows.q_token + (head / group) * a.rows.q_group + (head % group) * a.dim;
        for (int i = lane; i < a.dim; i += 32) to[i] = row[i];
        return;
    }
    head -= a.heads;
    int position = *a.position + token;
    if (head < a.kv_heads)
        append_key<T>(row, a, args.r, token, head, position, lane);
    else if (head < 2 * a.kv_heads)
        append_value<T>(row, a, token, head - a.kv_heads, position, lane);
}

extern "C" __global__ void __launch_bounds__(256) rope_store_f16(const __grid_constant__ RotatedAttentionArgs args) { rope_store<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_store_q8_0(const __grid_constant__ RotatedAttentionArgs args) { rope_store<signed char>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_store_f32(const __grid_constant__ RotatedAttentionArgs args) { rope_store<float>(args); }
