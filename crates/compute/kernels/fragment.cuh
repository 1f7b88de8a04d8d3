// Weights as operands of the tensor cores: packed rows, or rows of f16 and bf16, to f16 fragments in registers.
//
// A step is 128 columns of the matrix. Thread t = lane % 4 of a warp holds chunk t of the step (32 consecutive values) of
// two rows, lane / 4 and lane / 4 + 8. The step is eight products of 16 columns; product s takes values 4 s .. 4 s + 3 of
// every chunk, thread t in the places where the mma fragment of 16 x 16 has its columns 2t, 2t+1 and 2t+8, 2t+9:
//
//   fragment[0]  row lane/4,     values 4s, 4s + 2         fragment[2]  the same row, values 4s + 1, 4s + 3
//   fragment[1]  row lane/4 + 8, values 4s, 4s + 2         fragment[3]  the same row, values 4s + 1, 4s + 3
//
// The activations stand in that order (prepare.cu). A step is converted in two halves of four products each, so that one
// half's products run while the other is converted. f16 weights are multiplied by `factor`, a power of two that keeps
// small ones out of f16's subnormal numbers; the epilogue divides by it.
#pragma once
#include <cuda_fp16.h>
#include "decode.cuh"

DEVICE u32 word_of(__half2 v) { return *(u32*)&v; }
DEVICE __half2 half2_of(u32 v) { return *(__half2*)&v; }

// Holds the conversion at this place: the compiler moves none of it past the waits of asynchronous products.
DEVICE void keep(u32& a, u32& b) {
#ifdef ASYNCHRONOUS_PRODUCTS
    asm volatile("" : "+r"(a), "+r"(b));
#endif
}

// Codes to halfs: a byte c under 0x64 is the f16 1024 + c.
template <class F>
struct Codes {
    static constexpr u32 BIAS = 0x6400 + F::ZERO + (F::SIGNED ? 128 : 0);  // 1024 + what stands for 0

    // Values 0, 2 and 1, 3 of four codes.
    static DEVICE void pairs(u32 q, __half2 scale, __half2 min, u32& even, u32& odd) {
        if (F::SIGNED) q ^= 0x80808080;
        even = value(permute(q, 0x64646464, 0x4240), scale, min);
        odd = value(permute(q, 0x64646464, 0x4341), scale, min);
    }
    static DEVICE u32 value(u32 biased, __half2 scale, __half2 min) {
        const __half2 code = __hsub2(half2_of(biased), half2_of(BIAS * 0x10001u));
        return word_of(F::MIN ? __hfma2(code, scale, min) : __hmul2(code, scale));
    }
};

// Two rows of a packed matrix; DEPTH steps are on their way from memory. A step is decoded once, for its first half; the
// second half's codes are kept meanwhile, and the registers that the step came in are free for another.
template <class F, int DEPTH>
struct Fragments {
    typename F::Raw raw[DEPTH][2];
    u32 rest[2][4];
    __half2 rest_scale[2], rest_min[2];

    // Starts to load a step into place `slot`.
    template <int slot>
    DEVICE void fetch(const Matrix& m, u32 first, u32 second, u32 chunk) {
        raw[slot][0] = F::load(m, first + chunk);
        raw[slot][1] = F::load(m, second + chunk);
    }
    // The same, as far as there is room once `half` of the step before in that place has been converted.
    template <int slot, int half>
    DEVICE void refill(const Matrix& m, u32 first, u32 second, u32 chunk) {
        if (half == 0) fetch<slot>(m, first, second, chunk);
    }
    template <int slot, int half>
    DEVICE void convert(u32 first, u32 second, u32 chunk, float factor, u32 (&fragment)[4][4]) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            u32 q[4];
            __half2 scale, min;
            if (half == 0) {
                const Chunk c = F::decode(raw[slot][r], (r == 0 ? first : second) + chunk);
                scale = __float2half2_rn(c.scale[0] * factor);
                min = F::MIN ? __float2half2_rn(-c.min[0] * factor) : scale;
                rest_scale[r] = F::SCALES == 2 ? __float2half2_rn(c.scale[1] * factor) : scale;
                rest_min[r] = F::MIN && F::SCALES == 2 ? __float2half2_rn(-c.min[1] * factor) : min;
#pragma unroll
                for (int s = 0; s < 4; s++) q[s] = c.q[s], rest[r][s] = c.q[4 + s];
            } else {
                scale = rest_scale[r], min = rest_min[r];
#pragma unroll
                for (int s = 0; s < 4; s++) q[s] = rest[r][s];
            }
#pragma unroll
            for (int s = 0; s < 4; s++) {
                Codes<F>::pairs(q[s], scale, min, fragment[s][r], fragment[s][2 + r]);
                keep(fragment[s][r], fragment[s][2 + r]);
            }
        }
    }
};

// f16 and bf16: a chunk is 64 bytes of the row. Two loads share a sector, so these go through the first cache.
template <bool BRAIN, int DEPTH>
struct FloatFragments {
    uint4 raw[DEPTH][2][4];

    template <int slot, int half>
    DEVICE void refill(const Matrix& m, u32 first, u32 second, u32 chunk) {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++)
                raw[slot][r][i] = __ldg((const uint4*)(m.plane[0] + 64ull * ((r == 0 ? first : second) + chunk)) + i);
    }
    template <int slot>
    DEVICE void fetch(const Matrix& m, u32 first, u32 second, u32 chunk) {
        refill<slot, 0>(m, first, second, chunk);
        refill<slot, 1>(m, first, second, chunk);
    }
    static DEVICE u32 pair(u32 a, u32 b, u32 select, float factor) {
        const u32 both = permute(a, b, select);
        if (!BRAIN) return both;
        return word_of(__floats2half2_rn(float_bits(both << 16) * factor, float_bits(both & 0xffff0000) * factor));
    }
    template <int slot, int half>
    DEVICE void convert(u32, u32, u32, float factor, u32 (&fragment)[4][4]) const {
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int s = 0; s < 4; s++) {
                const uint4 v = raw[slot][r][2 * half + s / 2];
                const u32 a = s % 2 == 0 ? v.x : v.z, b = s % 2 == 0 ? v.y : v.w;
                fragment[s][r] = pair(a, b, 0x5410, factor);
                fragment[s][2 + r] = pair(a, b, 0x7632, factor);
                keep(fragment[s][r], fragment[s][2 + r]);
            }
    }
};
template <int DEPTH>
struct Fragments<F16, DEPTH> : FloatFragments<false, DEPTH> {};
template <int DEPTH>
struct Fragments<BF16, DEPTH> : FloatFragments<true, DEPTH> {};
