// Sums of products of columns, as gram.cu, with wgmma: compute capability 9.0.
//
//   extern "C" void gram_products_256(GramArgs)    and _128: grid row_tiles * column_tiles (of 128 x 256, 128 x 128), block 384,
//                                                  dynamic shared memory 193 KiB
//
// A block does 128 x N sums: one thread copies slabs of 32 tokens into places in shared memory, two warpgroups multiply, each one
// strip of a (64 columns) by N / 64 strips of b. Packed strips are what the operands of wgmma look like in shared memory:
// "transposed" ones, whose rows of 128 bytes hold 64 columns of one token.
#include "gram.cuh"
#include "wgmma.cuh"

constexpr u32 TOKENS = 32, PIECE = TOKENS * 128, CONSUMERS = 256;

template <int N>
struct Slab {
    static constexpr u32 B = N / 64;                     // strips of b
    static constexpr u32 PIECES = 2 * (2 + B), BYTES = PIECES * PIECE, STAGES = 192 * 1024 / BYTES;
    // High parts of a's two strips, its low parts, then those of b.
    static DEVICE u32 a(u32 slot, u32 plane, u32 strip) { return slot * BYTES + (2 * plane + strip) * PIECE; }
    static DEVICE u32 b(u32 slot, u32 plane, u32 strip) { return slot * BYTES + (4 + plane * B + strip) * PIECE; }
};

DEVICE void bulk_copy(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(barrier)
                 : "memory");
}
DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Sixteen tokens of strips at this address: strips are PIECE bytes apart, eight tokens 1024 bytes.
DEVICE u64 strips_operand(u32 address) {
    return ((u64)(address & 0x3ffff) >> 4) | ((u64)(PIECE >> 4) << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62);
}

// d[64][N] (+)= a[16][64]^T * b[16][N], both in shared memory.
template <int N>
DEVICE void product_of_strips(float (&d)[N / 2], u64 a, u64 b, u32 add);

#define PRODUCT_OF_STRIPS(N, REGISTERS, OPERANDS, A, B, ADD)                                                             \
    template <>                                                                                                          \
    DEVICE void product_of_strips<N>(float(&d)[N / 2], u64 a, u64 b, u32 add) {                                          \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" ADD ", 0;\n"                                                   \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, %" A ", %" B             \
                     ", p, 1, 1, 1, 1;\n}\n"                                                                             \
                     : OPERANDS                                                                                          \
                     : "l"(a), "l"(b), "r"(add));                                                                        \
    }
PRODUCT_OF_STRIPS(128, R64, D64(0), "64", "65", "66")
PRODUCT_OF_STRIPS(256, R128, BOTH64(0), "128", "129", "130")

// sum += d. No thread but this one adds to these numbers while the kernel runs, so that the order of additions is fixed; this way
// none of them waits for memory.
template <int N>
DEVICE void add_to(const GramArgs& g, u32 row0, u32 column0, const float (&d)[N / 2]) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    asm volatile("" : "+r"(row0), "+r"(column0));  // so that no address is computed before the loop, and kept
    const bool pairs = g.columns % 2 == 0 && (u64)g.sum % 8 == 0;
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        const u32 i = row0 + 16 * warp + lane / 4 + 8 * h;
        const u32 end = i >= g.rows ? 0 : g.triangle ? min(i + 1, g.columns) : g.columns;
        float* line = g.sum + (u64)i * g.columns;
#pragma unroll
        for (u32 n = 0; n < N / 8; n++) {
            const u32 j = column0 + 8 * n + 2 * (lane % 4);
            asm volatile("" : "+l"(line));
            if (pairs && j + 2 <= end) {
                asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(line + j), "f"(d[4 * n + 2 * h]), "f"(d[4 * n + 2 * h + 1])
                             : "memory");
            } else {
#pragma unroll
                for (u32 e = 0; e < 2; e++)
                    if (j + e < end)
                        asm volatile("red.global.add.f32 [%0], %1;" ::"l"(line + j + e), "f"(d[4 * n + 2 * h + e]) : "memory");
            }
        }
    }
}

