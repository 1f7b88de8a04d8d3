// Sums of products of columns with tensor cores: how the inputs are packed.
//
// A number x is split into two of bf16, high = x rounded and low = what is left, rounded: 16 bits of precision. The product of two
// is then high high + high low + low high, exact but for about 2^-17 of it, with f32 sums.
//
//   extern "C" void gram_pack(PackArgs)    grid (strips, padded_tokens / 32), block 256
//
// Packed: strips of 64 columns, [strip][padded_tokens][64] bf16, first all high parts, then, `plane` bytes later, all low parts. A
// token's 128 bytes are eight pieces of 16 bytes; piece c of token t is at place c ^ (t % 8), so that eight tokens' pieces of the
// same columns are in different banks of shared memory, as they are copied there unchanged. Tokens behind the last and columns
// behind the last are zeros.
#pragma once
#include <cuda_bf16.h>
#include "products_f32.cuh"

// Mirrored by cuda/sums_args.rs, as the others here; passed by value.
struct PackArgs {
    const float* x;  // [tokens][columns]
    u8* packed;
    u64 plane;       // bytes of all high parts
    u32 tokens, columns, padded_tokens;
};

struct GramArgs {
    const u8 *a, *b;  // packed
    float* sum;       // [rows][columns]
    u64 a_plane, b_plane;
    u32 rows, columns;
    u32 padded_tokens;
    u32 triangle;     // 1: only sum[i][j] with j <= i
};

// Tokens whose products are summed before the sum is added to `sum`.
constexpr u32 PARTIAL = 1024;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
DEVICE void split(float x, u16& high, u16& low) {
    const __nv_bfloat16 h = __float2bfloat16_rn(x);
    high = __bfloat16_as_ushort(h);
    low = __bfloat16_as_ushort(__float2bfloat16_rn(x - __bfloat162float(h)));
}

extern "C" __global__ void __launch_bounds__(256) gram_pack(const __grid_constant__ PackArgs a) {
    wait_for_previous();
    const u32 piece = threadIdx.x % 8, token = blockIdx.y * 32 + threadIdx.x / 8, first = blockIdx.x * 64 + 8 * piece;
    const float* row = a.x + (u64)token * a.columns;
    const bool inside = token < a.tokens, aligned = a.columns % 4 == 0 && (u64)a.x % 16 == 0;
    float x[8];
    *(float4*)&x[0] = four_of(row, inside, aligned, first, a.columns);
    *(float4*)&x[4] = four_of(row, inside, aligned, first + 4, a.columns);
    union {
        u16 half[8];
        uint4 all;
    } high, low;
#pragma unroll
    for (u32 i = 0; i < 8; i++) split(x[i], high.half[i], low.half[i]);
    u8* to = a.packed + ((u64)blockIdx.x * a.padded_tokens + token) * 128 + 16 * (piece ^ token % 8);
    *(uint4*)to = high.all;
    *(uint4*)(to + a.plane) = low.all;
}
#endif

//   extern "C" void sums_subtract(SubtractArgs)    grid ceil(length / 1024), block 256
//
// out = a - b
struct SubtractArgs {
    const float *a, *b;
    float* out;
    u64 length;
};

extern "C" __global__ void __launch_bounds__(256) sums_subtract(const __grid_constant__ SubtractArgs a) {
    wait_for_previous();
    for (u64 i = blockIdx.x * 256ull + threadIdx.x; i < a.length; i += 256ull * gridDim.x) a.out[i] = a.a[i] - a.b[i];
}

//   extern "C" void gram_f32(ProductsArgs)    grid row_tiles * column_tiles (of 128 x 128), block 256
//
// For compute capability 7.5, which has no bf16.
extern "C" __global__ void __launch_bounds__(256, 2) gram_f32(const __grid_constant__ ProductsArgs a) {
    __shared__ ProductsShared shared;
    wait_for_previous();
    products_f32(a, shared);
}
