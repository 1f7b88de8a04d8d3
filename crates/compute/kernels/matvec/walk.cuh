// Which rows a warp works on, in which order, and what becomes of a row's sum.
//
// Rows of the launch are numbered: m0's, m1's, m2's; with experts slot 0's, slot 1's, ...; GATED: those of m0. Warp w of
// block b takes rows w * blocks + b, then every (warps * blocks)-th: when rows run out, blocks have as many warps at work as
// their neighbours. A row has `parts` (GATED: its row of m0, then of m1; sum_slots: its row of each expert), a part is cut
// into slices of UNIT pieces.
#pragma once
#include "activation.cuh"

struct Walk {
    u32 row, part, slice;
};

// What stays the same for a launch.
struct Shape {
    u32 rows, parts, slices, pieces, step;
};

DEVICE Shape shape_of(const MatvecArgs& a, u32 pieces, u32 unit) {
    Shape s;
    s.pieces = pieces;
    s.slices = (pieces + unit - 1) / unit;
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

DEVICE void advance(Walk& w, const Shape& s) {
    if (++w.slice < s.slices) return;
    w.slice = 0;
    if (++w.part < s.parts) return;
    w.part = 0;
    w.row += s.step;
}

// The matrix of a row's part, and the row's number in it (of the whole stack).
DEVICE void locate(const MatvecArgs& a, const Walk& w, int& matrix, u32& row) {
    matrix = 0, row = w.row;
    if (a.expert) {
        u32 slot = w.part;
        if (!a.sum_slots) slot = row / (u32)a.m[0].rows, row -= slot * a.m[0].rows;
        row += (u32)__ldcg(a.expert + slot) * a.m[0].rows;
        if (a.epilogue == GATED) matrix = w.part;
    } else if (a.epilogue == GATED) {
        matrix = w.part;
    } else {
        if (a.matrices > 1 && row >= (u32)a.m[0].rows) {
            row -= a.m[0].rows, matrix = 1;
            if (a.matrices > 2 && row >= (u32)a.m[1].rows) row -= a.m[1].rows, matrix = 2;
        }
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
DEVICE void begin_part(const MatvecArgs& a, const Walk& w, int matrix, u32 row, Row& r) {
    const u32 lane = threadIdx.x % 32;
    r.bias = a.bias[matrix] ? __ldg(a.bias[matrix] + row) : 0.0f;
    if (w.part == 0) {
        r.gate = 0.0f;
        r.before = a.epilogue == ADD && lane < N ? __ldcg(a.out + (u64)lane * a.out_stride + w.row) : 0.0f;
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
        if (lane == t) v = total;
        sum[t] = 0;
    }
    v += r.bias;
    if (a.epilogue == GATED && w.part == 0) {
        r.gate = v;
        return;
    }
    const float activated = activate(a.activation, a.epilogue == GATED ? r.gate : v);
    v = a.epilogue == GATED ? activated * v : activated;
    if (a.share) v *= __ldcg(a.share + (a.sum_slots ? w.part : w.row / (u32)a.m[0].rows));
    if (a.sum_slots) {
        r.gate += v;
        if (w.part + 1 < s.parts) return;
        v = r.gate;
    }
    if (lane < N) a.out[(u64)lane * a.out_stride + w.row] = v + r.before;
}
