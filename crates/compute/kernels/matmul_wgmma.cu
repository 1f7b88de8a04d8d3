// y[token][row] = x W^T with weights of one format (-D FORMAT=Q4_0, ...), for more than 4 tokens, on compute capability 9.0a.
//
//   extern "C" __global__ void matmul_n256(const __grid_constant__ MatmulArgs)     and _n128, _n64, _n32, _n16
//   grid 2 * parts * token_tiles in clusters of 2, block 384 (n256, n128) or 288, dynamic shared memory Shape<N>::SHARED
//   -D TILE=256 compiles only that one.
//
// A cluster does tiles of 256 rows x N tokens, each of its two blocks 128 rows. Two warpgroups of 64 rows each read packed
// weights from global memory into registers, convert them to f16 fragments there and run wgmma with A from registers; they
// take turns on the tensor cores, so that one converts while the other's products run. Another warp copies slabs of
// activations (64 columns of N tokens) into a ring in shared memory: each block fetches half of the tokens for both, as
// the second cache's bandwidth is what limits these kernels. Sums are f32 in registers.
#define ASYNCHRONOUS_PRODUCTS
#include "wgmma.cuh"
#include "matmul.cuh"

template <int N>
struct Shape {
    static constexpr int SLAB = 128 * N;                                    // bytes of 64 columns
    static constexpr int STAGES = N == 256 ? 6 : N == 128 ? 8 : 16;
    static constexpr int ROUND = N < 64 ? N : 64;                           // tokens that are stored at a time
    static constexpr int PITCH = 68;                                        // floats from a token to the next: no conflicts
    static constexpr int STAGING = 2 * ROUND * PITCH * 4;                   // bytes, of both warpgroups
    static constexpr int SHARED = SLAB * STAGES + STAGING + 16 * STAGES;
    // Steps of weights on their way; few where a step takes many registers.
    static constexpr int DEPTH = N >= 128 ? 1 : FORMAT::FLOAT ? 2 : (N == 64 ? 3 : 4) - (sizeof(FORMAT::Raw) > 32 ? 1 : 0);
    static constexpr int THREADS = N >= 128 ? 384 : 288;
};
// Named barriers: 1 both warpgroups, 2 and 3 each of them.
constexpr u32 BOTH = 1, EACH = 2;

// Place in the ring of slabs.
template <int STAGES>
struct Place {
    u32 slot = 0, parity = 0;
    DEVICE void advance() {
        if (++slot == STAGES) slot = 0, parity ^= 1;
    }
};

// Where a block stands in the division of the work.
struct Position {
    u32 rank, part, token_tile;
    DEVICE explicit Position(const MatmulArgs& a) : rank(cluster_rank()) {
        part = blockIdx.x / 2 / a.token_tiles;
        token_tile = blockIdx.x / 2 % a.token_tiles;
    }
};

template <int N>
DEVICE void copy_activations(const MatmulArgs& a, u32 ring, u32 full, u32 empty) {
    typedef Shape<N> S;
    wait_for_previous();
    const Position at(a);
    const u32 token = at.token_tile * N, count = min((u32)N, a.padded_n - token);
    const u32 from = at.rank * (N / 2), mine = from >= count ? 0 : min(count - from, (u32)N / 2);
    Work work(a, at.part);
    Segment s;
    Place<S::STAGES> place;
    while (work.take(s))
        for (u32 slab = 2 * s.begin; slab < 2 * s.end; slab++) {
            barrier_wait(empty + 8 * place.slot, place.parity ^ 1);
            barrier_arrive_expect(full + 8 * place.slot, 128 * count);
            if (mine > 0)
                bulk_copy_to_both(ring + place.slot * S::SLAB + 128 * from,
                                  a.x + ((u64)slab * a.padded_n + token + from) * 128, 128 * mine, full + 8 * place.slot);
            place.advance();
        }
}

