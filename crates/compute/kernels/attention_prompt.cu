// Attention of many tokens over an f16 or q8_0 cache, in tiles on the tensor cores; scores are never stored. For
// compute_75 and compute_80; capability 9.0 has attention_wgmma.cu.
//
//   extern "C" void attention_prompt_f16(AttentionArgs), attention_prompt_q8_0(AttentionArgs)
//   compiled with -D HEAD_DIM=64|80|96|112|128|160|192|256: head_dim rounded up to one of them.
//
// rope_store has rotated q and put k and v of the batch into the cache. A block takes M query rows (tokens times heads
// of a group, see attention.cuh) of one key-value head, each warp 16 or 32 of them, and goes through the keys KEYS at a
// time with the online softmax of flash attention (Dao et al. 2022; Dao 2023: rows among the warps):
//
//   q [M][DIM] f16 in shared memory, times the scale     k, v [KEYS][DIM] f16, two of each in turn (f16)
//   scores = q k^T in registers -> e^(s - reference) -> as the operand of result += p v
//
// The reference of a row is raised only when a score is more than 2^8 above it: e^ stays within f16's range, and the
// results are rarely scaled. q8_0: codes and scales are copied ahead and become f16 once per block and tile.
// Rows of shared memory are 16 bytes longer than DIM: ldmatrix then meets no bank twice.
//
// Grid: (ceil(n * group / M), kv_heads, splits); later rows, which see more keys, begin first. Block: 32 * WARPS.
// Dynamic shared memory: SHARED_F16 or SHARED_Q8_0 below (crates/compute/src/cuda/attention_plan.rs computes the same).
// splits > 1 (few tokens over a long text): `partial` holds blocks * splits * M * (PADDED + 2) floats, PADDED = DIM
// rounded up to 4 * a power of two (64, 128, 256).
#include "attention_split.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
constexpr int DIM = HEAD_DIM;
// Row tiles of 16 a warp takes, warps, keys of a tile, blocks that share a multiprocessor, tiles of k and v.
#if __CUDA_ARCH__ >= 800
// 99 KiB on 8.6 and 8.9.
constexpr int MT = DIM <= 128 ? 2 : 1, WARPS = DIM <= 128 || DIM > 160 ? 4 : 8;
constexpr int KEYS = DIM <= 96 ? 64 : DIM <= 192 ? 32 : 16, PER_SM = DIM <= 128 ? 2 : 1, STAGES = 2, MOST_SHARED = 101376;
#else
constexpr int MT = 1, WARPS = 4, KEYS = DIM <= 128 ? 32 : 16, PER_SM = 1, STAGES = 1, MOST_SHARED = 65536;
#endif
constexpr int M = 16 * MT * WARPS, THREADS = 32 * WARPS, STRIDE = DIM + 8;
constexpr int PADDED = DIM <= 64 ? 64 : DIM <= 128 ? 128 : 256;
constexpr int CODES = (DIM + 31) / 32 * 32, CODES_SHARED = 2 * KEYS * (CODES + CODES / 16);
// Bytes of dynamic shared memory.
constexpr int SHARED_F16 = 2 * STRIDE * (M + 2 * STAGES * KEYS);
constexpr int SHARED_Q8_0 = 2 * STRIDE * (M + 2 * KEYS) + CODES_SHARED;

constexpr float HEADROOM = 8.0f;

// KEYS rows of k or v of an f16 cache from position `from` on into a tile; positions from `end` on become zeros.
__device__ __forceinline__ void copy_tile(__half *tile, const __half *cache, int row, int from, int end) {
    constexpr int UNITS = DIM / 8;
#pragma unroll
    for (int i = 0; i < (KEYS * UNITS + THREADS - 1) / THREADS; i++) {
        int at = threadIdx.x + i * THREADS, key = at / UNITS, unit = at % UNITS;
        if (KEYS * UNITS % THREADS == 0 || at < KEYS * UNITS) {
            bool inside = from + key < end && 8 * unit < row;
            copy_16(tile + key * STRIDE + 8 * unit, inside ? cache + (i64)(from + key) * row + 8 * unit : cache, inside);
        }
    }
}

