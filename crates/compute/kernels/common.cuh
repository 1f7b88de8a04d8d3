// Small helpers that every kernel may use: loads of packed bytes, byte permutes, integer dot products, sums over a warp,
// and the instructions of programmatic dependent launch. Device code only; nothing here knows a format.
//
// Compiled by NVRTC for compute_75 and later. tools/cuda/host_shim.h gives the same names to a C++ compiler, so that the
// decoders can be tested on a machine without a card.
#pragma once

#ifndef HOST_SHIM
typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE __device__ __forceinline__
#define TABLE __device__ const

// ---- loads of data that no kernel writes while this one runs; they pass the first cache, for each byte is used once ----

DEVICE uint4 load16(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
DEVICE uint2 load8(const void* p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
DEVICE u32 load4(const void* p) {
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
DEVICE u32 load2(const void* p) {
    u16 v;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}
DEVICE u32 load1(const void* p) {
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.u8 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
// The same from shared memory, at a 32-bit address; sums of addresses and offsets wrap around.
struct Shared {
    u32 address;
};
DEVICE Shared operator+(Shared s, u64 offset) { return {s.address + (u32)offset}; }
DEVICE uint4 load16(Shared s) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(s.address));
    return v;
}
DEVICE uint2 load8(Shared s) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(s.address));
    return v;
}
DEVICE u32 load4(Shared s) {
    u32 v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(s.address));
    return v;
}
DEVICE u32 load2(Shared s) {
    u16 v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(s.address));
    return v;
}
DEVICE u32 load1(Shared s) {
    u32 v;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(s.address));
    return v;
}
// An entry of a small constant table: kept in the first cache.
DEVICE u32 lookup2(const u16* table, u32 i) { return __ldg(table + i); }
DEVICE u32 lookup4(const u32* table, u32 i) { return __ldg(table + i); }

// ---- arithmetic ----

// The f16 with these bits (the low 16 of the word).
DEVICE float half_bits(u32 bits) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((u16)bits));
    return f;
}
DEVICE float float_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 count_bits(u32 v) { return __popc(v); }
// Byte i of the result is byte (nibble i of `select`, below 8) of b:a.
DEVICE u32 permute(u32 a, u32 b, u32 select) { return __byte_perm(a, b, select); }
// c + the sum of the four products of signed bytes.
DEVICE int dot4(int a, int b, int c) { return __dp4a(a, b, c); }
// The same with unsigned bytes in a.
DEVICE int dot4_unsigned(u32 a, int b, int c) {
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}
#endif  // HOST_SHIM

// Byte i of `word`, unsigned.
DEVICE u32 byte_of(u32 word, u32 i) { return (word >> (8 * i)) & 0xff; }
// Byte i of `word`, signed.
DEVICE int signed_byte_of(u32 word, u32 i) { return (int)(i8)(word >> (8 * i)); }

#ifndef HOST_SHIM
// ---- sums and maxima over the 32 lanes of a warp; every lane gets the result ----

DEVICE float warp_sum(float v) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
DEVICE float warp_max(float v) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

// ---- programmatic dependent launch (compute capability 9.0; elsewhere nothing, as kernels then start in order) ----

// Waits until the kernels that this one depends on have ended and their writes can be seen.
DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Allows the next kernel's blocks to start where multiprocessors have room.
DEVICE void launch_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif  // HOST_SHIM