// Stores the sums of a warpgroup's 64 rows from `row` (of both warpgroups' in a gated pair), ROUND tokens at a time through
// shared memory, so that a token's rows leave together.
template <int N>
DEVICE void store_tile(const MatmulArgs& a, const MatmulMatrix& m, const float (&d)[N / 2], float* staging, u32 row,
                       u32 token) {
    typedef Shape<N> S;
    constexpr u32 ROUND = S::ROUND, PITCH = S::PITCH;
    const bool pair = a.mode == MODE_GATED;
    const u32 group = threadIdx.x / 128, thread = threadIdx.x % 128, lane = thread % 32;
    float* own = staging + group * ROUND * PITCH;
    float* place = own + 2 * (lane % 4) * PITCH + thread / 32 * 16 + lane / 4;
    const float undo = 1.0f / a.factor;
    const u32 column = thread % 16 * 4;
    const float4 bias = bias_of(pair ? a.matrix[0] : m, row + column);
    const float4 other_bias = pair ? bias_of(a.matrix[1], row + column) : bias;
    auto sync = [&] {
        if (pair) named_barrier(BOTH, 256);
        else named_barrier(EACH + group, 128);
    };
    // One body for all rounds, so that the code stays small; only which registers go to shared memory differs.
#pragma unroll 1
    for (u32 round = 0; round < N / ROUND; round++) {
#pragma unroll
        for (u32 k = 0; k < N / ROUND; k++)
            if (round == k)
#pragma unroll
                for (u32 j = 0; j < ROUND / 8; j++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++)
                        place[(8 * j + i % 2) * PITCH + i / 2 * 8] = d[4 * (k * (ROUND / 8) + j) + i];
        sync();
        const u32 first = token + round * ROUND;
        if (pair) {
            const u32 t0 = threadIdx.x / 16;
            float scale[ROUND / 16];
#pragma unroll
            for (u32 i = 0; i < ROUND / 16; i++) scale[i] = scale_of(a, first + t0 + 16 * i) * undo;
#pragma unroll
            for (u32 i = 0; i < ROUND / 16; i++) {
                const u32 t = t0 + 16 * i;
                const float4 g = scaled(*(const float4*)(staging + t * PITCH + column), scale[i], bias);
                const float4 u = scaled(*(const float4*)(staging + (ROUND + t) * PITCH + column), scale[i], other_bias);
                if (first + t < a.n) store_four(a, a.matrix[0], gated(a, g, u), row + column, first + t);
            }
        } else {
            const u32 t0 = thread / 16;
            float scale[ROUND / 8];
#pragma unroll
            for (u32 i = 0; i < ROUND / 8; i++) scale[i] = scale_of(a, first + t0 + 8 * i) * undo;
#pragma unroll
            for (u32 i = 0; i < ROUND / 8; i++) {
                const u32 t = t0 + 8 * i;
                const float4 v = scaled(*(const float4*)(own + t * PITCH + column), scale[i], bias);
                if (first + t < a.n) store_four(a, m, v, row + column, first + t);
            }
        }
        sync();
    }
}

template <int N>
struct Consumer {
    typedef Shape<N> S;
    static constexpr int DEPTH = S::DEPTH;
    const MatmulArgs& a;
    u32 ring, full, empty, lane, chunk_limit;
    Place<S::STAGES> place;
    Fragments<FORMAT, DEPTH> weights;
    float d[N / 2];

    // The fragments of half a step against the next slab.
    DEVICE void multiply(const u32 (&fragment)[4][4], bool add) {
        barrier_wait(full + 8 * place.slot, place.parity);
        const u64 b = product_operand(ring + place.slot * S::SLAB);
        products_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) product<N>(d, fragment[s], b + 2 * s, s > 0 || add);
        products_commit();
    }
    DEVICE void release(u32 slot) {
        if (lane < 2) barrier_arrive_at(empty + 8 * slot, lane);  // in both blocks, as both fill it
    }
    DEVICE u32 chunk(u32 step) const { return min(4 * step + lane % 4, chunk_limit); }

    template <int slot>
    DEVICE void start(const Matrix& m, u32 first, u32 second, const Segment& s) {
        if (s.begin + slot < s.end) weights.template fetch<slot>(m, first, second, chunk(s.begin + slot));
        if constexpr (slot + 1 < DEPTH) start<slot + 1>(m, first, second, s);
    }

    // Converts half a step, then loads what comes next into the registers that this frees.
    template <int slot, int half>
    DEVICE void prepare(const Matrix& m, u32 first, u32 second, u32 at, const Segment& s, u32 (&fragment)[4][4]) {
        weights.template convert<slot, half>(first, second, chunk(at), a.factor, fragment);
        if (at + DEPTH < s.end) weights.template refill<slot, half>(m, first, second, chunk(at + DEPTH));
    }

    // One step; `even` holds its first half's fragments and then the next step's.
    template <int slot>
    DEVICE void step(const Matrix& m, u32 first, u32 second, u32 at, const Segment& s, u32 (&even)[4][4],
                     u32 (&odd)[4][4], u32& busy) {
        const u32 slot_even = place.slot;
        multiply(even, at > s.begin);
        place.advance();
        products_wait<1>();
        if (at > s.begin) release(busy);
        prepare<slot, 1>(m, first, second, at, s, odd);
        busy = place.slot;
        multiply(odd, true);
        place.advance();
        products_wait<1>();
        release(slot_even);
        // After the last step this converts what is there; nothing uses it.
        prepare<(slot + 1) % DEPTH, 0>(m, first, second, at + 1, s, even);
    }
    template <int slot>
    DEVICE void steps(const Matrix& m, u32 first, u32 second, u32 at, const Segment& s, u32 (&even)[4][4],
                      u32 (&odd)[4][4], u32& busy) {
        step<slot>(m, first, second, at, s, even, odd, busy);
        if constexpr (slot + 1 < DEPTH)
            if (at + 1 < s.end) steps<slot + 1>(m, first, second, at + 1, s, even, odd, busy);
    }
    // All steps of a segment into d.
    DEVICE void run(const Matrix& m, u32 first, u32 second, const Segment& s) {
        u32 even[4][4], odd[4][4], busy = 0;
        prepare<0, 0>(m, first, second, s.begin, s, even);
        for (u32 at = s.begin; at < s.end; at += DEPTH) steps<0>(m, first, second, at, s, even, odd, busy);
        products_wait<0>();
        release(busy);
    }
};

