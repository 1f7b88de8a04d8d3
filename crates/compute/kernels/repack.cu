// Kernels that bring raw rows, as they stand in a file, into planes (repack.cuh), at load. One module for all formats.
//
//   void repack_NAME(RepackArgs a)      NAME = q4_0 ... fp4: a block format; grid ceil(chunks / 256), block 256
//       Matrices larger than the staging buffer arrive in pieces of whole blocks: chunks `first` to `first + chunks` of
//       the matrix (multiples of the format's block / 32). `raw` is where the matrix's first byte would be if all of it
//       were there: the piece's address less the piece's offset in the matrix. It is even (any address for mxfp4).
//
//   void repack_16(RepackArgs a), repack_32(RepackArgs a)       f16 and bf16; f32: the same grid
//       Rows of any length, padded in plane 0 with zeros to a multiple of 32 values. `raw` as above; chunks count rows of
//       ceil(columns / 32).
#include "repack.cuh"

// 72 bytes.
struct RepackArgs {
    const u8* raw;
    u64 first;
    u64 chunks;
    Matrix matrix;
};

#define REPACK(name, F)                                                    \
    extern "C" __global__ void repack_##name(const RepackArgs a) {         \
        const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;          \
        if (i < a.chunks) Repack<F>::chunk(a.raw, a.matrix, a.first + i);  \
    }

REPACK(q4_0, Q4_0)
REPACK(q4_1, Q4_1)
REPACK(q5_0, Q5_0)
REPACK(q5_1, Q5_1)
REPACK(q8_0, Q8_0)
REPACK(iq4_nl, IQ4_NL)
REPACK(nf4, NF4)
REPACK(fp4, FP4)
REPACK(mxfp4, MXFP4)
REPACK(nvfp4, NVFP4)
REPACK(q1_0, Q1_0)
REPACK(q2_0, Q2_0)
REPACK(q2_k, Q2_K)
REPACK(q3_k, Q3_K)
REPACK(q4_k, Q4_K)
REPACK(q5_k, Q5_K)
REPACK(q6_k, Q6_K)
REPACK(iq4_xs, IQ4_XS)
REPACK(tq1_0, TQ1_0)
REPACK(tq2_0, TQ2_0)
REPACK(iq1_s, IQ1_S)
REPACK(iq1_m, IQ1_M)
REPACK(iq2_xxs, IQ2_XXS)
REPACK(iq2_xs, IQ2_XS)
REPACK(iq2_s, IQ2_S)
REPACK(iq3_xxs, IQ3_XXS)
REPACK(iq3_s, IQ3_S)

// One value a step, so that the accesses of a warp are next to each other.
template <class T>
DEVICE void pad_rows(const RepackArgs& a) {
    const u64 start = (a.first + (u64)blockIdx.x * blockDim.x) * 32, end = (a.first + a.chunks) * 32;
    const u64 row_values = (u64)((a.matrix.columns + 31) / 32) * 32;
    for (u64 i = start + threadIdx.x; i < start + blockDim.x * 32 && i < end; i += blockDim.x) {
        const u64 row = i / row_values, column = i - row * row_values;
        ((T*)a.matrix.plane[0])[i] = column < a.matrix.columns ? ((const T*)a.raw)[row * a.matrix.columns + column] : T(0);
    }
}
extern "C" __global__ void repack_16(const RepackArgs a) { pad_rows<u16>(a); }
extern "C" __global__ void repack_32(const RepackArgs a) { pad_rows<u32>(a); }
