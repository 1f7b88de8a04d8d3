// What the attention kernels share: arguments, the layout of the cache, instructions that need assembly.
//
// Cache of one layer, K and V alike ("row" is head_dim padded to 16 bytes, for q8_0 to 32 numbers; the padding
// holds zeros):
//
//   f32, f16   numbers  [kv_heads][context][row]
//   q8_0       codes    [kv_heads][context][row]        int8
//              scales   [kv_heads][context][row / 32]   f16, value = scale * code
//
// Codes and scales are apart so that codes can be read 16 bytes at a time.
//
// Queries are taken together by the key-value head that they share: row r of a key-value head is token r / group,
// head kv_head * group + r % group, where group = heads / kv_heads.
#pragma once
#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

// Where q, k and v of the batch are, f32. Strides in floats. Head h of token i begins at
//   q + i * q_token + (h / group) * q_group + (h % group) * dim,   k + i * kv_token + kv_head * kv_group, v likewise,
// which covers three matrices, one [n][q + 2k], and one grouped by key-value head.
struct QkvRows {
    float *q, *k, *v;
    int q_token, q_group, kv_token, kv_group;
};

// One layer's cache, as drawn above; the scales are null unless it is q8_0.
struct KvCache {
    void *k, *v;
    __half *k_scales, *v_scales;
    int context, row;
};

// What happens to q and k before attention: norm of each head (0 none, 1 RMS, 2 layer norm without bias), then
// rotation of the first 2 * pairs numbers by tables [n][pairs]; with NORM_LAST added to norm, first the rotation. The norm's weight of head h is at h * stride
// (stride 0: one for all heads).
constexpr int NORM_LAST = 4;
struct Rotation {
    const float *cos, *sin, *q_norm, *k_norm;
    int pairs, interleaved, norm, q_norm_stride, k_norm_stride;
    float eps;
};

// Arguments of all attention kernels (160 bytes). softcap 0: none; window 0: none.
struct AttentionArgs {
    QkvRows rows;
    KvCache cache;
    float *out;           // [n][heads * dim]
    const int *position;  // of the batch's first token, in device memory
    float *partial;       // for splits > 1: see attention_split.cuh
    u32 *arrived;         // [kv_heads * row blocks], zero before the first launch; each launch leaves it zero
    const float *sinks;   // null, or [heads]: scores without a value, which join the sum that results are divided by
    int n, heads, kv_heads, dim;
    float scale, softcap;
    int window, splits;
    int stored;           // decode: 1 if rope_store has run (q rotated, k and v in the cache)
    int early;            // decode: 1 if position and earlier tokens' cache may be read before griddepcontrol.wait
};

struct RotatedAttentionArgs {
    AttentionArgs a;
    Rotation r;
};

// Programmatic dependent launch: no effect where the launch does not ask for it.
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// 16 bytes to shared memory, asynchronously where the card can; zeros if not `inside`.
__device__ __forceinline__ void copy_16(void *to, const void *from, bool inside) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(inside ? 16 : 0)
                 : "memory");
#else
    *(uint4 *)to = inside ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}
__device__ __forceinline__ void copies_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LEFT> __device__ __forceinline__ void copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_4(u32 (&d)[4], u32 at) {
    asm("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_4_trans(u32 (&d)[4], u32 at) {
    asm("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(at)
                 : "memory");
}

// c += a b, 16 x 16 by 16 x 8, f16 with f32 sums. g = lane / 4, t = lane % 4:
//   a0 (g, 2t..)  a1 (g + 8, 2t..)  a2 (g, 2t + 8..)  a3 (g + 8, 2t + 8..)   b0 (2t.., g)  b1 (2t + 8.., g)
//   c0, c1 (g, 2t..)  c2, c3 (g + 8, 2t..)
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a2), "r"(a3), "r"(b1));
#endif
}

__device__ __forceinline__ u32 bits(__half2 x) { return *(u32 *)&x; }
__device__ __forceinline__ __half2 halves(u32 x) { return *(__half2 *)&x; }
__device__ __forceinline__ u32 pack(float x, float y) { return bits(__floats2half2_rn(x, y)); }

// Two numbers as the sum of two halves each: 22 bits of them.
__device__ __forceinline__ void pack_two(float x, float y, u32 &high, u32 &low) {
    __half2 h = __floats2half2_rn(x, y);
    float2 f = __half22float2(h);
    high = bits(h);
    low = pack(x - f.x, y - f.y);
}

// 2^x, for the cards' own units: 0 far below.
__device__ __forceinline__ float power_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Four int8 codes as four f16, exactly: a byte behind 0x64 is 1024 + byte.
__device__ __forceinline__ void codes_to_halves(u32 codes, __half2 &a, __half2 &b) {
    codes ^= 0x80808080u;
    const __half2 offset = halves(0x64806480u);  // 1152
    a = __hsub2(halves(__byte_perm(codes, 0x64646464u, 0x4140)), offset);
    b = __hsub2(halves(__byte_perm(codes, 0x64646464u, 0x4342)), offset);
}

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// All lanes of a warp.
constexpr u32 FULL = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;

// A score after the soft cap, c tanh(s / c), for scores in natural units.
__device__ __forceinline__ float capped(float s, float cap) {
    return cap * (1.0f - __fdividef(2.0f, 1.0f + __expf(__fdividef(2.0f * s, cap))));
}
