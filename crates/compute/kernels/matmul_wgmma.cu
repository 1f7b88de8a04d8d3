// y[token][row] = x W^T with weights of one format (-D FORMAT=Q4_0, ...), for more than 4 tokens, on compute capability 9.0a.
//
//   extern "C" __global__ void matmul_n256(const __grid_constant__ MatmulArgs)     and _n128, _n64, _n32, _n16
//   grid parts * token_tiles, block 384 (n256) or 288, dynamic shared memory as matmul_plan.rs says (SHARED below)
//
// A block does tiles of 128 rows x N tokens. Two warpgroups of 64 rows each read packed weights from global memory into
// registers, convert them to f16 fragments there and run wgmma with A from registers; they take turns on the tensor
// cores, so that one converts while the other's products run. A ninth warp copies slabs of activations (64 columns of N
// tokens, one contiguous piece) into a ring in shared memory. Sums are f32 in registers.
#define ASYNCHRONOUS_PRODUCTS
#include "wgmma.cuh"
#include "matmul.cuh"

template <int N>
struct Shape {
    static constexpr int SLAB = 128 * N;                                        // bytes of 64 columns
    static constexpr int STAGES = N == 256 ? 5 : N == 128 ? 6 : N == 64 ? 8 : 16;
    static constexpr int EXCHANGE = 256 * N;                                    // a gated pair's sums
    static constexpr int SHARED = SLAB * STAGES + EXCHANGE + 16 * STAGES;
    static constexpr int DEPTH = N >= 128 ? 1 : !is_packed<FORMAT> ? 2 : N == 64 ? 3 : 4;  // steps of weights on their way
    static constexpr int THREADS = N == 256 ? 384 : 288;
};

// Place in the ring of slabs.
template <int STAGES>
struct Place {
    u32 slot = 0, parity = 0;
    DEVICE void advance() {
        if (++slot == STAGES) slot = 0, parity ^= 1;
    }
};

template <int N>
DEVICE void copy_activations(const MatmulArgs& a, u32 ring, u32 full, u32 empty) {
    typedef Shape<N> S;
    wait_for_previous();
    const u32 token = blockIdx.x % a.token_tiles * N;
    const u32 bytes = 128 * min((u32)N, a.padded_n - token);
    Work work(a, blockIdx.x / a.token_tiles);
    Segment s;
    Place<S::STAGES> place;
    while (work.take(s))
        for (u32 slab = 2 * s.begin; slab < 2 * s.end; slab++) {
            barrier_wait(empty + 8 * place.slot, place.parity ^ 1);
            barrier_arrive_expect(full + 8 * place.slot, bytes);
            bulk_copy(ring + place.slot * S::SLAB, a.x + ((u64)slab * a.padded_n + token) * 128, bytes, full + 8 * place.slot);
            place.advance();
        }
}

