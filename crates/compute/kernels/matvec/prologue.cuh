// The prologue of a matvec: reads the input vectors, norms them if asked, quantizes them to int8, into shared memory.
//
// Input of one vector in shared memory, pieces of F::PIECE values:
//
//   block formats   16 bytes a piece: codes of its values 0..15
//                   16 bytes a piece: codes of its values 16..31
//                   (formats with PAIRS: codes in the order of table_pairs, the first four words, the second four)
//                   f32 a piece: scale s = max |x| / 127; codes are x / s, rounded half to even
//                   where the format has minima or a zero, s * sum of codes, times ZERO if that is not 0: with SCALES == 1
//                   beside the scale, with 2 in two more arrays of f32 a piece, for values 0..15 and 16..31
//   f16, bf16       16 bytes a piece: values 0..3;  16 bytes a piece: values 4..7
//   f32             16 bytes a piece
//
// Neighbouring lanes read neighbouring pieces: without bank conflicts in all of these.
#pragma once
#include "args.cuh"

#ifndef BLOCK
#define BLOCK 1024
#endif
constexpr int THREADS = BLOCK, WARPS = THREADS / 32;

template <class F>
struct Input {
    static constexpr int SUMS = F::FLOAT || !(F::MIN || F::ZERO) ? 0 : F::SCALES;
    static constexpr int PIECE_BYTES = F::FLOAT ? 4 * F::PIECE : 36 + 4 * SUMS;
    static DEVICE u32 vector_bytes(u32 pieces) { return (pieces * PIECE_BYTES + 15) & ~15u; }
};

// Sum over the block; `turn` counts calls, every thread calls it with the same. One barrier.
DEVICE float block_sum(float v, float (*partial)[WARPS], u32& turn) {
    v = warp_sum(v);
    float* p = partial[turn++ & 1];
    if (threadIdx.x % 32 == 0) p[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < WARPS ? p[threadIdx.x % 32] : 0.0f);
}

// Values i .. i + 3 of a vector, in the order of the weights' columns; zeros past its end. PLAIN_READ: no permutation, and
// everything is in whole float4. Vectors come from the second cache, as another kernel wrote them just now.
template <bool PLAIN_READ, bool CONSTANT>
DEVICE float4 read_four(const float* x, const MatvecArgs& a, int columns, int i) {
    if constexpr (PLAIN_READ) {
        if (i >= columns) return make_float4(0, 0, 0, 0);
        return CONSTANT ? __ldg((const float4*)(x + i)) : __ldcg((const float4*)(x + i));
    } else {
        float v[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            v[k] = 0;
            if (i + k < columns) {
                const int at = a.permutation ? __ldg(a.permutation + i + k) : i + k;
                v[k] = CONSTANT ? __ldg(x + at) : __ldcg(x + at);
            }
        }
        return make_float4(v[0], v[1], v[2], v[3]);
    }
}

// Stores four consecutive values from i on (i % 4 == 0), of a vector of `pieces` pieces at `to`; eight neighbouring lanes
// have the 32 values of a chunk, all lanes of the warp call.
template <class F>
DEVICE void put_input(char* to, u32 pieces, int i, float4 v) {
    if constexpr (F::FLOAT) {
        const u32 piece = i / F::PIECE, part = i % F::PIECE / 4;
        if (piece < pieces) ((float4*)to)[part * pieces + piece] = v;
    } else {
        // Magnitudes as integers: NaN is the largest and stays.
        u32 largest = max(max(__float_as_uint(v.x) & 0x7fffffff, __float_as_uint(v.y) & 0x7fffffff),
                          max(__float_as_uint(v.z) & 0x7fffffff, __float_as_uint(v.w) & 0x7fffffff));
#pragma unroll
        for (int d = 1; d < 8; d *= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, d));
        const float top = __uint_as_float(largest), scale = top * (1.0f / 127.0f), inverse = top > 1e-36f ? __fdividef(127.0f, top) : 0.0f;
        const u32 c0 = __float2int_rn(v.x * inverse) & 255, c1 = __float2int_rn(v.y * inverse) & 255,
                  c2 = __float2int_rn(v.z * inverse) & 255, c3 = __float2int_rn(v.w * inverse) & 255;
        u32 codes = c0 | c1 << 8 | c2 << 16 | c3 << 24;
        const u32 chunk = i / 32, part = i % 32 / 4;
        int sum = 0;
        if constexpr (Input<F>::SUMS > 0) {
            sum = dot4((int)codes, 0x01010101, 0);
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if constexpr (Input<F>::SUMS == 1) sum += __shfl_xor_sync(0xffffffffu, sum, 4);
        }
        u32 word = part;
        if constexpr (F::PAIRS) {
            // The lane four on has the values sixteen on: both lanes write one of the two words of these eight values.
            const u32 other = __shfl_xor_sync(0xffffffffu, codes, 4);
            codes = part < 4 ? permute(codes, other, 0x5140) : permute(other, codes, 0x7362);
            word = 2 * (part % 4) + part / 4;
        }
        if (chunk >= pieces) return;
        ((u32*)to)[word / 4 * (4 * pieces) + chunk * 4 + word % 4] = codes;
        float* scales = (float*)(to + 32 * pieces);
        const float s = (float)sum * (F::ZERO ? (float)F::ZERO : 1.0f) * scale;
        if constexpr (Input<F>::SUMS == 1) {
            if (part == 0) ((float2*)scales)[chunk] = make_float2(scale, s);
        } else {
            if (part == 0) scales[chunk] = scale;
            if (Input<F>::SUMS == 2 && part % 4 == 0) scales[(1 + part / 4) * pieces + chunk] = s;
        }
    }
}