// The same of a q8_0 cache: codes [KEYS][CODES], behind them scales [KEYS][CODES / 32], both as they are.
__device__ __forceinline__ void copy_codes(unsigned char *to, const signed char *codes, const __half *scales, int row,
                                           int from, int end) {
    constexpr int UNITS = CODES / 16, BLOCKS = CODES / 32;
    for (int at = threadIdx.x; at < KEYS * UNITS; at += THREADS) {
        int key = at / UNITS, unit = at % UNITS;
        bool inside = from + key < end && 16 * unit < row;
        copy_16(to + key * CODES + 16 * unit, inside ? codes + (i64)(from + key) * row + 16 * unit : codes, inside);
    }
    __half *d = (__half *)(to + KEYS * CODES);
    for (int at = threadIdx.x; at < KEYS * BLOCKS; at += THREADS) {
        int key = at / BLOCKS, block = at % BLOCKS;
        bool inside = from + key < end && 32 * block < row;
        d[at] = inside ? scales[((i64)(from + key) * row >> 5) + block] : __float2half(0.0f);
    }
}
__device__ __forceinline__ void decode_codes(__half *tile, const unsigned char *from) {
    constexpr int UNITS = DIM / 16;
    const __half *d = (const __half *)(from + KEYS * CODES);
    for (int at = threadIdx.x; at < KEYS * UNITS; at += THREADS) {
        int key = at / UNITS, unit = at % UNITS;
        uint4 x = *(const uint4 *)(from + key * CODES + 16 * unit);
        __half2 scale = __half2half2(d[key * (CODES / 32) + unit / 2]), p[8];
        codes_to_halves(x.x, p[0], p[1]);
        codes_to_halves(x.y, p[2], p[3]);
        codes_to_halves(x.z, p[4], p[5]);
        codes_to_halves(x.w, p[6], p[7]);
#pragma unroll
        for (int i = 0; i < 8; i++) p[i] = __hmul2(p[i], scale);
        uint4 *to = (uint4 *)(tile + key * STRIDE + 16 * unit);
        to[0] = make_uint4(bits(p[0]), bits(p[1]), bits(p[2]), bits(p[3]));
        to[1] = make_uint4(bits(p[4]), bits(p[5]), bits(p[6]), bits(p[7]));
    }
}

