// Formats of weights: which planes a matrix of each has, and how 32 consecutive values of a row (a chunk) are read from
// them. The kernels know formats only through this file; repack.cu makes the planes, README.md draws them.
//
// A chunk's number `at` = row * (columns / 32) + column / 32 finds its records in every plane: a record is for 32 values,
// or for 64, 128 or 256, and a row is a whole number of them. Every plane starts at a multiple of 256 bytes.
//
// A format is a struct F with
//   Raw                                   the bytes of a chunk, in registers
//   Raw  F::load(matrix, u32 at)          only loads: call it for several chunks before the first decode; the matrix is a
//                                         Matrix, or a SharedMatrix: parts of planes copied to shared memory
//   Chunk F::decode(const Raw&, u32 at)   no memory (the iq types look their grids up)
//   F::Planes                             bytes of a record of each plane, and the values that it is for
//   F::ZERO, SIGNED, SCALES, MIN, NIBBLES, PAIRS  what a caller may leave out, see below
//
//   value[i] = scale[h] * (q[i] - ZERO) - min[h]        h = i / 16
//
// codes of four consecutive values are the bytes of a word, int8: q[i / 4], the first value in the lowest byte.
#pragma once
#include "common.cuh"

// A matrix of one format, or a stack of `rows`-row matrices of experts. Mirrored by cuda/formats.rs.
struct Matrix {
    const u8* plane[5];  // unused ones are null
    int rows;            // of one expert
    int columns;
};

// Addresses at which the planes would start if all of them were in shared memory (modulo 2^32).
struct SharedMatrix {
    Shared plane[5];
};

// Plane p has records of bytes(p) bytes for values(p) values.
template <int b0, int v0, int b1 = 0, int v1 = 1, int b2 = 0, int v2 = 1, int b3 = 0, int v3 = 1, int b4 = 0, int v4 = 1>
struct PlaneList {
    static constexpr int COUNT = 1 + (b1 > 0) + (b2 > 0) + (b3 > 0) + (b4 > 0);
    static DEVICE constexpr int bytes(int p) { return p == 0 ? b0 : p == 1 ? b1 : p == 2 ? b2 : p == 3 ? b3 : b4; }
    static DEVICE constexpr int values(int p) { return p == 0 ? v0 : p == 1 ? v1 : p == 2 ? v2 : p == 3 ? v3 : v4; }
};

struct Chunk {
    u32 q[8];
    float scale[2];  // the second is set if SCALES == 2
    float min[2];    // set if MIN; the second if SCALES == 2 as well
};

// Traits with their usual values.
struct Plain {
    static constexpr bool FLOAT = false;     // f16, bf16, f32: no decode, pieces of 16 bytes (decode/float.cuh)
    static constexpr int PIECE = 32;         // values that `at` counts
    static constexpr int ZERO = 0;           // subtracted from every code
    static constexpr bool SIGNED = false;    // codes may be negative
    static constexpr int SCALES = 1;         // 2: one for each 16 values
    static constexpr bool MIN = false;       // has minima
    static constexpr bool PAIRS = false;     // F::pairs(raw, q) gives the codes in the order of table_pairs, for less work
    static constexpr bool NIBBLES = false;   // q[i] and q[i + 4] are the low and high nibbles of word i of Raw::c as they are
};

#include "decode/parts.cuh"
#include "decode/small.cuh"
#include "decode/k.cuh"
#include "decode/iq.cuh"
#include "decode/float.cuh"
