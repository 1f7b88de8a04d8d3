// Attention of many tokens on compute capability 9.0a: as attention_prompt.cu, but the products are wgmma's.
//
//   extern "C" void attention_wgmma_f16(AttentionArgs), attention_wgmma_q8_0(AttentionArgs)
//   compiled for compute_90a with -D HEAD_DIM=64|80|96|112|128|160|192|256 -D GROUPS=1|2
//
// A block is GROUPS warpgroups of 64 query rows each. In shared memory every 64 numbers of a head are a slab of rows of
// 128 bytes, 16-byte unit u of row r at u ^ (r & 7): wgmma's 128-byte swizzle.
//
//   q [slab][64 * GROUPS][64]     k, v [slab][KEYS][64], two of each in turn (f16), or one and codes ahead of it (q8_0)
//   scores = q k^T                both from shared memory, k's rows are wgmma's columns
//   result += p v                 p from registers, v "transposed" (its rows are the summation)
//
// Grid: (ceil(n * group / (64 GROUPS)), kv_heads, splits). If two blocks for each multiprocessor take all of them, those
// that see most keys and those that see fewest are paired; else those with most keys come first.
// Block: 128 * GROUPS. Dynamic shared memory: SHARED_F16, SHARED_Q8_0 below. `partial` as attention_prompt.cu.
#include "attention_split.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef GROUPS
#define GROUPS 2
#endif
constexpr int DIM = HEAD_DIM, SLABS = (DIM + 63) / 64, LAST = DIM - 64 * (SLABS - 1);
constexpr int KEYS = 64, M = 64 * GROUPS, THREADS = 128 * GROUPS, STAGES = 2;
constexpr int PADDED = DIM <= 64 ? 64 : DIM <= 128 ? 128 : 256;
constexpr int CODES = (DIM + 31) / 32 * 32, CODES_SHARED = 2 * KEYS * (CODES + CODES / 16);
constexpr int TILE_BYTES = SLABS * KEYS * 128, QUERY_BYTES = SLABS * M * 128;
// Bytes of dynamic shared memory, 1024 for its alignment.
constexpr int SHARED_F16 = 1024 + QUERY_BYTES + 2 * STAGES * TILE_BYTES;
constexpr int SHARED_Q8_0 = 1024 + QUERY_BYTES + 2 * TILE_BYTES + CODES_SHARED;
static_assert(SHARED_F16 + 16 <= 232448 && SHARED_Q8_0 + 16 <= 232448, "more shared memory than a block gets");
constexpr int PER_SM = DIM <= 128 ? (GROUPS == 1 ? 3 : 2) : GROUPS == 1 && DIM <= 192 ? 2 : 1;

constexpr float HEADROOM = 8.0f;

__device__ __forceinline__ void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// Ordinary writes to shared memory before it are seen by products after the next barrier.
__device__ __forceinline__ void writes_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Rows of 128 bytes, 8 rows a pattern of 1024 bytes, patterns one behind the other.
__device__ __forceinline__ u64 operand(u32 address) {
    return ((u64)(address & 0x3ffff) >> 4) | ((u64)(1024 >> 4) << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62);
}

#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D8(i) D4(i), D4(i + 4)
#define D16(i) D8(i), D8(i + 8)
#define D24(i) D16(i), D8(i + 16)
#define D32(i) D16(i), D16(i + 16)
#define R8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define R16 R8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define R24 R16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define R32 R24 ",%24,%25,%26,%27,%28,%29,%30,%31"

// d[64][64] (+)= q[64][16] k[64][16]^T.
__device__ __forceinline__ void product_of_scores(float (&d)[32], u64 q, u64 k, u32 add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" R32 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
                 : D32(0)
                 : "l"(q), "l"(k), "r"(add));
}
// d[64][N] += p[64][16] v[16][N].
#define PRODUCT(N, REGISTERS, OPERANDS, A0, A1, A2, A3, B)                                                                    \
    __device__ __forceinline__ void product_of_values(float(&d)[N / 2], const u32(&p)[4], u64 v) {                            \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" REGISTERS "}, {%" A0 ",%" A1 ",%" A2 ",%" A3  \
                     "}, %" B ", 1, 1, 1, 1;\n"                                                                               \
                     : OPERANDS                                                                                               \
                     : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));                                                   \
    }
PRODUCT(16, R8, D8(0), "8", "9", "10", "11", "12")
PRODUCT(32, R16, D16(0), "16", "17", "18", "19", "20")
PRODUCT(48, R24, D24(0), "24", "25", "26", "27", "28")
PRODUCT(64, R32, D32(0), "32", "33", "34", "35", "36")

// Address of unit `unit` (8 numbers) of row `row` in slabs of `rows` rows.
template <int ROWS> __device__ __forceinline__ u32 place(int row, int unit) {
    return (unit / 8) * (ROWS * 128) + row * 128 + ((unit % 8 ^ (row & 7)) << 4);
}