template <class T> __device__ __forceinline__ void attention_prompt(const AttentionArgs &a) {
    constexpr bool CODED = sizeof(T) == 1;
    constexpr int BUFFERS = CODED ? 1 : STAGES;
    extern __shared__ __align__(16) unsigned char memory[];
    __half *queries = (__half *)memory;
    __half *keys = queries + M * STRIDE, *values = keys + BUFFERS * KEYS * STRIDE;
    unsigned char *key_codes = (unsigned char *)(values + BUFFERS * KEYS * STRIDE);
    unsigned char *value_codes = key_codes + CODES_SHARED / 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int kv_head = blockIdx.y, group = a.heads / a.kv_heads;
    const int from_row = (gridDim.x - 1 - blockIdx.x) * M, rows = min(M, a.n * group - from_row);
    pdl_launch();
    pdl_wait();

    const int first = *a.position;
    const int low_token = first + from_row / group, high_token = first + (from_row + rows - 1) / group;
    const int begin = a.window > 0 ? max(0, low_token + 1 - a.window) : 0;
    const Span span = span_of(begin, high_token + 1, blockIdx.z, a.splits, KEYS, KEYS);
    if ((int)blockIdx.z >= span.active) return;

    const i64 head_at = (i64)kv_head * a.cache.context * a.cache.row;
    auto copy = [&](int tile, int stage) {
        if constexpr (CODED) {
            copy_codes(key_codes, (const signed char *)a.cache.k + head_at, a.cache.k_scales + (head_at >> 5), a.cache.row, tile, span.high);
            copy_codes(value_codes, (const signed char *)a.cache.v + head_at, a.cache.v_scales + (head_at >> 5), a.cache.row, tile, span.high);
        } else {
            copy_tile(keys + stage * KEYS * STRIDE, (const __half *)a.cache.k + head_at, a.cache.row, tile, span.high);
            copy_tile(values + stage * KEYS * STRIDE, (const __half *)a.cache.v + head_at, a.cache.row, tile, span.high);
        }
        copies_commit();
    };
    if (CODED || STAGES == 2) copy(span.low, 0);

    // A capped score stays in natural units until it is capped.
    const float scale = a.softcap > 0 ? a.scale : a.scale * LOG2_E;
    for (int at = threadIdx.x; at < M * (DIM / 4); at += THREADS) {
        int r = at / (DIM / 4), c = at % (DIM / 4) * 4, row = from_row + r;
        float x[4] = {0, 0, 0, 0};
        if (r < rows) {
            const float *q = a.rows.q + (i64)(row / group) * a.rows.q_token + kv_head * a.rows.q_group + row % group * a.dim + c;
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (c + e < a.dim) x[e] = q[e] * scale;
        }
        *(uint2 *)(queries + r * STRIDE + c) = make_uint2(pack(x[0], x[1]), pack(x[2], x[3]));
    }

    float result[MT][DIM / 8][4] = {};
    float reference[MT][2], sum[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            reference[m][h] = LOWEST, sum[m][h] = 0;
        }
    // Lanes of ldmatrix: rows 0-15 of q, of v; of k rows 0-7, 0-7, 8-15, 8-15 with columns 0, 8, 0, 8.
    const u32 q_at = shared_address(queries + (warp * MT * 16 + lane % 16) * STRIDE + lane / 16 * 8);
    const u32 k_at = shared_address(keys + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8);
    const u32 v_at = shared_address(values + (lane % 16) * STRIDE + lane / 16 * 8);
    const int all_see_to = low_token + 1, all_see_from = a.window > 0 ? high_token + 1 - a.window : 0;

    int stage = 0;
    for (int tile = span.low; tile < span.high; tile += KEYS) {
        if constexpr (CODED) {
            copies_wait<0>();
            __syncthreads();
            decode_codes(keys, key_codes);
            decode_codes(values, value_codes);
            __syncthreads();
            if (tile + KEYS < span.high) copy(tile + KEYS, 0);
        } else if constexpr (STAGES == 2) {
            copies_wait<0>();
            __syncthreads();
            if (tile + KEYS < span.high) copy(tile + KEYS, stage ^ 1);
        } else {
            __syncthreads();
            copy(tile, 0);
            __syncthreads();
        }
        const u32 offset = CODED ? 0 : stage * KEYS * STRIDE * 2;

        float scores[MT][KEYS / 8][4] = {};
#pragma unroll
        for (int s = 0; s < DIM / 16; s++) {
            u32 q[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) ldmatrix_4(q[m], q_at + (m * 16 * STRIDE + s * 16) * 2);
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                u32 x[4];
                ldmatrix_4(x, k_at + offset + (j * 16 * STRIDE + s * 16) * 2);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma(scores[m][2 * j], q[m][0], q[m][1], q[m][2], q[m][3], x[0], x[1]);
                    mma(scores[m][2 * j + 1], q[m][0], q[m][1], q[m][2], q[m][3], x[2], x[3]);
                }
            }
        }
        if (a.softcap > 0) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) scores[m][j][e] = capped(scores[m][j][e], a.softcap) * LOG2_E;
        }
        if (tile + KEYS > min(all_see_to, span.high) || tile < all_see_from) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int end = first + (from_row + (warp * MT + m) * 16 + 8 * h + g) / group + 1;
                    const int see_from = a.window > 0 ? end - a.window : 0, see_to = min(end, span.high);
