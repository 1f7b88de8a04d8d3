// Sweeps of refinement over a piece of neighbouring positions, as gptq/refine.rs does them: a better scale for the levels
// chosen, better levels for that scale, under the whole Hessian.
//
//   extern "C" void gptq_refine_<B>(RefineArgs)   grid (width / 32), block 256, shared refine bytes
//
// B, 128 or 64: the most positions of a piece.
#include "gptq.cuh"

// Mirrored by cuda/column_loop/args.rs; passed by value.
struct RefineArgs {
    const float* square;    // of H, [size][size]
    const float* gradient;  // [size][width]
    const float* products;  // levels times the square, [size][width]; null: scales stay
    float* levels;          // [size][width]
    float* changes;         // of the error of the weights, [size][width]: written
    const uint4* groups;    // first position within the piece, end, number, unused
    float* scales;          // [groups][width]
    const float* lows;      // [groups][width]
    float span;
    u32 width, size, count;
};

template <int B>
struct Work {
    float triangle[triangle_floats(B)];
    float errors[2][SHORT][LINE];
    float per_diagonal[B];
    float gradient[B][LINE], levels[B][LINE], changes[B][LINE];
};

// The scale of a piece that is one group. Every warp does the same sums, and its own positions.
DEVICE float refit(float scale, const float (*products)[LINE], const float (*levels)[LINE], float (*gradient)[LINE],
                   float (*changes)[LINE], u32 size) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float along = 0.0f, square = 0.0f;
#pragma unroll 4
    for (u32 i = 0; i < size; i++) {
        const float t = levels[i][lane];
        along = along + t * gradient[i][lane];
        square = square + t * products[i][lane];
    }
    const float wanted = scale + (0.0f < square ? along / square : 0.0f);
    const float rounded = with_sign(half_above_zero(fabsf(wanted)), wanted);
    float change = rounded - scale;
    // The error changes by change^2 (t H t) - 2 change (t g).
    change = change * change * square < (change + change) * along ? change : 0.0f;
    __syncthreads();
    for (u32 i = warp; i < size; i += WARPS) {
        const float t = levels[i][lane];
        gradient[i][lane] = gradient[i][lane] - change * products[i][lane];
        changes[i][lane] = 0.0f - change * t;
    }
    __syncthreads();
    return scale + change;
}

// A short's columns of one group, one after the other: better levels. First warp.
template <class Set>
DEVICE void descend(const Set& set, const float* triangle, const float* per_diagonal, const float (*gradient)[LINE],
                    float (*levels)[LINE], float (*changes)[LINE], float (*latest)[LINE], u32 first, u32 size, float scale,
                    float low) {
    const u32 lane = threadIdx.x % 32;
    float g[SHORT];
    u32 row[SHORT];
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        const bool inside = j < size;
        g[j] = inside ? gradient[first + j][lane] : 0.0f;
        row[j] = inside ? triangle_row(first + j) + first : 0;
    }
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        if (j >= size) {
            latest[j][lane] = 0.0f;
            continue;
        }
        const float old = levels[first + j][lane];
        const float step = scale == 0.0f ? 0.0f : g[j] * per_diagonal[first + j] / scale;
        const float level = set.of(old + step, low);
        const float change = scale * (old - level);
        levels[first + j][lane] = level;
        latest[j][lane] = change;
        changes[first + j][lane] = changes[first + j][lane] + change;
#pragma unroll
        for (int k = j + 1; k < SHORT; k++) g[k] = g[k] + triangle[row[k] + j] * change;
    }
}

template <int B>
DEVICE void refine_kernel(const RefineArgs& a) {
    extern __shared__ __align__(16) char shared[];
    Work<B>& work = *(Work<B>*)shared;
    const u32 row0 = blockIdx.x * LINE, row = row0 + threadIdx.x % 32;
    load_triangle(work.triangle, a.square, a.size, a.size, triangle_floats(B));
    load_lines(work.gradient, a.gradient + row0, a.width, a.size);
    load_lines(work.levels, a.levels + row0, a.width, a.size);
    if (a.products) {
        load_lines(work.changes, a.products + row0, a.width, a.size);
    } else {
        for (u32 i = threadIdx.x; i < a.size * LINE; i += blockDim.x) work.changes[0][i] = 0.0f;
    }
    if (threadIdx.x < a.size) work.per_diagonal[threadIdx.x] = 1.0f / a.square[(u64)threadIdx.x * a.size + threadIdx.x];
    __syncthreads();
    const Whole set = {a.span};
    u32 turn = 0;
    for (u32 g = 0; g < a.count; g++) {
        const uint4 group = a.groups[g];
        const u64 line = (u64)group.z * a.width + row;
        float scale = a.scales[line];
        const float low = a.lows[line];
        if (a.products) {
            scale = refit(scale, work.changes, work.levels, work.gradient, work.changes, a.size);
            if (threadIdx.x < 32) a.scales[line] = scale;
        }
        for (u32 at = group.x; at < group.y; at += SHORT) {
            const u32 size = min((u32)SHORT, group.y - at);
            if (threadIdx.x < 32)
                descend(set, work.triangle, work.per_diagonal, work.gradient, work.levels, work.changes, work.errors[turn],
                        at, size, scale, low);
            __syncthreads();
            add_short(work.gradient, work.triangle, work.errors[turn], at, at + size, a.size);
            turn ^= 1;
        }
    }
    __syncthreads();
    store_lines(a.levels + row0, work.levels, a.width, a.size);
    store_lines(a.changes + row0, work.changes, a.width, a.size);
}

extern "C" __global__ void __launch_bounds__(256) gptq_refine_128(const __grid_constant__ RefineArgs a) { refine_kernel<128>(a); }
extern "C" __global__ void __launch_bounds__(256) gptq_refine_64(const __grid_constant__ RefineArgs a) { refine_kernel<64>(a); }
