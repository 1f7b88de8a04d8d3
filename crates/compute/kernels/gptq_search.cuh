// The search for GPTQ's scale and zero point, as gptq/parameters.rs does it: candidates are spread over the warps of a
// block, four at a time in each thread. The first of those with the smallest error wins.
#pragma once
#include "gptq.cuh"

// Some columns of 32 rows: in shared memory (STRIDE 32) or in global memory.
struct Columns {
    const float* values;    // of this thread's row
    u32 stride, count;
    const float* weights;   // what an error in each column costs
};

// How weights are stored: GPTQ's codes have the first three, block types the others. Mirrored by cuda/column_loop/args.rs.
struct Kind {
    float top;              // the largest code
    u32 symmetric, search;
    float low, high;        // the lowest and the highest level
    float code_low, code_high, offset_high;  // whole numbers of scales and offsets under a shared f16
};
// All [groups][width] or [units][width].
struct Parameters {
    float *scales, *lows, *offsets, *scale_codes, *offset_codes, *unit_scales, *unit_offsets;
};
// Of a group of a row.
struct Chosen {
    float scale, low, offset;
};

// What a block of threads has in shared memory to choose among what its warps found.
struct Found {
    float error[WARPS][LINE];
    u32 index[WARPS][LINE];
    float scale[WARPS][LINE], second[WARPS][LINE];
};

// The best of all candidates so far; ties go to the lowest index, as if they were tried one after the other.
struct Best {
    float error, scale, second;
    u32 index;
    DEVICE void take(float e, u32 i, float s, float z) {
        if (e < error) error = e, index = i, scale = s, second = z;
    }
};

// The best of all warps. Every thread gets it; the block waits for itself twice.
DEVICE Best best_of_warps(Best mine, Found& found) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    found.error[warp][lane] = mine.error;
    found.index[warp][lane] = mine.index;
    found.scale[warp][lane] = mine.scale;
    found.second[warp][lane] = mine.second;
    __syncthreads();
    Best best = {found.error[0][lane], found.scale[0][lane], found.second[0][lane], found.index[0][lane]};
#pragma unroll
    for (int w = 1; w < WARPS; w++) {
        const float e = found.error[w][lane];
        const u32 i = found.index[w][lane];
        if (e < best.error || (e == best.error && i < best.index))
            best = {e, found.scale[w][lane], found.second[w][lane], i};
    }
    __syncthreads();
    return best;
}

constexpr int SHARES = 28;

// The i-th range tried, as a share of the full one.
DEVICE float shrink(u32 i) {
    if (i == 0) return 1.0f;
    const u32 step = i <= 4 ? i - 1 : i;
    return 1.08f - 0.02f * (float)step;
}

// Scale and lowest level of a group; every thread gets those of its row.
DEVICE void choose_gptq(const Kind& grid, const Columns& c, Found& found, float& scale_out, float& low_out) {
    const u32 warp = threadIdx.x / 32;
    float low = 0.0f, high = 0.0f;
#pragma unroll 4
    for (u32 j = 0; j < c.count; j++) {
        const float x = c.values[j * c.stride];
        low = lane_min(x, low);
        high = lane_max(x, high);
    }
    const float top = grid.top, middle = (top + 1.0f) / 2.0f;
    float range;
    if (grid.symmetric) {
        const float largest = lane_max(0.0f - low, high);
        range = largest + largest;
    } else {
        range = high - low;
    }
    const bool empty = range == 0.0f;
    const float step = range / top;
    const float whole_scale = empty ? NORMAL : half_above_zero(step);
    const float zero =
        grid.symmetric ? middle : nearest(lane_min(lane_max((0.0f - low) / whole_scale, 0.0f), top));
    if (!grid.search) {
        scale_out = whole_scale;
        low_out = 0.0f - zero;
        return;
    }
    // Candidate 0 is the whole range; then the shares of it: with both signs, or with three zero points.
    const u32 count = 1 + SHARES * (grid.symmetric ? 2 : 3);
    Best best = {__int_as_float(0x7fc00000), 0.0f, 0.0f, 0xffffffffu};
    constexpr int AT_ONCE = 4;
    for (u32 pass = AT_ONCE * warp; pass < count; pass += AT_ONCE * WARPS) {
        float scale[AT_ONCE], zeros[AT_ONCE], inv[AT_ONCE], sum[AT_ONCE], lows[AT_ONCE], highs[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const u32 i = min(pass + k, count - 1);
            scale[k] = whole_scale;
            zeros[k] = zero;
            if (i > 0) {
                const u32 part = (i - 1) / SHARES;
                const float size = empty ? NORMAL : half_above_zero(step * shrink((i - 1) % SHARES));
                scale[k] = grid.symmetric && part == 1 ? size * -1.0f : size * 1.0f;
                if (!grid.symmetric && part > 0)
                    zeros[k] = lane_min(lane_max(zero + (part == 1 ? -1.0f : 1.0f), 0.0f), top);
            }
            inv[k] = 1.0f / scale[k];
            lows[k] = 0.0f - zeros[k];
            highs[k] = top - zeros[k];
            sum[k] = 0.0f;
        }
#pragma unroll 4
        for (u32 j = 0; j < c.count; j++) {
            const float x = c.values[j * c.stride], weight = c.weights[j];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                const float error = x - scale[k] * whole(x * inv[k], lows[k], highs[k]);
                sum[k] = sum[k] + weight * error * error;
            }
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (pass + k >= count) continue;
            if (pass + k == 0) best = {sum[k], scale[k], zeros[k], 0};
            // A warp's first candidate stands for nothing yet.
            else if (best.index == 0xffffffffu) best = {sum[k], scale[k], zeros[k], pass + k};
            else best.take(sum[k], pass + k, scale[k], zeros[k]);
        }
    }
    best = best_of_warps(best, found);
    scale_out = best.scale;
    low_out = 0.0f - best.second;
}
