// A sweep over one block of a block type, as gptq/{refine.rs,blocks/refit.rs} do it: shared f16s, then the groups' own
// scales and offsets, then codes, each the best for the rest.
//
//   extern "C" void gptq_along(AlongArgs)     grid (width / 32, size / 32), block 256
//   extern "C" void gptq_sweep(SweepArgs)    grid (width / 32), block 256, shared sweep bytes
//
// 16 columns of the block's square of H at a time are in shared memory, and the next 16 if `buffers` is 2.
#include "gptq_blocks.cuh"

// Mirrored by cuda/column_loop/args.rs.
struct AlongArgs {
    const float* levels;    // [size][width]
    const uint4* groups;    // first position, end, number
    Parameters parameters;
    float* along;           // levels times their scale's number
    float* below;           // the offset's number, negated; null: there is none
    u32 width, count;
};
struct SweepArgs {
    const float* square;    // of H, [size][size]
    const float* gradient;  // [size][width]
    float* levels;          // [size][width]
    float* changes;         // [size][width]: written
    // [size][width]: along and below (null: none) and their products with the square where groups share an f16; otherwise
    // along_h is the product of the levels.
    const float *along, *below, *along_h, *below_h;
    const uint4* groups;    // first position, end, number, 1 + unit
    Parameters parameters;
    Kind kind;
    u32 width, size, count, buffers;
};

#define KERNEL extern "C" __global__ void __launch_bounds__(256)
KERNEL gptq_along(const __grid_constant__ AlongArgs a) {
    const u32 row = blockIdx.x * LINE + threadIdx.x % 32;
    for (u32 g = 0; g < a.count; g++) {
        const uint4 group = a.groups[g];
        const u64 line = (u64)group.z * a.width + row;
        const u32 first = max(group.x, blockIdx.y * 32), end = min(group.y, blockIdx.y * 32 + 32);
        for (u32 i = first + threadIdx.x / 32; i < end; i += WARPS) {
            const u64 at = (u64)i * a.width + row;
            a.along[at] = a.levels[at] * a.parameters.scale_codes[line];
            if (a.below) a.below[at] = -a.parameters.offset_codes[line];
        }
    }
}

// A quadratic form in two changes.
struct Form {
    float along, along1, tt, t1, one;
    DEVICE float of(float a, float b) const {
        return a * a * tt + 2.0f * a * b * t1 + b * b * one - 2.0f * (a * along + b * along1);
    }
    // The changes that make it least; unless `both`, the second is 0.
    DEVICE void least(bool both, float& a, float& b) const {
        const float alone = 0.0f < tt ? along / tt : 0.0f;
        a = alone;
        b = 0.0f;
        if (!both) return;
        const float product = tt * one;
        const float determinant = product - t1 * t1;
        // Levels that are all alike say nothing about the scale.
        if (product * 1e-5f < determinant) {
            a = (along * one - along1 * t1) / determinant;
            b = (along1 * tt - along * t1) / determinant;
        }
    }
};

constexpr u32 MOST = 256;

struct Sweep {
    const SweepArgs& a;
    const Blocks& format;
    float (*gradient)[LINE];
    float (*panels)[MOST][16];
    float (*errors)[SHORT][LINE];
    float (*products)[LINE];    // of a group that is a part of its block
    float (*lines)[LINE];       // its levels
    float* ones;                // H 1 of a group
    float* per_diagonal;
    u32 lane, warp, row;

    DEVICE u64 at(u32 position) const { return (u64)position * a.width + row; }

