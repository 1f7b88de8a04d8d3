// Norms of heads, rotation, and appending to the cache, for a batch of any number of tokens: q is rotated in place,
// k and v go to the cache at positions *position + token.
//
//   extern "C" void rope_store_f16(RotatedAttentionArgs), rope_store_q8_0(...), rope_store_f32(...)
//
// Reads rows, cache, position, n, heads, kv_heads, dim of AttentionArgs and all of Rotation (pairs 0: no rotation).
// A warp takes four (head_dim above 128: two) of a token's heads + 2 kv_heads rows, all of whose loads are on their way
// at once. Grid: ceil(n * ceil((heads + 2 kv_heads) / 4 or 2) / 8). Block: 256. No dynamic shared memory.
#include "rope.cuh"

template <class T, int LENGTH> __device__ __forceinline__ void rope_store(const RotatedAttentionArgs &args, float *row) {
    constexpr int ROWS = LENGTH <= 128 ? 4 : 2;
    const AttentionArgs &a = args.a;
    const int lane = threadIdx.x % 32, group = a.heads / a.kv_heads, all = a.heads + 2 * a.kv_heads;
    const int warp = blockIdx.x * 8 + threadIdx.x / 32, of_token = (all + ROWS - 1) / ROWS;
    const int token = warp / of_token, from = warp % of_token * ROWS;
    if (token >= a.n) return;
    const int position = *a.position + token;
    RowTask tasks[ROWS];
    RowValues<LENGTH> values[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int head = min(from + i, all - 1), kv_head = head < a.heads ? head / group : (head - a.heads) % a.kv_heads;
        tasks[i] = head < a.heads              ? query_task(a, args.r, token, kv_head, head % group)
                   : head < a.heads + a.kv_heads ? key_task(a, args.r, token, kv_head)
                                                 : value_task(a, token, kv_head);
        values[i] = load_row<LENGTH>(tasks[i], a.dim, args.r.interleaved, lane);
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int head = from + i, other = head - a.heads;
        if (head >= all) return;
        make_row<LENGTH>(row, tasks[i], values[i], a.dim, args.r.interleaved, args.r.eps, lane);
        if (other < 0) {
            float *to = (float *)tasks[i].x;
#pragma unroll
            for (int j = 0; j < LENGTH; j += 32)
                if (j + lane < a.dim) to[j + lane] = row[j + lane];
        } else {
            const bool key = other < a.kv_heads;
            store_row(row, (T *)(key ? a.cache.k : a.cache.v), key ? a.cache.k_scales : a.cache.v_scales,
                      row_at(a.cache, other % a.kv_heads, position), a.cache.row, lane);
        }
        __syncwarp();
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
