// Mixers whose state is a matrix S for each head, [rows][columns], which every token changes. Columns never meet.
//
// A block of 128 threads takes 16 columns of one head through all tokens: eight neighbouring threads share a column, each
// with the rows 32 i + 4 part + 0..3 in registers. Vectors over the rows are in shared memory, TILE tokens at a time, padded
// with zeros to ROWS; those of the next tokens are on their way meanwhile. A warp brings two tokens of a tile.
//
// A state in memory is [head][tile][rows][16]: a tile is 16 columns, the last one filled up with zeros, as the CPU has it.
#pragma once
#include "reduce.cuh"

constexpr int TILE = 8, COLUMNS = 16, PARTS = 8;

// ln(1 + e^x); x itself where they are the same in f32.
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// The sum over the threads of a column.
__device__ __forceinline__ float sum_of_column(float x) {
#pragma unroll
    for (int d = 1; d < PARTS; d *= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

// A thread's numbers of a state.
template <int ROWS> struct Own {
    float4 s[ROWS / 32];

    // f(number, row) for each of them that the state has.
    template <class F> __device__ __forceinline__ void each(int part, int rows, F f) {
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++) {
            const int row = 32 * i + 4 * part;
            float *x = (float *)&s[i];
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (row + e < rows) f(x[e], row + e);
        }
    }
    // From or to the state of the column that begins at `at`, whose rows are 16 numbers apart.
    __device__ __forceinline__ void load(const float *at, int part, int rows) {
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++) s[i] = make_float4(0, 0, 0, 0);
        if (at) each(part, rows, [&](float &x, int row) { x = at[16 * row]; });
    }
    __device__ __forceinline__ void store(float *at, int part, int rows) {
        if (at) each(part, rows, [&](float &x, int row) { at[16 * row] = x; });
    }
};

// Where the state of a column begins; null where the head has no such column.
__device__ __forceinline__ float *state_of(float *state, int head, int column, int columns, int rows) {
    if (column >= columns) return nullptr;
    const int tiles = (columns + 15) / 16;
    return state + ((i64)(head * tiles + column / 16) * rows) * 16 + column % 16;
}
