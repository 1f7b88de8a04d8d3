// Sums of products of columns, sum[i][j] += sum over tokens t of a[t][i] b[t][j], with mma.sync on packed bf16 pairs (gram.cuh):
// compute capability 8.0 and later.
//
//   extern "C" void gram_products(GramArgs)    grid row_tiles * column_tiles (of 128 x 128), block 128,
//                                              dynamic shared memory 96 KiB
//
// A block does 128 x 128 sums, each of its four warps 64 x 64: one strip of a, one of b. Slabs of 32 tokens go through three
// places in shared memory.
#include "gram.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
constexpr u32 TOKENS = 32, STAGES = 3, PIECE = TOKENS * 128, SLAB = 8 * PIECE, THREADS = 128;

DEVICE void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left>
DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}
// Four matrices of 8 x 8, transposed: thread t gives the address of row t % 8 of matrix t / 8, and gets, of each, numbers
// 2 (t % 4) and the next of column t / 4.
DEVICE void load_transposed(u32 (&m)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address) : "memory");
}
DEVICE void product(float* d, const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Tile {
    const GramArgs& g;
    u32 ring, row, column;  // tiles

    // Starts to copy a slab into place `slot`: two strips of high parts of a, two of low parts, then those of b.
    DEVICE void start(u32 slab, u32 slot) const {
        u64 first = ((u64)slab * TOKENS) * 128 + 16 * threadIdx.x;
        asm volatile("" : "+l"(first));
#pragma unroll
        for (u32 piece = 0; piece < 8; piece++) {
            const u8* plane = piece < 4 ? g.a + piece / 2 % 2 * g.a_plane : g.b + piece / 2 % 2 * g.b_plane;
            const u32 strip = 2 * (piece < 4 ? row : column) + piece % 2;
            const u8* from = plane + (u64)strip * g.padded_tokens * 128 + first;
            const u32 to = ring + slot * SLAB + piece * PIECE + 16 * threadIdx.x;
            copy16(to, from);
            copy16(to + 16 * THREADS, from + 16 * THREADS);
        }
    }
    // 16 columns of a strip, from 16 i on, by 16 tokens: the operand of one product (a), or of two of 8 columns (b).
    template <bool A>
    static DEVICE void operand(u32 (&m)[4], u32 strip, u32 step, u32 i) {
        const u32 lane = threadIdx.x % 32, r = lane % 8, q = lane / 8;
        const u32 token = 16 * step + (A ? q / 2 : q % 2) * 8 + r;
        load_transposed(m, strip + token * 128 + ((2 * i + (A ? q % 2 : q / 2)) ^ r) * 16);
    }
    static DEVICE void multiply(float (&d)[8][4], const u32 (&a)[4], const u32 (&b)[4][4]) {
#pragma unroll
        for (u32 n = 0; n < 8; n++) product(d[n], a, b[n / 2][2 * (n % 2)], b[n / 2][2 * (n % 2) + 1]);
    }
    DEVICE void slab(float (&d)[4][8][4], u32 slot) const {
        const u32 warp = threadIdx.x / 32;
        const u32 a = ring + slot * SLAB + warp % 2 * PIECE, b = ring + slot * SLAB + (4 + warp / 2) * PIECE;
#pragma unroll
        for (u32 step = 0; step < TOKENS / 16; step++) {
            u32 b_high[4][4], b_low[4][4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) operand<false>(b_high[i], b, step, i);
#pragma unroll
            for (u32 i = 0; i < 4; i++) operand<false>(b_low[i], b + 2 * PIECE, step, i);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 high[4], low[4];
                operand<true>(high, a, step, i);
                operand<true>(low, a + 2 * PIECE, step, i);
                multiply(d[i], high, b_high);
                multiply(d[i], high, b_low);
                multiply(d[i], low, b_high);
            }
        }
    }
    DEVICE void add(float (&d)[4][8][4]) const {
        u32 warp = threadIdx.x / 32;
        const u32 lane = threadIdx.x % 32;
        asm volatile("" : "+r"(warp));  // so that no address is computed before the loop, and kept
#pragma unroll
        for (u32 m = 0; m < 4; m++)
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                const u32 i = row * 128 + warp % 2 * 64 + 16 * m + lane / 4 + 8 * h;
                const u32 end = i >= g.rows ? 0 : g.triangle ? min(i + 1, g.columns) : g.columns;
                float* line = g.sum + (u64)i * g.columns;
#pragma unroll
                for (u32 n = 0; n < 8; n++)
#pragma unroll
                    for (u32 e = 0; e < 2; e++) {
                        const u32 j = column * 128 + warp / 2 * 64 + 8 * n + 2 * (lane % 4) + e;
                        if (j < end) line[j] += d[m][n][2 * h + e];
                        d[m][n][2 * h + e] = 0.0f;
                    }
            }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2) gram_products(const __grid_constant__ GramArgs g) {
    extern __shared__ __align__(1024) u8 memory[];
    u32 row, column;
    tile_of_block(blockIdx.x, (g.rows + 127) / 128, (g.columns + 127) / 128, row, column);
    if (g.triangle && column > row) return;
    const Tile tile = {g, (u32)__cvta_generic_to_shared(memory), row, column};
    float d[4][8][4] = {};
    const u32 slabs = g.padded_tokens / TOKENS;
    wait_for_previous();
    for (u32 i = 0; i < STAGES - 1; i++) {
        if (i < slabs) tile.start(i, i);
        copies_commit();
    }
    u32 slot = 0, next = STAGES - 1;
    for (u32 at = 0; at < slabs; at++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (at + STAGES - 1 < slabs) tile.start(at + STAGES - 1, next);
        copies_commit();
        tile.slab(d, slot);
        if ((at + 1) % (PARTIAL / TOKENS) == 0 || at + 1 == slabs) tile.add(d);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        next = next + 1 == STAGES ? 0 : next + 1;
    }
}
#endif
