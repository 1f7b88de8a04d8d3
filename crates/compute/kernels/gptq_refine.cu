// Sweeps of refinement over a piece of neighbouring positions, as gptq/refine.rs does them: a better scale for the levels
// chosen, better levels for that scale, under the whole Hessian.
//
//   extern "C" void gptq_refine(RefineArgs)   grid (width / 32), block 256, shared refine bytes; at most 128 positions
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

constexpr u32 MOST = 128;

struct Work {
    float triangle[triangle_floats(MOST)];
    float errors[2][SHORT][LINE];
    float per_diagonal[MOST];
    float gradient[MOST][LINE];
};

// The scale of a piece that is one group. Every warp does the same sums, and its own positions. Levels and products are
// where the square will be.
DEVICE float refit(float scale, const RefineArgs& a, u32 row0, Work& work) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    static_assert(triangle_floats(MOST) >= 2 * MOST * LINE, "they fit");
    float(*levels)[LINE] = (float(*)[LINE])work.triangle, (*products)[LINE] = levels + MOST, (*gradient)[LINE] = work.gradient;
    load_lines(levels, a.levels + row0, a.width, a.size);
    load_lines(products, a.products + row0, a.width, a.size);
    loads_arrived();
    float along = 0.0f, square = 0.0f;
#pragma unroll 8
    for (u32 i = 0; i < a.size; i++) {
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
    for (u32 i = warp; i < a.size; i += WARPS) {
        gradient[i][lane] = gradient[i][lane] - change * products[i][lane];
        a.changes[(u64)i * a.width + row0 + lane] = 0.0f - change * levels[i][lane];
    }
    __syncthreads();
    return scale + change;
}

// Levels and changes of a short's columns, of one row.
struct Ahead {
    float levels[SHORT], changes[SHORT];
    DEVICE void load(const RefineArgs& a, u32 row, u32 first, u32 end) {
#pragma unroll
        for (int j = 0; j < SHORT; j++) {
            const bool inside = first + j < end;
            const u64 at = (u64)(first + j) * a.width + row;
            levels[j] = inside ? a.levels[at] : 0.0f;
            changes[j] = inside ? a.changes[at] : 0.0f;
        }
    }
};

// A short's columns of one group, one after the other: better levels. First warp.
template <bool FULL, class Set>
DEVICE void descend(const Set& set, const RefineArgs& a, Work& work, const Ahead& ahead, float (*latest)[LINE], u32 row0,
                    u32 first, u32 some, float scale, float low) {
    const u32 lane = threadIdx.x % 32, size = FULL ? SHORT : some;
    float g[SHORT];
    u32 row[SHORT];
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        const bool inside = j < size;
        g[j] = inside ? work.gradient[first + j][lane] : 0.0f;
        row[j] = inside ? triangle_row(first + j) + first : 0;
    }
#pragma unroll
    for (int j = 0; j < SHORT; j++) {
        if (j >= size) {
            latest[j][lane] = 0.0f;
            continue;
        }
        const u64 at = (u64)(first + j) * a.width + row0;
        const float step = scale == 0.0f ? 0.0f : g[j] * work.per_diagonal[first + j] / scale;
        const float level = set.of(ahead.levels[j] + step, low);
        const float change = scale * (ahead.levels[j] - level);
        a.levels[at] = level;
        latest[j][lane] = change;
        a.changes[at] = ahead.changes[j] + change;
#pragma unroll
        for (int k = j + 1; k < SHORT; k++) g[k] = g[k] + work.triangle[row[k] + j] * change;
    }
}

extern "C" __global__ void __launch_bounds__(256) gptq_refine(const __grid_constant__ RefineArgs a) {
    extern __shared__ __align__(16) char shared[];
    Work& work = *(Work*)shared;
    const u32 row0 = blockIdx.x * LINE, row = row0 + threadIdx.x % 32;
    load_lines(work.gradient, a.gradient + row0, a.width, a.size);
    if (!a.products) {
        load_triangle(work.triangle, a.square, a.size, a.size, triangle_floats(MOST));
        for (u32 i = threadIdx.x / 32; i < a.size; i += WARPS) a.changes[(u64)i * a.width + row] = 0.0f;
    }
    if (threadIdx.x < a.size) work.per_diagonal[threadIdx.x] = 1.0f / a.square[(u64)threadIdx.x * a.size + threadIdx.x];
    loads_arrived();
    const Whole set = {a.span};
    u32 turn = 0;
    for (u32 g = 0; g < a.count; g++) {
        const uint4 group = a.groups[g];
        const u64 line = (u64)group.z * a.width + row;
        float scale = a.scales[line];
        const float low = a.lows[line];
        if (a.products) {
            scale = refit(scale, a, row0, work);
            if (threadIdx.x < 32) a.scales[line] = scale;
            load_triangle(work.triangle, a.square, a.size, a.size, triangle_floats(MOST));
        }
        Ahead ahead;
        if (threadIdx.x < 32) ahead.load(a, row, group.x, group.y);
        loads_arrived();
        for (u32 at = group.x; at < group.y; at += SHORT) {
            const u32 size = min((u32)SHORT, group.y - at);
            if (threadIdx.x < 32) {
                Ahead next;
                next.load(a, row, at + SHORT, group.y);
                if (size == SHORT) descend<true>(set, a, work, ahead, work.errors[turn], row, at, size, scale, low);
                else descend<false>(set, a, work, ahead, work.errors[turn], row, at, size, scale, low);
                ahead = next;
            }
            __syncthreads();
            add_short(work.gradient, work.triangle, work.errors[turn], at, at + size, a.size);
            turn ^= 1;
        }
    }
}