__device__ __forceinline__ void copy_tile(unsigned char *tile, const __half *cache, int row, int from, int end) {
    constexpr int UNITS = DIM / 8;
#pragma unroll
    for (int i = 0; i < (KEYS * UNITS + THREADS - 1) / THREADS; i++) {
        const int at = threadIdx.x + i * THREADS, key = at / UNITS, unit = at % UNITS;
        if (KEYS * UNITS % THREADS == 0 || at < KEYS * UNITS) {
            const bool inside = from + key < end && 8 * unit < row;
            copy_16(tile + place<KEYS>(key, unit), inside ? cache + (i64)(from + key) * row + 8 * unit : cache, inside);
        }
    }
}
__device__ __forceinline__ void copy_codes(unsigned char *to, const signed char *codes, const __half *scales, int row, int from, int end) {
    constexpr int UNITS = CODES / 16, BLOCKS = CODES / 32;
    for (int at = threadIdx.x; at < KEYS * UNITS; at += THREADS) {
        const int key = at / UNITS, unit = at % UNITS;
        const bool inside = from + key < end && 16 * unit < row;
        copy_16(to + key * CODES + 16 * unit, inside ? codes + (i64)(from + key) * row + 16 * unit : codes, inside);
    }
    __half *d = (__half *)(to + KEYS * CODES);
    for (int at = threadIdx.x; at < KEYS * BLOCKS; at += THREADS) {
        const int key = at / BLOCKS, block = at % BLOCKS;
        const bool inside = from + key < end && 32 * block < row;
        d[at] = inside ? scales[((i64)(from + key) * row >> 5) + block] : __float2half(0.0f);
    }
}
__device__ __forceinline__ void decode_codes(unsigned char *tile, const unsigned char *from) {
    constexpr int UNITS = DIM / 8;
    const __half *d = (const __half *)(from + KEYS * CODES);
#pragma unroll 2
    for (int at = threadIdx.x; at < KEYS * UNITS; at += THREADS) {
        const int key = at / UNITS, unit = at % UNITS;
        const uint2 x = *(const uint2 *)(from + key * CODES + 8 * unit);
        const __half2 scale = __half2half2(d[key * (CODES / 32) + unit / 4]);
        __half2 p[4];
        codes_to_halves(x.x, p[0], p[1]);
        codes_to_halves(x.y, p[2], p[3]);
#pragma unroll
        for (int i = 0; i < 4; i++) p[i] = __hmul2(p[i], scale);
        *(uint4 *)(tile + place<KEYS>(key, unit)) = make_uint4(bits(p[0]), bits(p[1]), bits(p[2]), bits(p[3]));
    }
}

// Which rows and which head a block takes.
__device__ __forceinline__ void assignment(int &rows, int &kv_head) {
    const u32 blocks = gridDim.x * gridDim.y, at = blockIdx.x + gridDim.x * blockIdx.y;
    u32 processors;
    asm("mov.u32 %0, %%nsmid;" : "=r"(processors));
    u32 rank = at;  // 0: most keys
    if (blocks > processors && blocks <= 2 * processors && at >= processors) rank = blocks - 1 - (at - processors);
    rows = gridDim.x - 1 - rank / gridDim.y, kv_head = rank % gridDim.y;
}

template <class T> __device__ __forceinline__ void attention(const AttentionArgs &a) {
    constexpr bool CODED = sizeof(T) == 1;
    constexpr int BUFFERS = CODED ? 1 : STAGES;
    extern __shared__ unsigned char memory_start[];
    unsigned char *memory = memory_start + (-shared_address(memory_start) & 1023);
    unsigned char *queries = memory, *keys = queries + QUERY_BYTES, *values = keys + BUFFERS * TILE_BYTES;
    unsigned char *key_codes = values + BUFFERS * TILE_BYTES, *value_codes = key_codes + CODES_SHARED / 2;
    const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int row_block, kv_head;
    assignment(row_block, kv_head);
    const int group = a.heads / a.kv_heads, from_row = row_block * M, rows = min(M, a.n * group - from_row);
    const int own_row = from_row + threadIdx.x / 32 * 16 + g;  // and 8 below
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
            copy_tile(keys + stage * TILE_BYTES, (const __half *)a.cache.k + head_at, a.cache.row, tile, span.high);
            copy_tile(values + stage * TILE_BYTES, (const __half *)a.cache.v + head_at, a.cache.row, tile, span.high);
        }
        copies_commit();
    };
    copy(span.low, 0);

    // A capped score stays in natural units until it is capped.
    const float scale = a.softcap > 0 ? a.scale : a.scale * LOG2_E;
