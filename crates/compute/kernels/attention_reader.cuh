// How attention_decode.cu reads the cache: from global memory straight into operands of mma, 16 keys a warp at a time.
// The layout of the cache is drawn in attention.cuh, why a thread may take adjacent numbers is said in attention_decode.cu.
#pragma once
#include "attention.cuh"

// How a cache's numbers become operands. DIM / 32 blocks of K, VBLOCKS blocks of V; a thread holds 8 numbers of each
// K block, UNIT of each V block.
template <class T, int DIM> struct Reader;

template <int DIM> struct Reader<__half, DIM> {
    static constexpr int UNIT = 8, VBLOCKS = DIM / 64;
    uint4 k[2][DIM / 32], v[VBLOCKS][4];

    __device__ __forceinline__ void load_keys(const KvCache &c, i64 base, int tile, int last, int g, int t) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int key = min(tile + 8 * j + g, last);
            const __half *from = (const __half *)c.k + (base + key) * c.row + 8 * t;
#pragma unroll
            for (int b = 0; b < DIM / 32; b++)
                k[j][b] = 32 * b + 8 * t < c.row ? *(const uint4 *)(from + 32 * b) : make_uint4(0, 0, 0, 0);
        }
    }
    __device__ __forceinline__ void load_values(const KvCache &c, i64 base, int tile, int last, int g, int t) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = min(tile + 8 * (i >> 1) + 2 * t + (i & 1), last);
            const __half *from = (const __half *)c.v + (base + key) * c.row + 8 * g;
#pragma unroll
            for (int b = 0; b < VBLOCKS; b++)
                v[b][i] = 64 * b + 8 * g < c.row ? *(const uint4 *)(from + 64 * b) : make_uint4(0, 0, 0, 0);
        }
    }
    // Eight numbers of key (8 j + g) of the tile, in pairs.
    __device__ __forceinline__ void key(int j, int b, int, u32 (&x)[4]) const {
        x[0] = k[j][b].x, x[1] = k[j][b].y, x[2] = k[j][b].z, x[3] = k[j][b].w;
    }
    // Pair `pair` of UNIT / 2 of the thread's i-th key.
    __device__ __forceinline__ void values(int b, u32 (&x)[4][UNIT / 2]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) x[i][0] = v[b][i].x, x[i][1] = v[b][i].y, x[i][2] = v[b][i].z, x[i][3] = v[b][i].w;
    }
};

template <int DIM> struct Reader<signed char, DIM> {
    static constexpr int UNIT = DIM == 64 ? 8 : 16, VBLOCKS = DIM / (8 * UNIT), SCALES = (DIM / 32 + 3) / 4;
    uint2 k[2][DIM / 32];
    __half k_scale[2][SCALES];  // block 4 i + t of key g
    u32 v[VBLOCKS][4][UNIT / 4];
    __half v_scale[VBLOCKS][4];

    __device__ __forceinline__ void load_keys(const KvCache &c, i64 base, int tile, int last, int g, int t) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int key = min(tile + 8 * j + g, last);
            i64 at = (base + key) * c.row;
            const signed char *from = (const signed char *)c.k + at + 8 * t;
#pragma unroll
            for (int b = 0; b < DIM / 32; b++) k[j][b] = 32 * b < c.row ? *(const uint2 *)(from + 32 * b) : make_uint2(0, 0);
#pragma unroll
            for (int i = 0; i < SCALES; i++)
                k_scale[j][i] = 32 * (4 * i + t) < c.row ? c.k_scales[(at >> 5) + 4 * i + t] : __float2half(0.0f);
        }
    }
    __device__ __forceinline__ void load_values(const KvCache &c, i64 base, int tile, int last, int g, int t) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = min(tile + 8 * (i >> 1) + 2 * t + (i & 1), last);
            i64 at = (base + key) * c.row;
            const signed char *from = (const signed char *)c.v + at + UNIT * g;
#pragma unroll
            for (int b = 0; b < VBLOCKS; b++) {
                int dim = 8 * UNIT * b + UNIT * g;
                bool inside = dim < c.row;
                if constexpr (UNIT == 16) {
                    uint4 x = inside ? *(const uint4 *)(from + 128 * b) : make_uint4(0, 0, 0, 0);
                    v[b][i][0] = x.x, v[b][i][1] = x.y, v[b][i][2] = x.z, v[b][i][3] = x.w;
                } else {
                    uint2 x = inside ? *(const uint2 *)(from + 64 * b) : make_uint2(0, 0);
                    v[b][i][0] = x.x, v[b][i][1] = x.y;
                }
                v_scale[b][i] = inside ? c.v_scales[(at + dim) >> 5] : __float2half(0.0f);
            }
        }
    }
    __device__ __forceinline__ void key(int j, int b, int lane, u32 (&x)[4]) const {
        u32 d = __shfl_sync(FULL, (u32)__half_as_ushort(k_scale[j][b / 4]), (lane & ~3) + b % 4);
        __half2 scale = __half2half2(__ushort_as_half((u16)d)), p, q;
        codes_to_halves(k[j][b].x, p, q);
        x[0] = bits(__hmul2(p, scale)), x[1] = bits(__hmul2(q, scale));
        codes_to_halves(k[j][b].y, p, q);
        x[2] = bits(__hmul2(p, scale)), x[3] = bits(__hmul2(q, scale));
    }
    __device__ __forceinline__ void values(int b, u32 (&x)[4][UNIT / 2]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            __half2 scale = __half2half2(v_scale[b][i]), p, q;
#pragma unroll
            for (int w = 0; w < UNIT / 4; w++) {
                codes_to_halves(v[b][i][w], p, q);
                x[i][2 * w] = bits(__hmul2(p, scale)), x[i][2 * w + 1] = bits(__hmul2(q, scale));
            }
        }
    }
};
