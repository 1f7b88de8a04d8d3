// The main loop for every card: a warp loads a slice of a row straight into registers, 16 bytes a lane, all of it before
// the first use; two blocks of 16 warps on a multiprocessor keep enough of the loads in flight.
#pragma once
#include "dot.cuh"
#include "walk.cuh"

template <class F>
struct Slice {
    // Pieces of a lane in a slice: about 64 bytes.
    static constexpr int DEPTH = F::Planes::bytes(0) < 16 ? 4 : F::Planes::COUNT > 1 && F::Planes::bytes(1) == 16 &&
                                 F::Planes::values(1) == 32 ? 2 : 4;
    static constexpr int UNIT = 32 * DEPTH;
};

template <class F, int N>
DEVICE void run_registers(const MatvecArgs& a, char* shared) {
    const u32 lane = threadIdx.x % 32;
    const u32 pieces = (a.m[0].columns + 31) / 32 * 32 / F::PIECE;
    const Shape s = shape_of(a, pieces, Slice<F>::UNIT);
    prepare_input<F>(a, shared, a.sum_slots ? a.slots : N, pieces);
    float sum[N] = {};
    Row r;
    for (Walk w = {threadIdx.x / 32 * gridDim.x + blockIdx.x, 0, 0}; w.row < s.rows; advance(w, s)) {
        int matrix;
        u32 row;
        locate(a, w, matrix, row);
        if (w.slice == 0) begin_part<N>(a, w, matrix, row, r);
        const char* input = shared + (a.sum_slots ? w.part * Input<F>::vector_bytes(pieces) : 0);
        const u32 p = w.slice * Slice<F>::UNIT + lane, first = row * pieces;
        typename F::Raw raw[Slice<F>::DEPTH];
#pragma unroll
        for (int d = 0; d < Slice<F>::DEPTH; d++)
            if (p + 32 * d < pieces) raw[d] = F::load(a.m[matrix], first + p + 32 * d);
#pragma unroll
        for (int d = 0; d < Slice<F>::DEPTH; d++)
            if (p + 32 * d < pieces) add_piece<F, N>(raw[d], first + p + 32 * d, input, pieces, p + 32 * d, sum);
        if (w.slice + 1 == s.slices) end_part<N>(a, s, w, sum, r);
    }
}
