// Which rows a warp works on, in which order, and what becomes of a row's sum.
//
// Rows of the launch are numbered: m0's, m1's, m2's; with experts slot 0's, slot 1's, ...; GATED: those of m0. Warp w of
// block b takes rows w * blocks + b, then every (warps * blocks)-th: when rows run out, blocks have as many warps at work as
// their neighbours. A row has `parts` (GATED: its row of m0, then of m1; sum_slots: its row of each expert), a part is cut
// into slices of UNIT pieces.
#pragma once
#include "activation.cuh"

// What stays the same for a launch.
struct Shape {
    u32 rows, parts, pieces, step;
};

DEVICE Shape shape_of(const MatvecArgs& a, u32 pieces) {
    Shape s;
    s.pieces = pieces;
    s.parts = a.epilogue == GATED ? 2 : a.sum_slots ? a.slots : 1;
    s.rows = a.m[0].rows;
    if (a.expert) {
        if (!a.sum_slots) s.rows *= a.slots;
    } else if (a.epilogue != GATED) {
        for (int i = 1; i < a.matrices; i++) s.rows += a.m[i].rows;
    }
    s.step = gridDim.x * (blockDim.x / 32);
    return s;
}

// A place in the order of slices; `start` is the slice's first piece.
struct Walk {
    u32 row, part, start;

    // To the next slice; true if that begins a part.
    DEVICE bool advance(const Shape& s, u32 unit) {
        start += unit;
        if (start < s.pieces) return false;
        start = 0;
        if (++part == s.parts) part = 0, row += s.step;
        return true;
    }
};

// The matrix of a row's part, and the row's number in it (of the whole stack).
DEVICE void locate(const MatvecArgs& a, const Walk& w, int& matrix, u32& row) {
    matrix = a.epilogue == GATED ? w.part : 0, row = w.row;
    if (a.expert) {
        u32 slot = w.part;
        if (!a.sum_slots) slot = row / (u32)a.m[0].rows, row -= slot * a.m[0].rows;
        row += (u32)__ldcg(a.expert + slot) * a.m[0].rows;
    } else if (a.matrices > 1 && a.epilogue != GATED && row >= (u32)a.m[0].rows) {
        row -= a.m[0].rows, matrix = 1;
        if (row >= (u32)a.m[1].rows && a.matrices > 2) row -= a.m[1].rows, matrix = 2;
    }
}

// What a warp remembers of the row at hand, in lane t for token t.
struct Row {
    float before;  // to be added to the row's sum: the output's old value
    float bias;
    float gate;    // GATED: m0's result; sum_slots: the sum so far
};

// At the first slice of a part: reads early what the end of it needs.
template <int N>
DEVICE void begin_part(const MatvecArgs& a, const Walk& w, Row& r) {
    const u32 lane = threadIdx.x % 32;
    r.bias = 0.0f;
    if (a.bias[0]) {
        int matrix;
        u32 row;
        locate(a, w, matrix, row);
        if (a.bias[matrix]) r.bias = __ldg(a.bias[matrix] + row);
    }
    if (w.part == 0) {
        r.gate = 0.0f;
        r.before = 0.0f;
        if (a.epilogue == ADD && lane < N) r.before = __ldcg(a.out + (u64)lane * a.out_stride + w.row);
    }
}

// After the last slice of a part: sums over the warp, and stores the row after its last part.
template <int N>
DEVICE void end_part(const MatvecArgs& a, const Shape& s, const Walk& w, float (&sum)[N], Row& r) {
    const u32 lane = threadIdx.x % 32;
    float v = 0;
#pragma unroll
    for (int t = 0; t < N; t++) {
        const float total = warp_sum(sum[t]);
        if (t == 0 || lane == t) v = total;
        sum[t] = 0;
    }
    const float share = a.share ? __ldcg(a.share + (a.sum_slots ? w.part : w.row / (u32)a.m[0].rows)) : 1.0f;
    if (a.share_input) v *= share;
    v += r.bias;
    if (a.epilogue == GATED) {
        if (w.part == 0) {
            r.gate = v;
            return;
        }
        v = activate_other(a.activation, v) * activate(a.activation, r.gate);
    } else if (a.activation != NONE) {
        v = activate(a.activation, v);
    }
    if (!a.share_input) v *= share;
    if (a.sum_slots) {
        r.gate += v;
        if (w.part + 1 < s.parts) return;
        v = r.gate;
    }
    if (lane < N) a.out[(u64)lane * a.out_stride + w.row] = v + r.before;
}
