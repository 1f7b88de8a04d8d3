// Attention of 1 to 4 tokens over an f16 or q8_0 cache, split over the keys; rotates and appends the new tokens itself.
//
//   extern "C" void attention_decode_{f16,q8_0}_{64,128,256}_{8,16}(RotatedAttentionArgs)   (256: only _8)
//
// The first number is head_dim rounded up to one of the three, the second the query rows (tokens * heads of a group)
// that a block takes; more rows: more blocks, the keys come from L2 then.
// Grid: (splits, kv_heads, ceil(n * group / rows)). Block: 256 threads. Dynamic shared memory: 4 * rows * DIM
// bytes for the queries, then max(slots * rows, 8) * DIM * 4, where slots is 8 if rows * DIM <= 1024, else 4.
// Every split has at least 128 keys as far as there are any; blocks without keys end at once.
// `partial`: blocks * splits * rows * (DIM + 2) floats with blocks = kv_heads * grid.z.
//
// Each of 8 warps takes 16 keys at a time, straight from global memory into the operands of mma: the numbers of a head
// may be summed in any order, so a thread takes 8 adjacent ones where the instruction's picture has 2 + 2 apart.
//
//   scores [rows][keys] = q k^T   rows 0-7 of the operand hold the queries rounded to f16, rows 8-15 what rounding left;
//   result [dims][rows] = v^T p^T   p likewise in two products. So q and p enter with 22 bits.
//
// A warp's sums have a reference of their own (as in flash attention's online softmax, Dao et al. 2022), the warps are
// combined in shared memory. p carries a factor 2^8 against f16's subnormals.
#include "attention_reader.cuh"
#include "attention_split.cuh"
#include "rope.cuh"

constexpr int WARPS = 8, TILE = 16, LEAST = 128;
constexpr float HEADROOM = 8.0f;

// Room for the results of all warps, or of half of them.
__host__ __device__ constexpr int slots_of(int dim, int row_tiles) { return dim * row_tiles <= 128 ? 8 : 4; }

// The queries of row `r` as operands: [row tile][step of 16][lane].
template <int DIM> __device__ __forceinline__ void put_query(uint4 *queries, const float *row, int r, float scale, int lane) {
    uint4 *tile = queries + (r / 8) * (DIM / 16) * 32;
    if (lane < DIM / 8) {
        int b = lane / 4, t = lane % 4, at = (r % 8) * 4 + t;
        u32 h[4], l[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 x = *(const float2 *)(row + 32 * b + 8 * t + 2 * i);
            pack_two(x.x * scale, x.y * scale, h[i], l[i]);
        }
        tile[2 * b * 32 + at] = make_uint4(h[0], l[0], h[1], l[1]);
        tile[(2 * b + 1) * 32 + at] = make_uint4(h[2], l[2], h[3], l[3]);
    }
}

