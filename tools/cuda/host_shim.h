// Gives a C++ compiler the names that crates/compute/kernels/{decode,repack}.cuh expect of CUDA, so that decoding can be
// tested on a machine without a card (tools/cuda/check_formats.py). Include it before them.
#pragma once
#include <cstdint>
#include <cstring>
#define HOST_SHIM
typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE inline
#define TABLE const

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

template <class T> T read(const void* p) { T v; memcpy(&v, p, sizeof v); return v; }
inline uint4 load16(const void* p) { return read<uint4>(p); }
inline uint2 load8(const void* p) { return read<uint2>(p); }
inline u32 load4(const void* p) { return read<u32>(p); }
inline u32 load2(const void* p) { return read<u16>(p); }
inline u32 load1(const void* p) { return read<u8>(p); }
struct Shared { u32 address; };
inline u32 lookup2(const u16* table, u32 i) { return table[i]; }
inline u32 lookup4(const u32* table, u32 i) { return table[i]; }

inline float float_bits(u32 bits) { return read<float>(&bits); }
inline u32 count_bits(u32 v) { return __builtin_popcount(v); }
inline float half_bits(u32 bits) { u16 b = (u16)bits; return (float)read<_Float16>(&b); }
inline u32 permute(u32 a, u32 b, u32 select) {
    const u64 bytes = a | (u64)b << 32;
    u32 out = 0;
    for (int i = 0; i < 4; i++) out |= (u32)(bytes >> (8 * ((select >> (4 * i)) & 7)) & 0xff) << (8 * i);
    return out;
}