    // Columns `first` .. `first + 16` of the square from row `from` on, by these threads.
    DEVICE void load_panel(u32 buffer, u32 first, u32 from, u32 thread, u32 threads) const {
        for (u32 i = thread; i < (a.size - from) * 4; i += threads) {
            const u32 j = from + i / 4, k = i % 4 * 4;
            copy_later<16>(&panels[buffer][j][k], a.square + (u64)j * a.size + first + k, 16);
        }
    }
    // sum += panel row j times e
    DEVICE float chain(u32 buffer, u32 j, const float (&e)[16], float sum) const {
        const float4* line = (const float4*)panels[buffer][j];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float4 u = line[i];
            sum = fmaf(u.x, e[4 * i], sum);
            sum = fmaf(u.y, e[4 * i + 1], sum);
            sum = fmaf(u.z, e[4 * i + 2], sum);
            sum = fmaf(u.w, e[4 * i + 3], sum);
        }
        return sum;
    }

    // The f16s that the groups of a block share.
    DEVICE void shared() const {
        Form form = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 16
        for (u32 i = 0; i < a.size; i++) {
            const float t = a.along[at(i)], g = gradient[i][lane], th = a.along_h[at(i)];
            form.along = form.along + t * g;
            form.tt = form.tt + t * th;
            if (OFFSET_CODES) {
                const float m = a.below[at(i)];
                form.along1 = form.along1 + m * g;
                form.t1 = form.t1 + m * th;
                form.one = form.one + m * a.below_h[at(i)];
            }
        }
        float x, y;
        form.least(OFFSET_CODES, x, y);
        const u64 unit = (u64)(a.groups[0].w - 1) * a.width + row;
        const float scale = a.parameters.unit_scales[unit], offset = a.parameters.unit_offsets[unit];
        const float new_scale = signed_half(scale + x);
        const float new_offset = OFFSET_CODES ? lane_max(signed_half(offset + y), 0.0f) : offset;
        x = new_scale - scale;
        y = new_offset - offset;
        const bool better = form.of(x, y) < 0.0f;
        x = better ? x : 0.0f;
        y = better ? y : 0.0f;
        const float kept = signed_half(scale + x), kept_offset = signed_half(offset + y);
        __syncthreads();
        if (warp == 0) {
            a.parameters.unit_scales[unit] = kept;
            a.parameters.unit_offsets[unit] = kept_offset;
        }
        // Loads of some positions before their stores: what is written might be what is read, for all the compiler knows.
        constexpr int AT_ONCE = 8;
        for (u32 first = warp; first < a.size; first += AT_ONCE * WARPS) {
            float t[AT_ONCE], th[AT_ONCE], m[AT_ONCE], mh[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                const u32 i = first + k * WARPS;
                t[k] = a.along[at(i)];
                th[k] = a.along_h[at(i)];
                m[k] = OFFSET_CODES ? a.below[at(i)] : 0.0f;
                mh[k] = OFFSET_CODES ? a.below_h[at(i)] : 0.0f;
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                const u32 i = first + k * WARPS;
                float change = x * t[k], step = x * th[k];
                if (OFFSET_CODES) {
                    change = change + y * m[k];
                    step = step + y * mh[k];
                }
                a.changes[at(i)] = 0.0f - change;
                gradient[i][lane] = gradient[i][lane] - step;
            }
        }
        for (u32 g = warp; g < a.count; g += WARPS) {
            const u64 line = (u64)a.groups[g].z * a.width + row;
            a.parameters.scales[line] = kept * a.parameters.scale_codes[line];
            a.parameters.offsets[line] = -(kept_offset * a.parameters.offset_codes[line]);
        }
        __syncthreads();
    }

    // What a group has, before.
    struct Now {
        float scale, offset, code, offset_code, unit, unit_offset;
    };

    // The sums of a group's form; levels and their products with the square by column.
    template <class Levels, class Products>
    DEVICE void sums(Form& form, u32 first, u32 count, const Levels& levels, const Products& th) const {
#pragma unroll 8
        for (u32 i = 0; i < count; i++) {
            const float t = levels(i), g = gradient[first + i][lane];
            form.along = form.along + t * g;
            form.tt = form.tt + t * th(i);
            if (OFFSETS) {
                form.along1 = form.along1 + g;
                form.t1 = form.t1 + t * ones[i];
            }
        }
    }

    // One group's own numbers.
    DEVICE void group(u32 g) const {
        const uint4 group = a.groups[g];
        const u32 first = group.x, count = group.y - group.x;
        const u64 line = (u64)group.z * a.width + row, unit = (u64)(group.w - 1) * a.width + row;
        const bool part = count < a.size;
        if (OFFSETS && threadIdx.x < count) {
            float sum = -0.0f;
            for (u32 k = 0; k < count; k++) sum = sum + a.square[(u64)(first + threadIdx.x) * a.size + first + k];
            ones[threadIdx.x] = sum;
        }
        const auto levels_of = [&](u32 panel, float(&e)[16]) {
#pragma unroll
            for (int i = 0; i < 16; i++) e[i] = part ? lines[16 * panel + i][lane] : a.levels[at(first + 16 * panel + i)];
        };
        const u32 count_panels = count / 16;
        // Asked for early, used late.
        const Now now = {a.parameters.scales[line], a.parameters.offsets[line], CODES ? a.parameters.scale_codes[line] : 0.0f,
                         CODES ? a.parameters.offset_codes[line] : 0.0f, CODES ? a.parameters.unit_scales[unit] : 0.0f,
                         CODES ? a.parameters.unit_offsets[unit] : 0.0f};
        float before[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (part) {
            load_lines(lines, a.levels + (u64)first * a.width + row - lane, a.width, count);
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (warp + k * WARPS < count) before[k] = a.changes[at(first + warp + k * WARPS)];
            // Two panels at most: groups of blocks have 16 or 32 columns.
            for (u32 p = 0; p < count_panels; p++) {
                const u32 buffer = a.buffers == 2 ? p : 0;
                load_panel(buffer, first + 16 * p, 0, threadIdx.x, 256);
                loads_arrived();
                float e[16];
                levels_of(p, e);
                for (u32 j = warp; j < count; j += WARPS)
                    products[j][lane] = chain(buffer, first + j, e, p == 0 ? 0.0f : products[j][lane]);
                __syncthreads();
            }
        } else {
            __syncthreads();
        }
        Form form = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        if (OFFSETS) {
            float one = -0.0f;
            for (u32 i = 0; i < count; i++) one = one + ones[i];
            form.one = one;
        }
        if (part) sums(form, first, count, [&](u32 i) { return lines[i][lane]; }, [&](u32 i) { return products[i][lane]; });
        else sums(form, first, count, [&](u32 i) { return a.levels[at(first + i)]; }, [&](u32 i) { return a.along_h[at(i)]; });
        float x, y;
        if constexpr (CODES) codes(form, now, line, x, y);
        else halves(form, now, line, x, y);
        // Everyone has read the gradient and the parameters.
        __syncthreads();
        if (part) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const u32 i = warp + k * WARPS;
                if (i < count) a.changes[at(first + i)] = before[k] + (0.0f - (x * lines[i][lane] + y));
            }
        } else {
            // Nothing was changed before; 0 and what is added, as for parts.
#pragma unroll 4
            for (u32 i = warp; i < count; i += WARPS) a.changes[at(first + i)] = 0.0f + (0.0f - (x * a.levels[at(first + i)] + y));
        }
        for (u32 p = 0; p < count_panels; p++) {
            u32 buffer = part && a.buffers == 2 ? p : 0;
            if (!part || (a.buffers == 1 && count_panels > 1)) {
                __syncthreads();
                load_panel(buffer, first + 16 * p, 0, threadIdx.x, 256);
                loads_arrived();
            }
            float e[16];
            levels_of(p, e);
#pragma unroll
            for (int i = 0; i < 16; i++) e[i] = 0.0f - (x * e[i] + y);
#pragma unroll 2
            for (u32 j = warp; j < a.size; j += WARPS) gradient[j][lane] = chain(buffer, j, e, gradient[j][lane]);
        }
        __syncthreads();
    }

    // Scale and offset as f16; their changes.
    DEVICE void halves(const Form& form, const Now& now, u64 line, float& x, float& y) const {
        float a1, b1, alone, none;
        form.least(OFFSETS, a1, b1);
        form.least(false, alone, none);
        const float scale = now.scale, offset = now.offset;
        float least = 0.0f;
        x = y = 0.0f;
        for (int k = 0; k < 2; k++) {
            const float dx = signed_half(scale + (k == 0 ? a1 : alone)) - scale;
            const float dy = OFFSETS ? signed_half(offset + (k == 0 ? b1 : 0.0f)) - offset : 0.0f;
            const float change = form.of(dx, dy);
            if (change < least) least = change, x = dx, y = dy;
        }
        __syncthreads();
        if (warp == 0) {
            a.parameters.scales[line] = signed_half(scale + x);
            a.parameters.offsets[line] = signed_half(offset + y);
        }
    }

    // Scale and offset as whole numbers under the block's; their changes.
    DEVICE void codes(const Form& form, const Now& now, u64 line, float& x, float& y) const {
        const auto clamp = [](float v, float low, float high) { return lane_min(lane_max(v, low), high); };
        const Kind& kind = format.kind;
        float dx, dy;
        form.least(OFFSET_CODES, dx, dy);
        const float unit = now.unit, unit_offset = now.unit_offset, scale = now.scale, offset = now.offset;
        const float old = now.code, old_offset = now.offset_code;
        const float middle = nearest(clamp((scale + dx) * inverse(unit), kind.code_low, kind.code_high));
        float best = old, best_offset = old_offset, least = 0.0f;
        x = y = 0.0f;
        for (int i = 0; i < 3; i++) {
            const float code = clamp(middle + (i == 0 ? 0.0f : i == 1 ? -1.0f : 1.0f), kind.code_low, kind.code_high);
            dx = unit * code - scale;
            if (OFFSET_CODES) {
                // The best offset for this scale.
                const float wanted = offset + (form.along1 - dx * form.t1) / form.one;
                const float center = nearest(clamp((0.0f - wanted) * inverse(unit_offset), 0.0f, kind.offset_high));
                for (int k = 0; k < 3; k++) {
                    const float offset_code = clamp(center + (k == 0 ? 0.0f : k == 1 ? -1.0f : 1.0f), 0.0f, kind.offset_high);
                    dy = 0.0f - unit_offset * offset_code - offset;
                    const float change = form.of(dx, dy);
                    if (change < least) least = change, x = dx, y = dy, best = code, best_offset = offset_code;
                }
            } else {
                const float change = form.of(dx, 0.0f);
                if (change < least) least = change, x = dx, y = 0.0f, best = code, best_offset = old_offset;
            }
        }
        __syncthreads();
        if (warp == 0) {
            a.parameters.scale_codes[line] = best;
            a.parameters.offset_codes[line] = best_offset;
            a.parameters.scales[line] = unit * best;
            a.parameters.offsets[line] = 0.0f - unit_offset * best_offset;
        }
    }

    // A short's columns of one group, one after the other: better levels. First warp.
    DEVICE void descend(u32 buffer, u32 turn, u32 first, float scale, const float (&levels)[SHORT],
                        const float (&changes)[SHORT]) const {
        float g[SHORT];
#pragma unroll
        for (int j = 0; j < SHORT; j++) g[j] = gradient[first + j][lane];
#pragma unroll
        for (int j = 0; j < SHORT; j++) {
            const float step = scale == 0.0f ? 0.0f : g[j] * per_diagonal[first + j] / scale;
            const float level = format.set.of(levels[j] + step, format.kind.low);
            const float change = scale * (levels[j] - level);
            a.levels[at(first + j)] = level;
            errors[turn][j][lane] = change;
            a.changes[at(first + j)] = changes[j] + change;
#pragma unroll
            for (int k = j + 1; k < SHORT; k++) g[k] = g[k] + panels[buffer][first + k][j] * change;
        }
    }

    DEVICE void levels() const {
        // Groups hold whole shorts, and blocks whole groups: shorts follow each other.
        const bool two = a.buffers == 2;
        u32 turn = 0, g = 0;
        float levels[SHORT], changes[SHORT];
        const auto ahead = [&](u32 first) {
#pragma unroll
            for (int j = 0; j < SHORT; j++) {
                levels[j] = a.levels[at(first + j)];
                changes[j] = a.changes[at(first + j)];
            }
        };
        load_panel(0, 0, 0, threadIdx.x, 256);
        if (warp == 0) ahead(0);
        loads_arrived();
        for (u32 first = 0; first < a.size; first += SHORT) {
            const u32 buffer = two ? turn : 0;
            while (first >= a.groups[g].y) g++;
            if (warp == 0) {
                descend(buffer, turn, first, a.parameters.scales[(u64)a.groups[g].z * a.width + row], levels, changes);
                if (first + SHORT < a.size) ahead(first + SHORT);
            } else if (two && first + SHORT < a.size) {
                load_panel(turn ^ 1, first + SHORT, first + SHORT, threadIdx.x - 32, 224);
            }
            __syncthreads();
            float e[16];
#pragma unroll
            for (int i = 0; i < 16; i++) e[i] = errors[turn][i][lane];
#pragma unroll 2
            for (u32 j = first + SHORT + warp; j < a.size; j += WARPS) gradient[j][lane] = chain(buffer, j, e, gradient[j][lane]);
            loads_arrived();
            if (!two && first + SHORT < a.size) {
                load_panel(0, first + SHORT, first + SHORT, threadIdx.x, 256);
                loads_arrived();
            }
            turn ^= 1;
        }
    }
};