template <int N>
DEVICE void consume(const MatmulArgs& a, u8* shared, u32 ring, u32 full, u32 empty) {
    typedef Shape<N> S;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 group = warp / 4, thread = threadIdx.x % 128;
    const Position at(a);
    auto sync = [=] { named_barrier(EACH + group, 128); };
    const bool pair = a.mode == MODE_GATED;
    const u32 chunks = (a.columns + 31) / 32;
    Consumer<N> c{a, ring, full, empty, lane, chunks - 1};
    Work work(a, at.part);
    Segment s;
    bool waited = false;
    while (work.take(s)) {
        const u32 which = pair ? group
                          : a.matrices > 2 && s.tile >= a.matrix[2].first_tile ? 2
                          : a.matrices > 1 && s.tile >= a.matrix[1].first_tile ? 1 : 0;
        const MatmulMatrix& m = a.matrix[which];
        // The first of the warpgroup's 64 rows.
        const u32 row = pair ? s.tile * 128 + at.rank * 64 : (s.tile - m.first_tile) * 256 + at.rank * 128 + group * 64;
        const u32 own = row + warp % 4 * 16 + lane / 4, last = m.weights.rows - 1;
        const u32 first = min(own, last) * chunks, second = min(own + 8, last) * chunks;
        const Matrix weights = m.weights;
        c.template start<0>(weights, first, second, s);
        if (!waited) wait_for_previous();
        waited = true;
        c.run(weights, first, second, s);

        // For every block there is a place for sums and a flag for each warpgroup.
        auto block = [&](u32 p) { return 2 * (p * a.token_tiles + at.token_tile) + at.rank; };
        auto place = [&](u32 p) { return a.sums + ((u64)block(p) * 2 + group) * (N * 64 / 4); };
        auto ready = [&](u32 p) { return a.ready + 8 * block(p) + group; };
        if (s.end < a.steps) {
            leave_sums(c.d, place(at.part), thread, 128, ready(at.part), sync);
            continue;
        }
        if (s.begin > 0) add_sums(a, c.d, at.part, s.tile * a.steps, thread, 128, place, ready, sync);
        store_tile<N>(a, m, c.d, (float*)(shared + S::SLAB * S::STAGES), row, at.token_tile * N);
    }
}

template <int N>
DEVICE void matmul(const MatmulArgs& a) {
    typedef Shape<N> S;
    extern __shared__ __align__(1024) u8 shared[];
    const u32 ring = shared_address(shared);
    const u32 full = ring + S::SLAB * S::STAGES + S::STAGING, empty = full + 8 * S::STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 16);
        }
        barrier_init_done();
    }
    cluster_barrier();
    launch_next();
    // Registers go from the warps that copy to those that compute: 2 * 128 * 240 + 128 * 24 = 64512.
    if (threadIdx.x >= 256) {
        if constexpr (S::THREADS == 384) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 256) copy_activations<N>(a, ring, full, empty);
        __syncwarp();
    } else {
        if constexpr (S::THREADS == 384) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume<N>(a, shared, ring, full, empty);
    }
    cluster_barrier();  // the other block may still copy here or arrive at barriers here
}

#define KERNEL(N)                                                                               \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(Shape<N>::THREADS, 1) \
        matmul_n##N(const __grid_constant__ MatmulArgs a) {                                     \
        matmul<N>(a);                                                                           \
    }
#if !defined(TILE) || TILE == 256
KERNEL(256)
#endif
#if !defined(TILE) || TILE == 128
KERNEL(128)
#endif
#if !defined(TILE) || TILE == 64
KERNEL(64)
#endif
#if !defined(TILE) || TILE == 32
KERNEL(32)
#endif
#if !defined(TILE) || TILE == 16
KERNEL(16)
#endif