// Exchanges halves of the sums of a gated pair: warpgroup 0 has the gate's rows, warpgroup 1 the other's, and each finishes
// half of the tokens.
template <int N>
DEVICE void store_gated(const MatmulArgs& a, const float (&d)[N / 2], float4* exchange, u32 group, u32 thread, u32 row,
                        u32 token) {
    const float undo = 1.0f / a.factor;
    const MatmulMatrix& own = a.matrix[group];
    const u32 rows = own.weights.rows;
    constexpr int HALF = N / 16;  // pieces of 8 tokens
    named_barrier(1, 256);        // the exchange is free
#pragma unroll
    for (int j = 0; j < HALF; j++) {
        const int k = 4 * j;
        const float4 low = make_float4(d[k], d[k + 1], d[k + 2], d[k + 3]);
        const int l = 4 * (j + HALF);
        const float4 high = make_float4(d[l], d[l + 1], d[l + 2], d[l + 3]);
        exchange[(group * HALF + j) * 128 + thread] = group == 0 ? high : low;
    }
    named_barrier(1, 256);
    float bias[2][2] = {};
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (a.matrix[m].bias != nullptr && row + 8 * h < rows) bias[m][h] = __ldg(a.matrix[m].bias + row + 8 * h);
    float* out = a.matrix[0].out + row;
    const u32 stride = a.matrix[0].out_stride;
    token += group * (N / 2);
#pragma unroll
    for (int j = 0; j < HALF; j++) {
        const float4 o = exchange[((1 - group) * HALF + j) * 128 + thread];
        const float other[4] = {o.x, o.y, o.z, o.w};
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const u32 at = token + 8 * j + e;
            if (at < a.n) {
                const float scale = __ldg(a.x_scale + at) * undo;
#pragma unroll
                for (int h = 0; h < 2; h++)
                    if (row + 8 * h < rows) {
                        const int i = 2 * h + e;
                        const float mine = group == 0 ? d[4 * j + i] : d[4 * (j + HALF) + i];
                        const float g = fmaf(group == 0 ? mine : other[i], scale, bias[0][h]);
                        const float u = fmaf(group == 0 ? other[i] : mine, scale, bias[1][h]);
                        out[(u64)at * stride + 8 * h] = gate(g, a.gate[0], a.gate[1]) * u;
                    }
            }
        }
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
        if (lane == 0) barrier_arrive(empty + 8 * slot);
    }
    DEVICE u32 chunk(u32 step) const { return min(4 * step + lane % 4, chunk_limit); }

    template <int slot>
    DEVICE void start(const Matrix& m, u32 first, u32 second, const Segment& s) {
        if (s.begin + slot < s.end) weights.template fetch<slot>(m, first, second, chunk(s.begin + slot));
        if constexpr (slot + 1 < DEPTH) start<slot + 1>(m, first, second, s);
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
        weights.template convert<slot, 1>(first, second, chunk(at), a.factor, odd);
        if (at + DEPTH < s.end) weights.template fetch<slot>(m, first, second, chunk(at + DEPTH));
        busy = place.slot;
        multiply(odd, true);
        place.advance();
        products_wait<1>();
        release(slot_even);
        // After the last step this converts what is there; nothing uses it.
        weights.template convert<(slot + 1) % DEPTH, 0>(first, second, chunk(at + 1), a.factor, even);
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
        weights.template convert<0, 0>(first, second, chunk(s.begin), a.factor, even);
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
    const u32 part = blockIdx.x / a.token_tiles, token_tile = blockIdx.x % a.token_tiles;
    const u32 token = token_tile * N + 2 * (lane % 4);
    auto sync = [=] { named_barrier(2 + group, 128); };
    const bool pair = a.mode == MODE_GATED;
    const u32 chunks = a.columns / 32;
    Consumer<N> c{a, ring, full, empty, lane, chunks - 1};
    Work work(a, part);
    Segment s;
    bool waited = false;
    while (work.take(s)) {
        const u32 which = pair ? group
                          : a.matrices > 2 && s.tile >= a.matrix[2].first_tile ? 2
                          : a.matrices > 1 && s.tile >= a.matrix[1].first_tile ? 1 : 0;
        const MatmulMatrix& m = a.matrix[which];
        const u32 row = (pair ? s.tile * 64 : (s.tile - m.first_tile) * 128 + group * 64) + warp % 4 * 16 + lane / 4;
        const u32 last = m.weights.rows - 1;
        const u32 first = min(row, last) * chunks, second = min(row + 8, last) * chunks;
        const Matrix weights = m.weights;
        c.template start<0>(weights, first, second, s);
        if (!waited) wait_for_previous();
        waited = true;
        c.run(weights, first, second, s);

        // Places of sums: for every block one for each warpgroup.
        auto place = [&](u32 block) { return a.sums + ((u64)block * 2 + group) * (N * 64 / 4); };
        if (s.end < a.steps) {
            leave_sums(c.d, place(blockIdx.x), thread, 128, a.ready + 8 * blockIdx.x + group, sync);
            continue;
        }
        if (s.begin > 0) {
            for (u32 p = part; p-- > 0;) {
                const u32 block = p * a.token_tiles + token_tile;
                add_sums(c.d, place(block), thread, 128, a.ready + 8 * block + group, sync);
                if (work.start_of(p) <= s.tile * a.steps) break;
            }
        }
        if (pair)
            store_gated<N>(a, c.d, (float4*)(shared + S::SLAB * S::STAGES), group, thread, row, token);
        else
            store_rows(a, m, c.d, row, token);
    }
}

template <int N>
DEVICE void matmul(const MatmulArgs& a) {
    typedef Shape<N> S;
    extern __shared__ __align__(1024) u8 shared[];
    const u32 ring = shared_address(shared);
    const u32 full = ring + S::SLAB * S::STAGES + S::EXCHANGE, empty = full + 8 * S::STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);
        }
        barrier_init_done();
    }
    __syncthreads();
    launch_next();
    // Registers go from the warps that copy to those that compute: 2 * 128 * 240 + 128 * 24 = 64512.
    if (threadIdx.x >= 256) {
        if constexpr (S::THREADS == 384) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 256) copy_activations<N>(a, ring, full, empty);
    } else {
        if constexpr (S::THREADS == 384) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume<N>(a, shared, ring, full, empty);
    }
}

#define KERNEL(N)                                                                   \
    extern "C" __global__ void __launch_bounds__(Shape<N>::THREADS, 1) \
        matmul_n##N(const __grid_constant__ MatmulArgs a) {                         \
        matmul<N>(a);                                                               \
    }
KERNEL(256)
KERNEL(128)
KERNEL(64)
KERNEL(32)
KERNEL(16)