// Volatile: taken out of the loop over the keys, the queries would fill the registers.
__device__ __forceinline__ uint4 operand(u32 at) {
    uint4 x;
    asm volatile("ld.volatile.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(at));
    return x;
}

template <class T, int DIM, int RT> __device__ __forceinline__ void attention_decode(const RotatedAttentionArgs &args) {
    constexpr int ROWS = 8 * RT;
    using Read = Reader<T, DIM>;
    constexpr int UNIT = Read::UNIT, VBLOCKS = Read::VBLOCKS, PAIRS = UNIT / 2;
    constexpr int SLOTS = slots_of(DIM, RT);
    extern __shared__ __align__(16) unsigned char memory[];
    uint4 *queries = (uint4 *)memory;                              // [RT][DIM / 16][32]
    float *slots = (float *)(queries + RT * (DIM / 16) * 32);      // [SLOTS][ROWS][DIM], and [8][DIM] before
    __shared__ __align__(16) float warp_sums[WARPS][ROWS][2];
    __shared__ float2 own_sums[ROWS];  // of all warps together
    const AttentionArgs &a = args.a;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int kv_head = blockIdx.y, group = a.heads / a.kv_heads;
    const int from_row = blockIdx.z * ROWS, rows = min(ROWS, a.n * group - from_row);
    float *row = slots + warp * DIM;
    // Each warp's first query is on its way while position and keys are asked for.
    RowTask task = query_task(a, args.r, min(from_row + warp, a.n * group - 1) / group, kv_head, (from_row + warp) % group);
    if (a.stored) task.norm = task.pairs = 0;
    RowValues<DIM> values;
    pdl_launch();
    if (!a.early) {
        pdl_wait();
        values = load_row<DIM>(task, a.dim, args.r.interleaved, lane);
    }

    const int first = *a.position, end = first + a.n;
    const int begin = a.window > 0 ? max(0, first + 1 - a.window) : 0;
    const Span span = span_of(begin, end, blockIdx.x, a.splits, LEAST, TILE);
    if ((int)blockIdx.x >= span.active) return;
    const i64 base = (i64)kv_head * a.cache.context;
    const int last = span.high - 1;
    Read read;
    int tile = span.low + TILE * warp;
    // Only what earlier tokens left is there already.
    const bool before = tile < span.high && min(tile + TILE, span.high) <= first;
    if (before) {
        read.load_keys(a.cache, base, tile, last, g, t);
        read.load_values(a.cache, base, tile, last, g, t);
    }
    if (a.early) {
        pdl_wait();
        values = load_row<DIM>(task, a.dim, args.r.interleaved, lane);
    }

    const int new_low = max(first, span.low), fresh = a.stored ? 0 : max(0, span.high - new_low);
    // A capped score stays in natural units until it is capped.
    const float scale = a.softcap > 0 ? a.scale : a.scale * LOG2_E;
    // Rows of queries, then keys and values of the new tokens among the block's keys.
#pragma unroll 1
    for (int at = warp; at < rows + 2 * fresh; at += WARPS) {
        const bool query = at < rows, key = (at - rows) % 2 == 0;
        const int r = from_row + at, position = new_low + (at - rows) / 2;
        if (at != warp || !query) {
            task = query ? query_task(a, args.r, r / group, kv_head, r % group)
                   : key ? key_task(a, args.r, position - first, kv_head)
                         : value_task(a, position - first, kv_head);
            if (a.stored) task.norm = task.pairs = 0;
            values = load_row<DIM>(task, a.dim, args.r.interleaved, lane);
        }
        make_row<DIM>(row, task, values, a.dim, args.r.interleaved, args.r.eps, lane);
        if (query)
            put_query<DIM>(queries, row, at, scale, lane);
        else
            store_row(row, (T *)(key ? a.cache.k : a.cache.v), key ? a.cache.k_scales : a.cache.v_scales,
                      row_at(a.cache, kv_head, position), a.cache.row, lane);
        __syncwarp();
    }
    // Rows that are none: any finite numbers.
#pragma unroll 1
    for (int at = threadIdx.x; at < (ROWS - rows) * (DIM / 4); at += 32 * WARPS) {
        const int r = rows + at / (DIM / 4), s = at % (DIM / 4) / 4, q = at % 4;
        queries[((r / 8) * (DIM / 16) + s) * 32 + r % 8 * 4 + q] = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
    if (!before && tile < span.high) {
        read.load_keys(a.cache, base, tile, last, g, t);
        read.load_values(a.cache, base, tile, last, g, t);
    }

    const u32 queries_at = shared_address(queries + lane);
    float result[RT][VBLOCKS][PAIRS][4] = {};
    float reference[RT], sum[RT];
    int see_from[RT], see_to[RT];
#pragma unroll
    for (int m = 0; m < RT; m++) {
        reference[m] = LOWEST, sum[m] = 0;
        see_to[m] = min(first + (from_row + 8 * m + g) / group + 1, span.high);
        see_from[m] = a.window > 0 ? first + (from_row + 8 * m + g) / group + 1 - a.window : 0;
    }

    for (; tile < span.high; tile += TILE * WARPS) {
        const int next = tile + TILE * WARPS;
        float scores[RT][2][2][4] = {};  // [row tile][even or odd step][keys 0-7, 8-15]: short chains
#pragma unroll
        for (int b = 0; b < DIM / 32; b++) {
            u32 x[2][4];
            read.key(0, b, lane, x[0]);
            read.key(1, b, lane, x[1]);
#pragma unroll
            for (int m = 0; m < RT; m++) {
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    uint4 q = operand(queries_at + ((m * (DIM / 16) + 2 * b + s) * 32) * 16);
#pragma unroll
                    for (int j = 0; j < 2; j++) mma(scores[m][s][j], q.x, q.y, q.z, q.w, x[j][2 * s], x[j][2 * s + 1]);
                }
            }
        }
        if (next < span.high) read.load_keys(a.cache, base, next, last, g, t);

        u32 high[RT][2], low[RT][2];
#pragma unroll
        for (int m = 0; m < RT; m++) {
            float s[4];
            float largest = LOWEST;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[i] = (scores[m][0][i >> 1][i & 1] + scores[m][1][i >> 1][i & 1]) +
                       (scores[m][0][i >> 1][(i & 1) + 2] + scores[m][1][i >> 1][(i & 1) + 2]);
                if (a.softcap > 0) s[i] = capped(s[i], a.softcap) * LOG2_E;
                int key = tile + 8 * (i >> 1) + 2 * t + (i & 1);
                if (key >= see_to[m] || key < see_from[m]) s[i] = -infinity();
                largest = fmaxf(largest, s[i]);
            }
            largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 2));
            float raised = fmaxf(reference[m], largest - HEADROOM);
            if (__any_sync(FULL, raised > reference[m])) {
                float factor = power_2(reference[m] - raised);
                sum[m] *= factor;
                reference[m] = raised;
                float f0 = __shfl_sync(FULL, factor, 8 * t), f1 = __shfl_sync(FULL, factor, 8 * t + 4);
#pragma unroll
                for (int b = 0; b < VBLOCKS; b++)
#pragma unroll
                    for (int i = 0; i < PAIRS; i++) {
                        result[m][b][i][0] *= f0, result[m][b][i][1] *= f1;
                        result[m][b][i][2] *= f0, result[m][b][i][3] *= f1;
                    }
            }
#pragma unroll
            for (int i = 0; i < 4; i++) s[i] = power_2(s[i] - reference[m]);
            sum[m] += (s[0] + s[1]) + (s[2] + s[3]);
            pack_two(s[0], s[1], high[m][0], low[m][0]);
            pack_two(s[2], s[3], high[m][1], low[m][1]);
        }