KERNEL gptq_sweep(const __grid_constant__ SweepArgs a) {
    extern __shared__ __align__(16) float shared_memory[];
    __shared__ Table table;
    if (TABLE_LEVELS) make_table(table);
    float(*gradient)[LINE] = (float(*)[LINE])shared_memory;
    float(*panels)[MOST][16] = (float(*)[MOST][16])(gradient + a.size);
    float(*errors)[SHORT][LINE] = (float(*)[SHORT][LINE])(panels + a.buffers);
    float(*products)[LINE] = (float(*)[LINE])(errors + 2);
    // Groups are done before errors are passed on.
    float(*lines)[LINE] = errors[0];
    float* const ones = (float*)(products + 32);
    float* const per_diagonal = ones + MOST;
    const Blocks format(a.kind, &table);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Sweep sweep = {a, format, gradient, panels, errors, products, lines, ones, per_diagonal, lane, warp, blockIdx.x * LINE + lane};
    load_lines(gradient, a.gradient + blockIdx.x * LINE, a.width, a.size);
    if (threadIdx.x < a.size) per_diagonal[threadIdx.x] = 1.0f / a.square[(u64)threadIdx.x * a.size + threadIdx.x];
    loads_arrived();
    if constexpr (POWER) {
        for (u32 i = warp; i < a.size; i += WARPS) a.changes[sweep.at(i)] = 0.0f;
        __syncthreads();
    } else {
        if constexpr (CODES) sweep.shared();
        for (u32 g = 0; g < a.count; g++) sweep.group(g);
    }
    sweep.levels();
}
