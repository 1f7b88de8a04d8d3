// A piece of a row times the same piece of N input vectors (prologue.cuh has their layout).
#pragma once
#include "prologue.cuh"

template <class F, int N>
DEVICE void add_piece(const typename F::Raw& raw, u32 p, const char* input, u32 pieces, float (&sum)[N]) {
    if constexpr (F::FLOAT) {
        constexpr int PARTS = F::PIECE / 4;
#pragma unroll
        for (int t = 0; t < N; t++) {
            const float4* x = (const float4*)(input + t * Input<F>::vector_bytes(pieces)) + p;
#pragma unroll
            for (int k = 0; k < PARTS; k++) {
                const float4 v = x[k * pieces];
                sum[t] = fmaf(F::value(raw, 4 * k), v.x, sum[t]);
                sum[t] = fmaf(F::value(raw, 4 * k + 1), v.y, sum[t]);
                sum[t] = fmaf(F::value(raw, 4 * k + 2), v.z, sum[t]);
                sum[t] = fmaf(F::value(raw, 4 * k + 3), v.w, sum[t]);
            }
        }
    } else {
        const Chunk c = F::decode(raw, p);  // rows begin at multiples of 256 values where that matters
#pragma unroll
        for (int t = 0; t < N; t++) {
            const char* x = input + t * Input<F>::vector_bytes(pieces);
            const int4 a = ((const int4*)x)[p], b = ((const int4*)x)[pieces + p];
            const float* scales = (const float*)(x + 32 * pieces) + p;
            int first, second;
            if constexpr (F::NIBBLES) {
                // High nibbles where they are: sixteen times the second half's sum.
                const u32 w[4] = {raw.c.x, raw.c.y, raw.c.z, raw.c.w};
                const int xa[4] = {a.x, a.y, a.z, a.w}, xb[4] = {b.x, b.y, b.z, b.w};
                first = second = 0;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    first = dot4((int)(w[i] & 0x0f0f0f0f), xa[i], first);
                    second = dot4_unsigned(w[i] & 0xf0f0f0f0, xb[i], second);
                }
                second >>= 4;
            } else if constexpr (F::PAIRS) {
                u32 q[8];
                F::pairs(raw, q);
                first = dot4((int)q[0], a.x, dot4((int)q[1], a.y, dot4((int)q[2], a.z, dot4((int)q[3], a.w, 0))));
                second = dot4((int)q[4], b.x, dot4((int)q[5], b.y, dot4((int)q[6], b.z, dot4((int)q[7], b.w, 0))));
            } else {
                first = dot4((int)c.q[0], a.x, dot4((int)c.q[1], a.y, dot4((int)c.q[2], a.z, dot4((int)c.q[3], a.w, 0))));
                second = dot4((int)c.q[4], b.x, dot4((int)c.q[5], b.y, dot4((int)c.q[6], b.z, dot4((int)c.q[7], b.w, 0))));
            }
            if constexpr (Input<F>::SUMS == 1) {
                const float2 s = ((const float2*)(x + 32 * pieces))[p];  // scale, sum
                const float dot = (float)(first + second);
                if constexpr (F::ZERO != 0) {
                    sum[t] = fmaf(c.scale[0], fmaf(s.x, dot, -s.y), sum[t]);
                } else {
                    sum[t] = fmaf(c.scale[0], s.x * dot, sum[t]);
                    sum[t] = fmaf(-c.min[0], s.y, sum[t]);
                }
                continue;
            }
            const float s = scales[0];
            if constexpr (F::SCALES == 1) {
                sum[t] = fmaf(c.scale[0], s * (float)(first + second), sum[t]);
            } else if constexpr (F::ZERO != 0) {
                sum[t] = fmaf(c.scale[0], fmaf(s, (float)first, -scales[pieces]), sum[t]);
                sum[t] = fmaf(c.scale[1], fmaf(s, (float)second, -scales[2 * pieces]), sum[t]);
            } else {
                sum[t] = fmaf(s, fmaf(c.scale[0], (float)first, c.scale[1] * (float)second), sum[t]);
                if constexpr (F::MIN) {
                    sum[t] = fmaf(-c.min[0], scales[pieces], sum[t]);
                    sum[t] = fmaf(-c.min[1], scales[2 * pieces], sum[t]);
                }
            }
        }
    }
}