DEVICE bool reads_plainly(const MatvecArgs& a) { return !a.permutation && (a.m[0].columns | a.x_stride) % 4 == 0; }

// The first weights of a norm are copied to shared memory before the previous kernel has ended: by one bulk copy, which no
// register waits for (compute capability 9.0 on; cp.async would wait for the loads of the matrix too).
struct Early {
#if __CUDA_ARCH__ >= 900
    static constexpr bool STAGED = true;
    float4 weights[THREADS];
    u64 arrived;

    DEVICE u32 barrier() const { return (u32)__cvta_generic_to_shared(&arrived); }
    DEVICE void stage(const MatvecArgs& a) {
        if (threadIdx.x != 0 || a.prologue == PLAIN || !reads_plainly(a)) return;
        const u32 bytes = 4 * min(a.m[0].columns, 4 * THREADS);
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier()) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier()), "r"(bytes) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         (u32)__cvta_generic_to_shared(weights)),
                     "l"(a.norm_weight), "r"(bytes), "r"(barrier())
                     : "memory");
    }
    // After a barrier of the block, for the barrier in shared memory to be there.
    DEVICE float4 mine() const {
        asm volatile(
            "{\n.reg .pred done;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n"
            "@!done bra again;\n}" ::"r"(barrier()) : "memory");
        return weights[threadIdx.x];
    }
#else
    static constexpr bool STAGED = false;
    DEVICE void stage(const MatvecArgs&) {}
    DEVICE float4 mine() const { return make_float4(0, 0, 0, 0); }
#endif
};

// One vector, from x to `to`, in batches of float4 of every thread, all read before the first use.
template <class F, bool PLAIN_READ>
DEVICE void prepare_vector(const MatvecArgs& a, const float* x, char* to, u32 pieces, float (*partial)[WARPS], u32& turn,
                           const Early& early) {
    const int columns = a.m[0].columns, padded = pieces * F::PIECE;
    constexpr int BATCH = PLAIN_READ ? 2 : 1, STEP = 4 * THREADS;
    float4 v[BATCH];
    const auto read = [&](int start) {
#pragma unroll
        for (int b = 0; b < BATCH; b++) v[b] = read_four<PLAIN_READ, false>(x, a, columns, start + b * STEP);
    };
    const int first = 4 * threadIdx.x;
    const bool once = padded <= BATCH * STEP, norm = a.prologue != PLAIN;  // once: nothing need be read again
    read(first);
    float mean = 0, factor = a.x_scale;
    const float per_column = __fdividef(1.0f, (float)columns);
    // First the mean, then the mean square of the distances from it (RMS norm: from 0).
#pragma unroll 1
    for (int pass = a.prologue == LAYER_NORM ? 0 : 1; pass < 2 && norm; pass++) {
        float sum = 0;
#pragma unroll 1
        for (int i = first; i < columns; i += BATCH * STEP) {
            if (!once) read(i);
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                const float d[4] = {v[b].x - mean, v[b].y - mean, v[b].z - mean, v[b].w - mean};
#pragma unroll
                for (int k = 0; k < 4; k++)
                    if (i + b * STEP + k < columns) sum += pass == 0 ? d[k] : d[k] * d[k];
            }
        }
        sum = block_sum(sum, partial, turn) * per_column;
        if (pass == 0) mean = sum;
        else factor = a.x_scale * rsqrtf(sum + a.eps);
    }
    // Whole warps take part while any of their lanes has values.
#pragma unroll 1
    for (int i = first; i - 4 * (int)(threadIdx.x % 32) < padded; i += BATCH * STEP) {
        if (norm ? !once : i != first) read(i);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int at = i + b * STEP;
            if (at - 4 * (int)(threadIdx.x % 32) >= padded) break;
            float4 y = make_float4((v[b].x - mean) * factor, (v[b].y - mean) * factor, (v[b].z - mean) * factor,
                                   (v[b].w - mean) * factor);
            if (norm) {
                const bool staged = Early::STAGED && PLAIN_READ && b == 0 && i == first;
                const float4 w = staged ? early.mine() : read_four<PLAIN_READ, true>(a.norm_weight, a, columns, at);
                y = make_float4(y.x * w.x, y.y * w.y, y.z * w.z, y.w * w.w);
            }
            if (norm && a.norm_bias) {
                const float4 c = read_four<PLAIN_READ, true>(a.norm_bias, a, columns, at);
                y = make_float4(y.x + c.x * a.x_scale, y.y + c.y * a.x_scale, y.z + c.z * a.x_scale, y.w + c.w * a.x_scale);
            }
            put_input<F>(to, pieces, at, y);
        }
    }
}

// All vectors of the launch, at `to`; ends with a barrier.
template <class F>
DEVICE void prepare_input(const MatvecArgs& a, char* to, int vectors, u32 pieces, const Early& early) {
    __shared__ float partial[2][WARPS];
    u32 turn = 0;
    const bool plain = reads_plainly(a);
#pragma unroll 1
    for (int t = 0; t < vectors; t++, to += Input<F>::vector_bytes(pieces)) {
        const float* x = a.x + (u64)t * a.x_stride;
        if (plain) prepare_vector<F, true>(a, x, to, pieces, partial, turn, early);
        else prepare_vector<F, false>(a, x, to, pieces, partial, turn, early);
    }
    __syncthreads();
}