template <int N>
DEVICE void gram_products(const GramArgs& g) {
    typedef Slab<N> S;
    extern __shared__ __align__(1024) u8 memory[];
    __shared__ __align__(8) u64 full[S::STAGES], empty[S::STAGES];
    u32 row, column;
    tile_of_block(blockIdx.x, (g.rows + 127) / 128, (g.columns + N - 1) / N, row, column);
    if (g.triangle && column * N >= (row + 1) * 128) return;
    const u32 ring = (shared_address(memory) + 1023) / 1024 * 1024, slabs = g.padded_tokens / TOKENS;
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < S::STAGES; i++) {
            barrier_init(shared_address(&full[i]), 1);
            barrier_init(shared_address(&empty[i]), 2);
        }
        barrier_init_done();
    }
    __syncthreads();
    wait_for_previous();
    if (threadIdx.x >= CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x > CONSUMERS) return;
        for (u32 at = 0; at < slabs; at++) {
            const u32 slot = at % S::STAGES, round = at / S::STAGES;
            if (round > 0) barrier_wait(shared_address(&empty[slot]), (round - 1) % 2);
            const u32 barrier = shared_address(&full[slot]);
            barrier_arrive_expect(barrier, S::BYTES);
            const u64 first = (u64)at * PIECE, strip = (u64)g.padded_tokens * 128;
#pragma unroll
            for (u32 plane = 0; plane < 2; plane++) {
#pragma unroll
                for (u32 s = 0; s < 2; s++)
                    bulk_copy(ring + S::a(slot, plane, s), g.a + plane * g.a_plane + (2 * row + s) * strip + first, PIECE, barrier);
#pragma unroll
                for (u32 s = 0; s < S::B; s++)
                    bulk_copy(ring + S::b(slot, plane, s), g.b + plane * g.b_plane + (S::B * column + s) * strip + first, PIECE,
                              barrier);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 group = threadIdx.x / 128;
    float d[N / 2];
    u32 add = 0, used = S::STAGES;  // the place that the products at work read
    for (u32 at = 0; at < slabs; at++) {
        const u32 slot = at % S::STAGES;
        barrier_wait(shared_address(&full[slot]), at / S::STAGES % 2);
        products_fence();
#pragma unroll
        for (u32 step = 0; step < TOKENS / 16; step++) {
            const u32 from = ring + step * 2048;
            const u64 a_high = strips_operand(from + S::a(slot, 0, group)), a_low = strips_operand(from + S::a(slot, 1, group));
            const u64 b_high = strips_operand(from + S::b(slot, 0, 0)), b_low = strips_operand(from + S::b(slot, 1, 0));
            product_of_strips<N>(d, a_high, b_high, add);
            product_of_strips<N>(d, a_high, b_low, 1);
            product_of_strips<N>(d, a_low, b_high, 1);
            add = 1;
        }
        products_commit();
        const bool last = (at + 1) % (PARTIAL / TOKENS) == 0 || at + 1 == slabs;
        if (last) products_wait<0>();
        else products_wait<1>();
        if (threadIdx.x % 128 == 0) {
            if (used < S::STAGES) barrier_arrive(shared_address(&empty[used]));
            if (last) barrier_arrive(shared_address(&empty[slot]));
        }
        used = last ? S::STAGES : slot;
        if (last) {
            add_to<N>(g, row * 128, column * N, d);
            add = 0;
        }
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 128, 1) gram_products_256(const __grid_constant__ GramArgs g) {
    gram_products<256>(g);
}
extern "C" __global__ void __launch_bounds__(CONSUMERS + 128, 1) gram_products_128(const __grid_constant__ GramArgs g) {
    gram_products<128>(g);
}
