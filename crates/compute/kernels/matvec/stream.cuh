// The main loop: a warp loads a slice of a row straight into registers, 16 bytes a lane and load, all of them before the
// first use; 32 warps a multiprocessor keep enough loads in flight. The first slice is under way before the previous kernel
// has ended (programmatic dependent launch): weights do not depend on it.
//
// From compute capability 9.0 on, a warp that has no more rows brings a part of the next launch's weights to the second
// cache (bulk prefetch), so that memory does not rest while that launch starts and prepares its input.
#pragma once
#include "dot.cuh"
#include "walk.cuh"

template <class F, int N>
struct Slice {
    // Pieces of a lane in a slice: as many as registers allow (64 a thread).
    static constexpr int WORDS = sizeof(typename F::Raw) / 4;
    static constexpr int DEPTH = UNIT_DEPTH ? UNIT_DEPTH : N == 4 && (WORDS > 7 || F::Planes::bytes(0) < 16 && F::SIGNED) ? 1 : N > 2 || WORDS > (N == 1 ? 8 : 5) ? 2 : 4;
    // Those of the first slice that are loaded before the input is prepared, which needs registers too.
    static constexpr int EARLY = N == 3 ? 0 : N >= 2 && WORDS > 7 ? 1 : WORDS * DEPTH > 24 ? 2 : DEPTH;
    static constexpr int UNIT = 32 * DEPTH;
    typename F::Raw raw[DEPTH];
};

// Loads the slice of a place, if it is one: pieces from `from` to `to` of a lane.
template <int from, int to, class F, int N>
DEVICE void load_slice(const MatvecArgs& a, const Shape& s, const Walk& w, Slice<F, N>& slice) {
    if (w.row >= s.rows) return;
    int matrix;
    u32 row;
    locate(a, w, matrix, row);
    const u32 p = w.start + threadIdx.x % 32, base = row * s.pieces;
    if (w.start + Slice<F, N>::UNIT <= s.pieces) {
#pragma unroll
        for (int d = from; d < to; d++) slice.raw[d] = F::load(a.m[matrix], base + p + 32 * d);
    } else {
#pragma unroll
        for (int d = from; d < to; d++)
            if (p + 32 * d < s.pieces) slice.raw[d] = F::load(a.m[matrix], base + p + 32 * d);
    }
}

// This warp's part of the regions that the next launch reads first: lane i has region i.
DEVICE void prefetch_ahead(const MatvecArgs& a) {
#if __CUDA_ARCH__ >= 900
    const u32 lane = threadIdx.x % 32;
    if (lane >= a.regions) return;
    const u32 warps = gridDim.x * WARPS, warp = threadIdx.x / 32 * gridDim.x + blockIdx.x;
    const u32 bytes = a.ahead[lane].bytes, share = (bytes / 16 + warps - 1) / warps * 16, start = warp * share;
    if (start >= bytes) return;
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(a.ahead[lane].address + start), "r"(min(share, bytes - start))
                 : "memory");
#endif
}

template <class F, int N>
DEVICE void run(const MatvecArgs& a, char* shared) {
    const u32 lane = threadIdx.x % 32;
    const u32 pieces = (a.m[0].columns + 31) / 32 * 32 / F::PIECE;
    const Shape s = shape_of(a, pieces);
    Walk w = {threadIdx.x / 32 * gridDim.x + blockIdx.x, 0, 0};
    launch_next();
    constexpr int EARLY = Slice<F, N>::EARLY, DEPTH = Slice<F, N>::DEPTH;
    Slice<F, N> now;
    __shared__ Early early;
    early.stage(a);
    if (a.expert) {
        wait_for_previous();  // which weights to load is the previous kernel's result
        load_slice<0, EARLY>(a, s, w, now);
    } else {
        load_slice<0, EARLY>(a, s, w, now);
        wait_for_previous();
    }
    prepare_input<F>(a, shared, a.sum_slots ? a.slots : N, pieces, early);
    load_slice<EARLY, DEPTH>(a, s, w, now);

    float sum[N] = {};
    Row r;
    while (w.row < s.rows) {
        if (w.start == 0) begin_part<N>(a, w, r);
        const char* input = shared;
        if (a.sum_slots) input += w.part * Input<F>::vector_bytes(pieces);
        const u32 p = w.start + lane;
        // Whole slices without branches, so that their instructions mix.
        if (N <= 2 && w.start + Slice<F, N>::UNIT <= pieces) {
#pragma unroll
            for (int d = 0; d < Slice<F, N>::DEPTH; d++) add_piece<F, N>(now.raw[d], p + 32 * d, input, pieces, sum);
        } else {
#pragma unroll
            for (int d = 0; d < Slice<F, N>::DEPTH; d++)
                if (p + 32 * d < pieces) add_piece<F, N>(now.raw[d], p + 32 * d, input, pieces, sum);
        }
        const Walk done = w;
        const bool ended = w.advance(s, Slice<F, N>::UNIT);
        load_slice<0, DEPTH>(a, s, w, now);
        if (ended) end_part<N>(a, s, done, sum, r);
    }
    prefetch_ahead(a);
}
