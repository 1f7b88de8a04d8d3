// What the kernels of the column loop (GPTQ and block types) share. They do what quern-quantize's gptq/ does on the CPU's
// lanes, operation by operation: a thread is a row, every device function here has the name and the steps of the one
// there. Compiled with --fmad=false: a product and a sum are two roundings unless fmaf is written.
#pragma once
#include "common.cuh"

constexpr int SHORT = 16;   // columns that look back one at a time
constexpr int LINE = 32;    // rows of a block of threads: the lanes of a warp
constexpr int WARPS = 8;

DEVICE float lane_min(float a, float b) { return a < b ? a : b; }
DEVICE float lane_max(float a, float b) { return a > b ? a : b; }
DEVICE float inverse(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23
constexpr float TINY = 1.0f / (1 << 24), NORMAL = 1.0f / (1 << 14), LARGEST = 65504.0f;

// The nearest whole number to x, ties to even, as Lanes::nearest.
DEVICE float nearest(float x) {
    return __uint_as_float((__float_as_uint(x + MAGIC) & 0x007fffffu) | 0x4b000000u) - MAGIC;
}
// The nearest whole number in low..=high. fminf and fmaxf differ from the CPU's only in the sign of 0, which the sum drops.
DEVICE float whole(float x, float low, float high) { return (fminf(fmaxf(x, low), high) + MAGIC) - MAGIC; }

// A scale that f16 holds exactly, next to x >= 0, and above 0.
DEVICE float half_above_zero(float x) {
    x = lane_min(x, LARGEST);
    const float wide = x * 8193.0f;
    const float normal = wide - (wide - x);
    const float subnormal = (x + 0.75f) - 0.75f;
    return lane_min(lane_max(x < NORMAL ? subnormal : normal, TINY), LARGEST);
}
DEVICE float with_sign(float magnitude, float sign) {
    return __uint_as_float(__float_as_uint(magnitude) | (__float_as_uint(sign) & 0x80000000u));
}
// The f16 nearest to x, with its sign; 0 stays 0.
DEVICE float signed_half(float x) { return x == 0.0f ? 0.0f : with_sign(half_above_zero(fabsf(x)), x); }

// ---- copies to shared memory; before compute capability 8.0 they are done at once ----

// BYTES, 16 or 4, of which the first `bytes` come from `from`; the others are 0.
template <int BYTES>
DEVICE void copy_later(float* to, const float* from, u32 bytes) {
#if __CUDA_ARCH__ >= 800
    const u32 address = (u32)__cvta_generic_to_shared(to);
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes));
#else
    if (BYTES == 16 && bytes == 16) {
        *(float4*)to = *(const float4*)from;
    } else {
        for (u32 i = 0; i < BYTES / 4; i++) to[i] = 4 * i < bytes ? from[i] : 0.0f;
    }
#endif
}
DEVICE void copies_queued() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}
template <int LEFT>
DEVICE void copies_arrived() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
#endif
}

// ---- the square of a symmetric matrix at some positions, in shared memory: row j up to the end of its 16 columns ----

// Where row j begins.
DEVICE u32 triangle_row(u32 j) {
    const u32 b = j / 16;
    return 128 * b * (b + 1) + (j % 16) * 16 * (b + 1);
}
// Floats of `size` rows (a multiple of 16), and 16 more: who reads 16 columns may read beyond the last row.
__host__ __device__ constexpr u32 triangle_floats(u32 size) { return 8 * (size / 16) * (size / 16 + 1) * 16 + 16; }

// Brings `size` rows from `matrix`, whose rows are `stride` apart, into `triangle`. Columns beyond the matrix are 0. The
// copies are only queued.
DEVICE void load_triangle(float* triangle, const float* matrix, u32 stride, u32 size, u32 floats) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool aligned = ((u64)matrix % 16 == 0) && stride % 4 == 0;
    for (u32 j = warp; j < size; j += WARPS) {
        float* row = triangle + triangle_row(j);
        const float* from = matrix + (u64)j * stride;
        const u32 length = 16 * (j / 16 + 1), i = 4 * lane;
        if (i >= length) continue;
        const u32 count = i < size ? min(4u, size - i) : 0;
        if (aligned) {
            copy_later<16>(row + i, count ? from + i : matrix, 4 * count);
        } else {
            for (u32 k = 0; k < 4; k++) copy_later<4>(row + i + k, k < count ? from + i + k : matrix, k < count ? 4 : 0);
        }
    }
    // Read with errors of 0, so they must be numbers.
    const u32 end = size == 0 ? 0 : triangle_row(size - 1) + 16 * ((size - 1) / 16 + 1);
    for (u32 i = end + threadIdx.x; i < floats; i += blockDim.x) triangle[i] = 0.0f;
}

// [count][width] of 32 rows to or from [count][32]. Loads are only queued.
DEVICE void load_lines(float (*to)[LINE], const float* from, u32 width, u32 count) {
    for (u32 i = threadIdx.x; i < count * (LINE / 4); i += blockDim.x) {
        const u32 j = i / (LINE / 4), at = i % (LINE / 4) * 4;
        copy_later<16>(&to[j][at], from + (u64)j * width + at, 16);
    }
}
// Waits until what all threads of the block have queued is there.
DEVICE void loads_arrived() {
    copies_queued();
    copies_arrived<0>();
    __syncthreads();
}
DEVICE void store_lines(float* to, const float (*from)[LINE], u32 width, u32 count) {
    for (u32 i = threadIdx.x; i < count * (LINE / 4); i += blockDim.x) {
        const u32 j = i / (LINE / 4), at = i % (LINE / 4) * 4;
        *(float4*)(to + (u64)j * width + at) = *(const float4*)&from[j][at];
    }
}

// sums[j] += sum of errors[i] * triangle[j][first + i], i < 16 in order, for the positions from `next` to `end`: the 16
// after `next` by warp 0, which needs them next, the others by the other warps.
DEVICE void add_short(float (*sums)[LINE], const float* triangle, const float (*errors)[LINE], u32 first, u32 next, u32 end) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 j = warp == 0 ? next : next + SHORT + warp - 1;
    const u32 stop = warp == 0 ? min(end, next + SHORT) : end, step = warp == 0 ? 1 : WARPS - 1;
    if (j >= stop) return;
    float e[SHORT];
#pragma unroll
    for (int i = 0; i < SHORT; i++) e[i] = errors[i][lane];
    if (first % 4 == 0) {
#pragma unroll 4
        for (; j < stop; j += step) {
            const float4* row = (const float4*)(triangle + triangle_row(j) + first);
            float sum = sums[j][lane];
#pragma unroll
            for (int i = 0; i < SHORT / 4; i++) {
                const float4 u = row[i];
                sum = fmaf(u.x, e[4 * i], sum);
                sum = fmaf(u.y, e[4 * i + 1], sum);
                sum = fmaf(u.z, e[4 * i + 2], sum);
                sum = fmaf(u.w, e[4 * i + 3], sum);
            }
            sums[j][lane] = sum;
        }
    } else {
        for (; j < stop; j += step) {
            const float* row = triangle + triangle_row(j) + first;
            float sum = sums[j][lane];
#pragma unroll
            for (int i = 0; i < SHORT; i++) sum = fmaf(row[i], e[i], sum);
            sums[j][lane] = sum;
        }
    }
}

// The levels of a grid: whole numbers from `low` to `low + span`, or the entries of a table.
struct Whole {
    float span;
    DEVICE float of(float x, float low) const { return whole(x, low, low + span); }
};
