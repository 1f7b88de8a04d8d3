// Products of columns in f32 multiply-adds: sum[i][j] += sign * (sum over rows t of a[t][i] b[t][j]), t in order, one chain of
// fused multiply-adds that starts at zero: the steps of the CPU (src/gram/kernel.rs).
//
// A block of 256 threads does 128 x 128 sums, a thread 8 x 8: four columns of each half, so that a warp reads shared memory
// 16 bytes a thread without conflicts. Sixteen rows at a time go through shared memory; the next are loaded meanwhile.
#pragma once
#include "common.cuh"

// Mirrored by cuda/sums_args.rs; passed by value.
struct ProductsArgs {
    const float *a, *b;  // rows of a_stride and b_stride numbers
    float* sum;          // [rows][stride]
    u32 rows, columns;   // of `sum`: columns of a, of b
    u32 depth;           // rows of a and b
    u32 a_stride, b_stride, stride;
    u32 triangle;        // 1: only sum[i][j] with j <= i
    float sign;          // 1 or -1
    const u32* stop;     // if not null and not ~0 there: nothing is done
};

constexpr u32 SIDE = 128, DEPTH = 16;

// Which tile this block does: tiles of a band of eight rows of tiles follow each other, so that blocks that run at the same
// time share what they read.
DEVICE void tile_of_block(u32 index, u32 row_tiles, u32 column_tiles, u32& row, u32& column) {
    const u32 band = index / (8 * column_tiles), first = 8 * band, height = min(8u, row_tiles - first);
    const u32 within = index - first * column_tiles;
    row = first + within % height;
    column = within / height;
}

// Numbers at, at + 1, ... of a row of `columns`; zeros outside.
DEVICE float4 four_of(const float* row, bool inside, bool aligned, u32 at, u32 columns) {
    if (!inside || at >= columns) return make_float4(0, 0, 0, 0);
    const float* p = row + at;
    if (aligned && at + 4 <= columns) return *(const float4*)p;
    return make_float4(p[0], at + 1 < columns ? p[1] : 0.0f, at + 2 < columns ? p[2] : 0.0f, at + 3 < columns ? p[3] : 0.0f);
}

struct ProductsShared {
    float a[2][DEPTH][SIDE], b[2][DEPTH][SIDE];
};

DEVICE void products_tile(const ProductsArgs& p, u32 row0, u32 column0, ProductsShared& shared) {
    const u32 x = threadIdx.x % 16, y = threadIdx.x / 16;
    const bool a_aligned = p.a_stride % 4 == 0 && (u64)p.a % 16 == 0, b_aligned = p.b_stride % 4 == 0 && (u64)p.b % 16 == 0;
    // Which numbers this thread loads: rows t and t + 8 of those at hand, four columns from `at` on.
    const u32 t = threadIdx.x / 32, at = threadIdx.x % 32 * 4;
    float d[8][8] = {};
    float4 next_a[2], next_b[2];
    const auto load = [&](u32 depth) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 row = depth + t + 8 * i;
            next_a[i] = four_of(p.a + (u64)row * p.a_stride, row < p.depth, a_aligned, row0 + at, p.rows);
            next_b[i] = four_of(p.b + (u64)row * p.b_stride, row < p.depth, b_aligned, column0 + at, p.columns);
        }
    };
    const auto store = [&](u32 buffer) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            *(float4*)&shared.a[buffer][t + 8 * i][at] = next_a[i];
            *(float4*)&shared.b[buffer][t + 8 * i][at] = next_b[i];
        }
    };
    load(0);
    store(0);
    __syncthreads();
    u32 buffer = 0;
    for (u32 depth = 0; depth < p.depth; depth += DEPTH) {
        const bool more = depth + DEPTH < p.depth;
        if (more) load(depth + DEPTH);
        // Zeros behind the last row would be added to the sums, which changes no bit but the sign of a zero.
#pragma unroll
        for (u32 k = 0; k < DEPTH; k++) {
            float u[8], v[8];
            *(float4*)&u[0] = *(const float4*)&shared.a[buffer][k][4 * y];
            *(float4*)&u[4] = *(const float4*)&shared.a[buffer][k][64 + 4 * y];
            *(float4*)&v[0] = *(const float4*)&shared.b[buffer][k][4 * x];
            *(float4*)&v[4] = *(const float4*)&shared.b[buffer][k][64 + 4 * x];
#pragma unroll
            for (u32 i = 0; i < 8; i++)
#pragma unroll
                for (u32 j = 0; j < 8; j++) d[i][j] = fmaf(u[i], v[j], d[i][j]);
        }
        if (more) store(buffer ^ 1);
        buffer ^= 1;
        __syncthreads();
    }
    const bool aligned = p.stride % 4 == 0 && (u64)p.sum % 16 == 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 row = row0 + (i < 4 ? 4 * y + i : 60 + 4 * y + i);
        if (row >= p.rows) continue;
        const u32 end = p.triangle ? min(p.columns, row + 1) : p.columns;
        float* line = p.sum + (u64)row * p.stride;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 column = column0 + 64 * half + 4 * x;
            const float* from = &d[i][4 * half];
            if (aligned && column + 4 <= end) {
                float4 sum = *(float4*)(line + column);
                sum.x = fmaf(p.sign, from[0], sum.x);
                sum.y = fmaf(p.sign, from[1], sum.y);
                sum.z = fmaf(p.sign, from[2], sum.z);
                sum.w = fmaf(p.sign, from[3], sum.w);
                *(float4*)(line + column) = sum;
            } else {
#pragma unroll
                for (u32 k = 0; k < 4; k++)
                    if (column + k < end) line[column + k] = fmaf(p.sign, from[k], line[column + k]);
            }
        }
    }
}

// One tile for each block of the grid.
DEVICE void products_f32(const ProductsArgs& p, ProductsShared& shared) {
    u32 row, column;
    tile_of_block(blockIdx.x, (p.rows + SIDE - 1) / SIDE, (p.columns + SIDE - 1) / SIDE, row, column);
    if (p.triangle && column > row) return;
    products_tile(p, row * SIDE, column * SIDE, shared);
}