#pragma unroll
                    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            int key = tile + 8 * j + 2 * t + e;
                            if (key >= see_to || key < see_from) scores[m][j][2 * h + e] = -infinity();
                        }
                }
        }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float largest = LOWEST;
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
                    largest = fmaxf(largest, fmaxf(scores[m][j][2 * h], scores[m][j][2 * h + 1]));
                largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 2));
                if (__any_sync(FULL, largest > reference[m][h] + HEADROOM)) {
                    float raised = fmaxf(reference[m][h], largest);
                    float factor = power_2(reference[m][h] - raised);
                    reference[m][h] = raised;
                    sum[m][h] *= factor;
#pragma unroll
                    for (int i = 0; i < DIM / 8; i++) result[m][i][2 * h] *= factor, result[m][i][2 * h + 1] *= factor;
                }
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++) {
                        scores[m][j][e] = power_2(scores[m][j][e] - reference[m][h]);
                        sum[m][h] += scores[m][j][e];
                    }
            }
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            u32 p[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    p[m][e] = pack(scores[m][2 * j + e / 2][2 * (e % 2)], scores[m][2 * j + e / 2][2 * (e % 2) + 1]);
#pragma unroll
            for (int i = 0; i < DIM / 16; i++) {
                u32 x[4];
                ldmatrix_4_trans(x, v_at + offset + (j * 16 * STRIDE + i * 16) * 2);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma(result[m][2 * i], p[m][0], p[m][1], p[m][2], p[m][3], x[0], x[1]);
                    mma(result[m][2 * i + 1], p[m][0], p[m][1], p[m][2], p[m][3], x[2], x[3]);
                }
            }
        }
        if (STAGES == 2) stage ^= 1;
    }

    const int blocks = gridDim.y * gridDim.x, block = blockIdx.y * gridDim.x + blockIdx.x;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = sum[m][h];
            total += __shfl_xor_sync(FULL, total, 1);
            total += __shfl_xor_sync(FULL, total, 2);
            int r = (warp * MT + m) * 16 + 8 * h + g;
            if (r >= rows) continue;
            if (span.active == 1) {
                float inverse = 1.0f / (total + sink_of<false>(a, kv_head, from_row + r, reference[m][h]));
                float *out = out_row(a, kv_head, from_row + r) + 2 * t;
#pragma unroll
                for (int i = 0; i < DIM / 8; i++)
                    if (8 * i + 2 * t < a.dim)
                        *(float2 *)(out + 8 * i) = make_float2(result[m][i][2 * h] * inverse, result[m][i][2 * h + 1] * inverse);
            } else {
                if (t == 0) ((float2 *)partial_sums(a, block, blockIdx.z, M))[r] = make_float2(reference[m][h], total);
                float *out = partial_results(a, blocks, block, blockIdx.z, M, PADDED) + r * PADDED + 2 * t;
#pragma unroll
                for (int i = 0; i < DIM / 8; i++)
                    *(float2 *)(out + 8 * i) = make_float2(result[m][i][2 * h], result[m][i][2 * h + 1]);
            }
        }
    if (span.active > 1 && arrived_last(a, block, span.active))
        combine<M, PADDED, THREADS, false, 8>(a, blocks, block, span.active, kv_head, from_row, rows);
}

// 16 more for arrived_last.
static_assert(SHARED_F16 + 16 <= MOST_SHARED && SHARED_Q8_0 + 16 <= MOST_SHARED, "more shared memory than a block gets");

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) attention_prompt_f16(const __grid_constant__ AttentionArgs a) { attention_prompt<__half>(a); }
extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) attention_prompt_q8_0(const __grid_constant__ AttentionArgs a) { attention_prompt<signed char>(a); }
