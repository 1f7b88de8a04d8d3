// The column loop over the positions of a block, as gptq/tile.rs does it, for any format: a Format chooses the parameters
// of a group and says what its levels are.
#pragma once
#include "gptq_search.cuh"

// Mirrored by cuda/column_loop/args.rs.
struct MakeUpArgs {
    const float* factor;    // the square at these positions, [..][columns]
    const float* weights;   // [size][width]
    float* values;          // [size][width]: residuals; becomes the weights that make up for all errors so far
    float* errors;          // [size][width]
    u32 columns, width, size, spare;
};
struct ChooseArgs {
    const float* values;    // [size][width]
    const float* diagonal;  // [size]
    Parameters parameters;
    Kind kind;
    u32 width, size, group, unit;
};
struct RoundArgs {
    const float* factor;    // the square at the block's positions, [..][columns]
    const float* weights;   // [size][width], as all of the block
    float* residual;
    float* levels;
    float* errors;
    const float* diagonal;  // [size]
    const uint4* groups;    // first position within the block, end, number, 1 + its unit if its parameters are chosen here
    Parameters parameters;
    Kind kind;
    u32 columns, width, size, count, started;
};

// Of a block of threads.
template <int B>
struct Work {
    float triangle[triangle_floats(B)];
    float errors[2][SHORT][LINE];
    float root[B];
};

// A short's columns, one after the other: what they would have to be. First warp. FULL: size is 16.
template <bool FULL>
DEVICE void make_up(float (*values)[LINE], const float (*weights)[LINE], const float* triangle, const float* minus,
                    float (*errors)[LINE], u32 first, u32 some) {
    const u32 lane = threadIdx.x % 32, size = FULL ? SHORT : some;
    float sum[SHORT];
    u32 row[SHORT];
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        const bool inside = j < size;
        sum[j] = inside ? values[first + j][lane] : 0.0f;
        row[j] = inside ? triangle_row(first + j) + first : 0;
    }
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        if (j >= size) {
            errors[j][lane] = 0.0f;
            continue;
        }
        const float error = sum[j] * minus[first + j];
        errors[j][lane] = error;
        values[first + j][lane] = weights[first + j][lane] - error;
#pragma unroll
        for (int k = j + 1; k < SHORT; k++) sum[k] = sum[k] + triangle[row[k] + j] * error;
    }
}

// The weights at `first..end` that would make up for all errors so far, in place of the residuals in `values`.
DEVICE void make_up_all(float (*values)[LINE], const float (*weights)[LINE], const float* triangle, const float* minus,
                        float (*errors)[SHORT][LINE], u32 first, u32 end) {
    u32 turn = 0;
    for (u32 at = first; at < end; at += SHORT) {
        const u32 size = min((u32)SHORT, end - at);
        if (threadIdx.x < 32) {
            if (size == SHORT) make_up<true>(values, weights, triangle, minus, errors[turn], at, size);
            else make_up<false>(values, weights, triangle, minus, errors[turn], at, size);
        }
        __syncthreads();
        add_short(values, triangle, errors[turn], at, at + size, end);
        turn ^= 1;
    }
    __syncthreads();
}

template <int B>
DEVICE void make_up_kernel(const MakeUpArgs& a) {
    extern __shared__ __align__(16) char shared[];
    Work<B>& work = *(Work<B>*)shared;
    float(*values)[LINE] = (float(*)[LINE])(&work + 1), (*weights)[LINE] = values + B, (*kept)[LINE] = weights + B;
    const u32 row0 = blockIdx.x * LINE;
    load_triangle(work.triangle, a.factor, a.columns, a.size, triangle_floats(B));
    load_lines(values, a.values + row0, a.width, a.size);
    load_lines(weights, a.weights + row0, a.width, a.size);
    if (threadIdx.x < a.size) work.root[threadIdx.x] = -1.0f / a.factor[(u64)threadIdx.x * a.columns + threadIdx.x];
    loads_arrived();
    u32 turn = 0;
    for (u32 at = 0; at < a.size; at += SHORT) {
        const u32 size = min((u32)SHORT, a.size - at);
        if (threadIdx.x < 32) {
            if (size == SHORT) make_up<true>(values, weights, work.triangle, work.root, work.errors[turn], at, size);
            else make_up<false>(values, weights, work.triangle, work.root, work.errors[turn], at, size);
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < size * LINE; i += blockDim.x)
            kept[at + i / LINE][i % LINE] = work.errors[turn][i / LINE][i % LINE];
        add_short(values, work.triangle, work.errors[turn], at, at + size, a.size);
        turn ^= 1;
    }
    __syncthreads();
    store_lines(a.values + row0, values, a.width, a.size);
    store_lines(a.errors + row0, kept, a.width, a.size);
}