#pragma unroll 2
    for (int at = threadIdx.x; at < M * (DIM / 8); at += THREADS) {
        const int r = at / (DIM / 8), unit = at % (DIM / 8), row = from_row + r;
        float x[8] = {};
        if (r < rows) {
            const float *q = a.rows.q + (i64)(row / group) * a.rows.q_token + kv_head * a.rows.q_group + row % group * a.dim + 8 * unit;
#pragma unroll
            for (int e = 0; e < 8; e += 2)
                if (8 * unit + e < a.dim) {
                    const float2 y = *(const float2 *)(q + e);
                    x[e] = y.x * scale, x[e + 1] = y.y * scale;
                }
        }
        *(uint4 *)(queries + place<M>(r, unit)) = make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
    }

    float result[SLABS][32] = {};
    float reference[2] = {LOWEST, LOWEST}, sum[2] = {};
    const u64 q_operand = operand(shared_address(queries) + warpgroup * 8192);
    const u64 k_operand = operand(shared_address(keys)), v_operand = operand(shared_address(values));
    int stage = 0;
    for (int tile = span.low; tile < span.high; tile += KEYS) {
        copies_wait<0>();
        if constexpr (CODED) {
            __syncthreads();
            decode_codes(keys, key_codes);
            decode_codes(values, value_codes);
        }
        writes_to_products();
        __syncthreads();
        if (tile + KEYS < span.high) copy(tile + KEYS, stage ^ 1);
        const u32 offset = CODED ? 0 : stage * (TILE_BYTES >> 4);

        float scores[32];
        products_fence();
#pragma unroll
        for (int s = 0; s < DIM / 16; s++)
            product_of_scores(scores, q_operand + (s / 4 * (M * 128) + s % 4 * 32 >> 4), k_operand + offset + (s / 4 * (KEYS * 128) + s % 4 * 32 >> 4), s > 0);
        products_end();

        if (a.softcap > 0) {
#pragma unroll
            for (int i = 0; i < 32; i++) scores[i] = capped(scores[i], a.softcap) * LOG2_E;
        }
        if (tile + KEYS > min(low_token + 1, span.high) || (a.window > 0 && tile < high_token + 1 - a.window)) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int end = first + (own_row + 8 * h) / group + 1;
                const int see_from = a.window > 0 ? end - a.window : 0, see_to = min(end, span.high);
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const int key = tile + 8 * j + 2 * t + e;
                        if (key >= see_to || key < see_from) scores[4 * j + 2 * h + e] = -infinity();
                    }
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float largest = LOWEST;
#pragma unroll
            for (int j = 0; j < 8; j++) largest = fmaxf(largest, fmaxf(scores[4 * j + 2 * h], scores[4 * j + 2 * h + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 2));
            if (__any_sync(FULL, largest > reference[h] + HEADROOM)) {
                const float raised = fmaxf(reference[h], largest), factor = power_2(reference[h] - raised);
                reference[h] = raised;
                sum[h] *= factor;
#pragma unroll
                for (int b = 0; b < SLABS; b++)
#pragma unroll
                    for (int i = 0; i < (b == SLABS - 1 ? LAST : 64) / 8; i++) result[b][4 * i + 2 * h] *= factor, result[b][4 * i + 2 * h + 1] *= factor;
            }
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    scores[4 * j + e] = power_2(scores[4 * j + e] - reference[h]);
                    sum[h] += scores[4 * j + e];
                }
        }
        u32 p[4][4];
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int e = 0; e < 4; e++) p[s][e] = pack(scores[8 * s + 2 * e], scores[8 * s + 2 * e + 1]);
        products_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) {
#pragma unroll
            for (int b = 0; b < SLABS; b++) {
                const u64 v = v_operand + offset + (b * (KEYS * 128) + s * 2048 >> 4);
                if (b < SLABS - 1)
                    product_of_values(result[b], p[s], v);
                else
                    product_of_values(*(float(*)[LAST / 2])result[b], p[s], v);
            }
        }
        products_end();
        stage ^= 1;
    }

    const int blocks = gridDim.y * gridDim.x, block = kv_head * gridDim.x + row_block;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = sum[h];
        total += __shfl_xor_sync(FULL, total, 1);
        total += __shfl_xor_sync(FULL, total, 2);
        const int r = own_row - from_row + 8 * h;
        if (r >= rows) continue;
        const bool whole = span.active == 1;
        const float factor = whole ? 1.0f / (total + sink_of<false>(a, kv_head, from_row + r, reference[h])) : 1.0f;
        if (!whole && t == 0) ((float2 *)partial_sums(a, block, blockIdx.z, M))[r] = make_float2(reference[h], total);
        float *out = (whole ? out_row(a, kv_head, from_row + r) : partial_results(a, blocks, block, blockIdx.z, M, PADDED) + r * PADDED) + 2 * t;
        const int width = whole ? a.dim : DIM;
#pragma unroll
        for (int i = 0; i < DIM / 8; i++)
            if (8 * i + 2 * t < width)
                *(float2 *)(out + 8 * i) = make_float2(result[i / 8][4 * (i % 8) + 2 * h] * factor, result[i / 8][4 * (i % 8) + 2 * h + 1] * factor);
    }
    if (span.active > 1 && arrived_last(a, block, span.active))
        combine<M, PADDED, THREADS, false, 4>(a, blocks, block, span.active, kv_head, from_row, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) attention_wgmma_f16(const __grid_constant__ AttentionArgs a) { attention<__half>(a); }
extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) attention_wgmma_q8_0(const __grid_constant__ AttentionArgs a) { attention<signed char>(a); }
