// Attention over latent vectors for many queries, on tensor cores: queries, cached vectors and factors in f16, sums in f32.
//
//   extern "C" void latent_prompt_{f16,q8_0}_{128,320,576}(LatentArgs)    rank up to 128, 256, 512
//
// A block has 32 rows of queries, and takes 32 positions at a time into shared memory. Of the scores each of its eight
// warps computes 16 rows by 8 positions; of the softmax four rows; of the results all rows by an eighth of the columns.
//
// Grid: ceil(n * heads / 32). Block: 256. Dynamic shared memory: 2 * 64 * (WIDTH + 8) bytes. Splits are not served.
#include "latent.cuh"

constexpr int ROWS = 32, KEYS = 32, SCORES = KEYS + 4, FACTORS = KEYS + 8;
constexpr float LOWEST = -1e30f;

// Eight numbers of the cache as f16.
__device__ __forceinline__ uint4 eight_halves(const __half *x, const __half *, i64 at) { return *(const uint4 *)(x + at); }
__device__ __forceinline__ uint4 eight_halves(const signed char *x, const __half *scales, i64 at) {
    float v[8];
    eight(x, scales, at, v);
    return make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}

template <class T, int WIDTH> __device__ __forceinline__ void prompt(const LatentArgs &a) {
    // Tiles of 8 columns of the results that a warp has.
    constexpr int STRIDE = WIDTH + 8, TILES = WIDTH == 576 ? 8 : WIDTH == 320 ? 4 : 2;
    extern __shared__ __align__(16) __half halves_[];
    __half *queries = halves_, *tile = queries + ROWS * STRIDE;
    __shared__ __align__(16) __half factors[ROWS][FACTORS];
    __shared__ float scores[ROWS][SCORES], fading[ROWS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The last rows see the most positions: they begin first.
    const int first_row = (gridDim.x - 1 - blockIdx.x) * ROWS, rows = a.n * a.heads, cached = a.rank + a.rope;
    pdl_launch();
    pdl_wait();
    const int first = *a.position + a.offset, high = first + min(first_row + ROWS - 1, rows - 1) / a.heads + 1;
    const float scale = a.scale * LOG2_E;
    for (int at = threadIdx.x; at < ROWS * WIDTH; at += 256) {
        const int r = at / WIDTH, c = at % WIDTH, row = first_row + r;
        float x = 0;
        if (row < rows && c < cached)
            x = c < a.rank ? a.absorbed[(i64)row * a.rank + c] : a.q[(i64)row * (a.nope + a.rope) + a.nope + c - a.rank];
        queries[r * STRIDE + c] = __float2half_rn(x * scale);
    }
    const int row_tile = warp % 2 * 16, key_tile = warp / 2 * 8, columns = warp * TILES * 8;
    const u32 of_queries = shared_address(queries + (row_tile + lane % 16) * STRIDE + lane / 16 * 8);
    const u32 of_keys = shared_address(tile + (key_tile + lane % 8) * STRIDE + lane / 8 * 8);
    const u32 of_factors = shared_address(&factors[lane % 16][lane / 16 * 8]);
    const u32 of_values = shared_address(tile + lane % 16 * STRIDE + columns + lane / 16 * 8);
    float reference[4] = {LOWEST, LOWEST, LOWEST, LOWEST}, sum[4] = {};
    float results[2][TILES][4] = {};

    for (int base = 0; base < high; base += KEYS) {
        __syncthreads();
        for (int at = threadIdx.x; at < KEYS * (WIDTH / 8); at += 256) {
            const int k = at / (WIDTH / 8), c = at % (WIDTH / 8) * 8;
            uint4 x = make_uint4(0, 0, 0, 0);
            if (base + k < high && c < a.cache.row)
                x = eight_halves((const T *)a.cache.k, a.cache.k_scales, (i64)(base + k) * a.cache.row + c);
            *(uint4 *)(tile + k * STRIDE + c) = x;
        }
        __syncthreads();
        float own[4] = {};
#pragma unroll 6
        for (int i = 0; i < WIDTH / 32; i++) {
            u32 q[2][4], k[4];
            ldmatrix_4(k, of_keys + 64 * i);
            ldmatrix_4(q[0], of_queries + 64 * i);
            ldmatrix_4(q[1], of_queries + 64 * i + 32);
            mma(own, q[0][0], q[0][1], q[0][2], q[0][3], k[0], k[1]);
            mma(own, q[1][0], q[1][1], q[1][2], q[1][3], k[2], k[3]);
        }
        {
            const int r = row_tile + lane / 4, c = key_tile + lane % 4 * 2;
            *(float2 *)&scores[r][c] = make_float2(own[0], own[1]);
            *(float2 *)&scores[r + 8][c] = make_float2(own[2], own[3]);
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = 4 * warp + i, end = first + (first_row + r) / a.heads + 1;
            const float score = base + lane < min(end, high) ? scores[r][lane] : -infinity();
            float raised = score;
#pragma unroll
            for (int d = 16; d > 0; d /= 2) raised = fmaxf(raised, __shfl_xor_sync(FULL, raised, d));
            raised = fmaxf(reference[i], raised);
            const float factor = power_2(reference[i] - raised), p = power_2(score - raised);
            float total = p;
#pragma unroll
            for (int d = 16; d > 0; d /= 2) total += __shfl_xor_sync(FULL, total, d);
            reference[i] = raised;
            sum[i] = sum[i] * factor + total;
            factors[r][lane] = __float2half_rn(p);
            if (lane == 0) fading[r] = factor;
        }
        __syncthreads();
#pragma unroll
        for (int t = 0; t < 2; t++) {
            const float low = fading[16 * t + lane / 4], high_row = fading[16 * t + lane / 4 + 8];
#pragma unroll
            for (int n = 0; n < TILES; n++)
                results[t][n][0] *= low, results[t][n][1] *= low, results[t][n][2] *= high_row, results[t][n][3] *= high_row;
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            u32 p[2][4];
            ldmatrix_4(p[0], of_factors + 32 * k);
            ldmatrix_4(p[1], of_factors + 2 * 16 * FACTORS + 32 * k);
#pragma unroll
            for (int n = 0; n < TILES; n += 2) {
                u32 v[4];
                ldmatrix_4_trans(v, of_values + 2 * 16 * STRIDE * k + 16 * n);
#pragma unroll
                for (int t = 0; t < 2; t++) {
                    mma(results[t][n], p[t][0], p[t][1], p[t][2], p[t][3], v[0], v[1]);
                    mma(results[t][n + 1], p[t][0], p[t][1], p[t][2], p[t][3], v[2], v[3]);
                }
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (lane == 0) fading[4 * warp + i] = 1.0f / sum[i];
    __syncthreads();
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = 16 * t + lane / 4 + 8 * half, row = first_row + r;
            if (row >= rows) continue;
            const float inverse = fading[r];
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int c = columns + 8 * n + lane % 4 * 2 + e;
                    if (c < a.rank) a.out[(i64)row * a.rank + c] = results[t][n][2 * half + e] * inverse;
                }
        }
}

#define PROMPT(NAME, T, WIDTH)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 2) latent_prompt_##NAME##_##WIDTH(const __grid_constant__ LatentArgs a) { \
        prompt<T, WIDTH>(a);                                                                                               \
    }
PROMPT(f16, __half, 128)
PROMPT(f16, __half, 320)
PROMPT(f16, __half, 576)
PROMPT(q8_0, signed char, 128)
PROMPT(q8_0, signed char, 320)
PROMPT(q8_0, signed char, 576)