// A short's columns of one group, one after the other: their levels, errors and residuals. First warp.
template <bool FULL, class Set>
DEVICE void round_short(const RoundArgs& a, const Set& set, float (*sums)[LINE], const float (*weights)[LINE],
                        const float* triangle, const float* root, float (*errors)[LINE], u32 first, u32 some, float scale,
                        float low, float offset) {
    const u32 lane = threadIdx.x % 32, size = FULL ? SHORT : some;
    const u64 row0 = blockIdx.x * LINE + lane;
    const float per_scale = inverse(scale);
    float sum[SHORT];
    u32 row[SHORT];
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        const bool inside = j < size;
        sum[j] = inside ? sums[first + j][lane] : 0.0f;
        row[j] = inside ? triangle_row(first + j) + first : 0;
    }
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        if (j >= size) {
            errors[j][lane] = 0.0f;
            continue;
        }
        const float weight = weights[first + j][lane];
        const float wanted = (weight + sum[j] * root[first + j] - offset) * per_scale;
        const float level = set.of(wanted, low);
        const float error = weight - offset - scale * level;
        errors[j][lane] = error;
        const u64 at = (u64)(first + j) * a.width + row0;
        a.errors[at] = error;
        a.levels[at] = level;
        a.residual[at] = sum[j] + error * triangle[row[j] + j];
#pragma unroll
        for (int k = j + 1; k < SHORT; k++) sum[k] = sum[k] + triangle[row[k] + j] * error;
    }
}

template <int B, class Format>
DEVICE void round_kernel(const RoundArgs& a, const Format& format) {
    extern __shared__ __align__(16) char shared[];
    Work<B>& work = *(Work<B>*)shared;
    float(*sums)[LINE] = (float(*)[LINE])(&work + 1), (*weights)[LINE] = sums + B, (*values)[LINE] = weights + B;
    float* const minus = (float*)(values + B);
    float* const costs = minus + B;
    Found& found = *(Found*)(costs + B);
    const u32 row0 = blockIdx.x * LINE, row = row0 + threadIdx.x % 32;
    load_triangle(work.triangle, a.factor, a.columns, a.size, triangle_floats(B));
    load_lines(sums, a.residual + row0, a.width, a.size);
    load_lines(weights, a.weights + row0, a.width, a.size);
    if (threadIdx.x < a.size) {
        const float inv = 1.0f / a.factor[(u64)threadIdx.x * a.columns + threadIdx.x];
        work.root[threadIdx.x] = inv;
        minus[threadIdx.x] = -inv;
        costs[threadIdx.x] = a.diagonal[threadIdx.x];
    }
    loads_arrived();
    u32 turn = 0;
    for (u32 g = 0; g < a.count; g++) {
        const uint4 group = a.groups[g];
        const u32 first = group.x, end = group.y;
        const u64 line = (u64)group.z * a.width + row;
        Chosen chosen;
        __syncthreads();
        if (group.w) {
            float(*source)[LINE] = weights;
            if (a.started || first > 0) {
                for (u32 i = first * LINE + threadIdx.x; i < end * LINE; i += blockDim.x) values[0][i] = sums[0][i];
                __syncthreads();
                make_up_all(values, weights, work.triangle, minus, work.errors, first, end);
                source = values;
            }
            const Columns columns = {&source[first][threadIdx.x % 32], LINE, end - first, costs + first};
            chosen = format.choose(a.parameters, columns, found, line, (u64)(group.w - 1) * a.width + row);
        } else {
            chosen = format.chosen(a.parameters, line);
        }
        for (u32 at = first; at < end; at += SHORT) {
            const u32 size = min((u32)SHORT, end - at);
            if (threadIdx.x < 32) {
                float(*errors)[LINE] = work.errors[turn];
                if (size == SHORT) {
                    round_short<true>(a, format.set, sums, weights, work.triangle, work.root, errors, at, size, chosen.scale,
                                      chosen.low, chosen.offset);
                } else {
                    round_short<false>(a, format.set, sums, weights, work.triangle, work.root, errors, at, size, chosen.scale,
                                       chosen.low, chosen.offset);
                }
            }
            __syncthreads();
            add_short(sums, work.triangle, work.errors[turn], at, at + size, a.size);
            turn ^= 1;
        }
    }
}

// A group whose values are in global memory.
template <class Format>
DEVICE void choose_kernel(const ChooseArgs& a, const Format& format) {
    __shared__ Found found;
    const u32 row = blockIdx.x * LINE + threadIdx.x % 32;
    const Columns columns = {a.values + row, a.width, a.size, a.diagonal};
    format.choose(a.parameters, columns, found, (u64)a.group * a.width + row, (u64)a.unit * a.width + row);
}