#pragma unroll
        for (int b = 0; b < VBLOCKS; b++) {
            u32 x[4][PAIRS];
            read.values(b, x);
#pragma unroll
            for (int i = 0; i < PAIRS; i++) {
                // Dimensions 2 i and 2 i + 1 of the unit as rows g and g + 8, keys in pairs.
                u32 a0 = __byte_perm(x[0][i], x[1][i], 0x5410), a1 = __byte_perm(x[0][i], x[1][i], 0x7632);
                u32 a2 = __byte_perm(x[2][i], x[3][i], 0x5410), a3 = __byte_perm(x[2][i], x[3][i], 0x7632);
#pragma unroll
                for (int m = 0; m < RT; m++) {
                    mma(result[m][b][i], a0, a1, a2, a3, high[m][0], high[m][1]);
                    mma(result[m][b][i], a0, a1, a2, a3, low[m][0], low[m][1]);
                }
            }
        }
        if (next < span.high) read.load_values(a.cache, base, next, last, g, t);
    }

    // The warps' references and sums, then their results at the common reference: into a slot each, or
    // warps 4-7 into four slots and the others added to them.
#pragma unroll
    for (int m = 0; m < RT; m++) {
        sum[m] += __shfl_xor_sync(FULL, sum[m], 1);
        sum[m] += __shfl_xor_sync(FULL, sum[m], 2);
        if (t == 0) warp_sums[warp][8 * m + g][0] = reference[m], warp_sums[warp][8 * m + g][1] = sum[m];
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < RT; m++) {
        // Lane 4 w + t looks at warp w's rows 2 t and 2 t + 1: reference and sum of each.
        const float4 seen = *(const float4 *)warp_sums[g][8 * m + 2 * t], own = *(const float4 *)warp_sums[warp][8 * m + 2 * t];
        float largest[2] = {seen.x, seen.z};
#pragma unroll
        for (int i = 4; i < 32; i <<= 1)
            for (int e = 0; e < 2; e++) largest[e] = fmaxf(largest[e], __shfl_xor_sync(FULL, largest[e], i));
        float total[2] = {seen.y * power_2(seen.x - largest[0]), seen.w * power_2(seen.z - largest[1])};
        if (warp == 0) {
#pragma unroll
            for (int i = 4; i < 32; i <<= 1)
                for (int e = 0; e < 2; e++) total[e] += __shfl_xor_sync(FULL, total[e], i);
            if (g == 0)
                for (int e = 0; e < 2; e++) own_sums[8 * m + 2 * t + e] = make_float2(largest[e], total[e]);
        }
        const float factor[2] = {power_2(own.x - largest[0]), power_2(own.z - largest[1])};
#pragma unroll
        for (int b = 0; b < VBLOCKS; b++)
#pragma unroll
            for (int i = 0; i < PAIRS; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) result[m][b][i][e] *= factor[e & 1];
    }
    float *slot = slots + warp % SLOTS * ROWS * DIM;
