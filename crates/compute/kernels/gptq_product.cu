// c[m][n] (+)= sum over k of a[k][m] b[k][n] in f32: one chain of fmaf over k in order for every element, as the CPU's
// fgemm.rs. The factor and the squares of H are symmetric, so their rows serve as the columns that are wanted here.
//
//   extern "C" void gptq_product_64(ProductArgs)   grid (ceil(rows / 64), ceil(width / 64), products), block 128
//   extern "C" void gptq_product_32(ProductArgs)   grid (ceil(rows / 32), ceil(width / 32), products), block 64
//
// A thread of the first does 8 x 4 elements: with more (8 x 8, tiles of 128 x 128) it was slower, and too few blocks
// were left for products of 128 rows. The second, 4 x 4, is for products of at most 32 rows.
#include "gptq.cuh"

// Mirrored by cuda/column_loop/args.rs; passed by value.
struct Product {
    const float* a;   // [depth][a_stride]
    const float* b;   // [depth][width]
    float* c;         // [rows][width]
    u32 rows, depth, a_stride, width;
    u32 add;          // 1: begin with what is in c; 0: with 0
    u32 mask;         // a[k][m] counts 0: always; 1: for k >= m; 2: for k <= m
    u32 reverse;      // 1: k counts the last 16 rows of a and b first; they are a multiple of 16
    u32 spare;
};
struct ProductArgs {
    Product products[3];
};

// BK values of k at a time, of SIDE columns from `at` on; columns from `columns` on are 0, and rows from `depth` on.
template <int SIDE, int BK, int THREADS>
DEVICE void load_tile(float (*tile)[SIDE], const float* from, u32 stride, u32 k0, u32 depth, u32 at, u32 columns, bool aligned,
                      bool reverse) {
    constexpr int ACROSS = SIDE / 4, LINES = THREADS / ACROSS;
    static_assert(THREADS % ACROSS == 0 && BK % LINES == 0, "every thread loads as much");
    const u32 line = threadIdx.x / ACROSS, m = threadIdx.x % ACROSS * 4;
    if (aligned && !reverse && k0 + BK <= depth && at + SIDE <= columns) {
        const float* p = from + (u64)(k0 + line) * stride + at + m;
#pragma unroll
        for (int k = 0; k < BK; k += LINES, p += LINES * (u64)stride) copy_later<16>(&tile[k + line][m], p, 16);
        return;
    }
    const auto row_of = [&](u32 k) { return reverse ? depth - 16 - k / 16 * 16 + k % 16 : k; };
    for (u32 k = line; k < BK; k += LINES) {
        const bool inside = k0 + k < depth && at + m < columns;
        const float* p = inside ? from + (u64)row_of(k0 + k) * stride + at + m : from;
        const u32 count = inside ? min(4u, columns - at - m) : 0;
        if (aligned) {
            copy_later<16>(&tile[k][m], p, 4 * count);
        } else {
            for (u32 i = 0; i < 4; i++) copy_later<4>(&tile[k][m + i], i < count ? p + i : from, i < count ? 4 : 0);
        }
    }
}

// A warp does WM x WN elements, a thread TM x TN of them: rows 4 y.. and 16 + 4 y.., columns 4 x.. and 32 + 4 x...
template <int BM, int BN, int BK, int TM, int TN, int STAGES, int THREADS>
DEVICE void product(const Product& p) {
    constexpr int WM = 4 * TM, WN = 8 * TN, ACROSS = BN / WN;
    static_assert(BM / WM * ACROSS * 32 == THREADS, "warps cover the tile");
    __shared__ __align__(16) float a[STAGES][BK][BM], b[STAGES][BK][BN];
    const u32 m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
    if (m0 >= p.rows || n0 >= p.width) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 m = warp / ACROSS * WM + lane / 8 * 4, n = warp % ACROSS * WN + lane % 8 * 4;
    const bool a_aligned = (u64)p.a % 16 == 0 && p.a_stride % 4 == 0;
    // Elements of which a counts nowhere.
    const u32 first = p.mask == 1 ? m0 / BK * BK : 0, depth = p.mask == 2 ? min(p.depth, m0 + BM) : p.depth;
    const u32 steps = first < depth ? (depth - first + BK - 1) / BK : 0;
    const auto load = [&](u32 step, u32 s) {
        if (step < steps) {
            const u32 k = first + step * BK;
            load_tile<BM, BK, THREADS>(a[s], p.a, p.a_stride, k, p.depth, m0, p.rows, a_aligned, p.reverse);
            load_tile<BN, BK, THREADS>(b[s], p.b, p.width, k, p.depth, n0, p.width, true, p.reverse);
        }
        copies_queued();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) load(s, s);
    float sums[TM][TN];
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const u32 row = m0 + m + i / 4 * 16 + i % 4;
#pragma unroll
        for (int j = 0; j < TN; j += 4) {
            const u32 column = n0 + n + j / 4 * 32;
            float4 v = make_float4(0, 0, 0, 0);
            if (p.add && row < p.rows && column < p.width) v = *(const float4*)(p.c + (u64)row * p.width + column);
            sums[i][j] = v.x, sums[i][j + 1] = v.y, sums[i][j + 2] = v.z, sums[i][j + 3] = v.w;
        }
    }
    u32 s = 0, ahead = STAGES - 1;
    for (u32 step = 0; step < steps; step++) {
        copies_arrived<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1, ahead);
        const u32 k0 = first + step * BK;
        if ((p.mask == 1 && k0 < m0 + BM) || (p.mask == 2 && k0 + BK > m0)) {
            for (int i = threadIdx.x; i < BK * BM; i += THREADS) {
                const u32 k = k0 + i / BM, row = m0 + i % BM;
                if (p.mask == 1 ? k < row : k > row) a[s][i / BM][i % BM] = 0.0f;
            }
            __syncthreads();
        }
#pragma unroll
        for (int k = 0; k < BK; k++) {
            float x[TM], y[TN];
#pragma unroll
            for (int i = 0; i < TM; i += 4) *(float4*)(x + i) = *(const float4*)&a[s][k][m + 4 * i];
#pragma unroll
            for (int j = 0; j < TN; j += 4) *(float4*)(y + j) = *(const float4*)&b[s][k][n + 8 * j];
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        s = s + 1 == STAGES ? 0 : s + 1;
        ahead = ahead + 1 == STAGES ? 0 : ahead + 1;
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const u32 row = m0 + m + i / 4 * 16 + i % 4;
#pragma unroll
        for (int j = 0; j < TN; j += 4) {
            const u32 column = n0 + n + j / 4 * 32;
            if (row < p.rows && column < p.width)
                *(float4*)(p.c + (u64)row * p.width + column) =
                    make_float4(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]);
        }
    }
}

#define KERNEL(NAME, BM, BN, BK, TM, TN, STAGES, THREADS, BLOCKS)                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ ProductArgs args) { \
        product<BM, BN, BK, TM, TN, STAGES, THREADS>(args.products[blockIdx.z]);                                    \
    }
KERNEL(gptq_product_64, 64, 64, 32, 8, 4, 3, 128, 1)
KERNEL(gptq_product_32, 32, 32, 64, 4, 4, 3, 64, 4)