#pragma unroll
    for (int round = 0; round < WARPS / SLOTS; round++) {
        if (SLOTS == WARPS || (warp < SLOTS) == (round == 1)) {
#pragma unroll
            for (int m = 0; m < RT; m++)
#pragma unroll
                for (int b = 0; b < VBLOCKS; b++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        // Unit of four numbers u of a row is at u ^ (row / 2 % 2): half the conflicts of banks.
                        const int r = 8 * m + 2 * t + e;
                        if (r >= rows) continue;
#pragma unroll
                        for (int i = 0; i < PAIRS; i += 2) {
                            float4 x = make_float4(result[m][b][i][e], result[m][b][i][e + 2], result[m][b][i + 1][e],
                                                   result[m][b][i + 1][e + 2]);
                            float4 *to = (float4 *)(slot + r * DIM) + ((2 * UNIT * b + UNIT / 4 * g + i / 2) ^ (t & 1));
                            if (round == 1) {
                                float4 y = *to;
                                x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
                            }
                            *to = x;
                        }
                    }
        }
        __syncthreads();
    }

    const int blocks = gridDim.y * gridDim.z, block = blockIdx.y * gridDim.z + blockIdx.z;
    for (int i = threadIdx.x; i < rows * (DIM / 4); i += 32 * WARPS) {
        int r = i / (DIM / 4), column = i % (DIM / 4);
        float4 x = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            float4 y = *((float4 *)(slots + (s * ROWS + r) * DIM) + (column ^ (r >> 1 & 1)));
            x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
        }
        if (span.active == 1) {
            const float2 own = own_sums[r];
            const float inverse = __fdividef(1.0f, own.y + sink_of<false>(a, kv_head, from_row + r, own.x));
            put_out(a, kv_head, from_row + r, column, make_float4(x.x * inverse, x.y * inverse, x.z * inverse, x.w * inverse));
        } else {
            *((float4 *)(partial_results(a, blocks, block, blockIdx.x, ROWS, DIM) + r * DIM) + column) = x;
            if (column == 0) ((float2 *)partial_sums(a, block, blockIdx.x, ROWS))[r] = own_sums[r];
        }
    }
    if (span.active > 1 && arrived_last(a, block, span.active))
        combine<ROWS, DIM, 32 * WARPS, false, 16>(a, blocks, block, span.active, kv_head, from_row, rows);
}

#define KERNEL(NAME, T, DIM, RT, PER_SM)                                                     \
    extern "C" __global__ void __launch_bounds__(256, PER_SM) attention_decode_##NAME(const __grid_constant__ RotatedAttentionArgs args) { \
        attention_decode<T, DIM, RT>(args);                                                  \
    }
KERNEL(f16_64_8, __half, 64, 1, 2)
KERNEL(f16_64_16, __half, 64, 2, 2)
KERNEL(f16_128_8, __half, 128, 1, 1)
KERNEL(f16_128_16, __half, 128, 2, 1)
KERNEL(f16_256_8, __half, 256, 1, 1)
KERNEL(q8_0_64_8, signed char, 64, 1, 2)
KERNEL(q8_0_64_16, signed char, 64, 2, 2)
KERNEL(q8_0_128_8, signed char, 128, 1, 2)
KERNEL(q8_0_128_16, signed char, 128, 2, 1)
KERNEL(q8_0_256_8, signed char, 256, 1, 1)
