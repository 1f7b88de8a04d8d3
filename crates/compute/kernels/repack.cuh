// How one chunk of each format is taken from raw blocks, as they stand in a file, into planes. Nothing is requantized: the
// planes hold the file's bits in another order (tq1_0 alone is recoded, from five values a byte to two bits a value).
//
// `raw` are whole rows one after the other; block b of the matrix is at b * F's block bytes, as rows are whole blocks. So
// a chunk's number finds its block in the file just as it finds its records in the planes. What is for 64 to 256 values is
// written with the first chunk of those.
#pragma once
#include "decode.cuh"

// ---- reading raw bytes: words at even addresses, or at any ----

DEVICE u32 raw2(const u8* p) { return *(const u16*)p; }
DEVICE u32 raw4(const u8* p) { return raw2(p) | raw2(p + 2) << 16; }
DEVICE uint2 raw8(const u8* p) { return make_uint2(raw4(p), raw4(p + 4)); }
DEVICE uint4 raw16(const u8* p) { return make_uint4(raw4(p), raw4(p + 4), raw4(p + 8), raw4(p + 12)); }
DEVICE u32 bytes4(const u8* p) { return p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24; }

// ---- writing record `at` of plane p ----

DEVICE void put1(const Matrix& m, int p, u64 at, u32 v) { ((u8*)m.plane[p])[at] = (u8)v; }
DEVICE void put2(const Matrix& m, int p, u64 at, u32 v) { ((u16*)m.plane[p])[at] = (u16)v; }
DEVICE void put4(const Matrix& m, int p, u64 at, u32 v) { ((u32*)m.plane[p])[at] = v; }
DEVICE void put8(const Matrix& m, int p, u64 at, uint2 v) { ((uint2*)m.plane[p])[at] = v; }
DEVICE void put16(const Matrix& m, int p, u64 at, uint4 v) { ((uint4*)m.plane[p])[at] = v; }

// ---- from the file's orders of codes to those of decode/parts.cuh ----

// H1 from a bit for each value, the first value lowest.
DEVICE u32 h1_from_bits(u32 bits) {
    u32 out = 0;
    for (int v = 0; v < 32; v++) out |= ((bits >> v) & 1) << (v % 4 * 8 + v / 4);
    return out;
}
// H1 from bit j of 32 bytes.
DEVICE u32 h1_from_bytes(const u8* p, u32 j) {
    u32 out = 0;
    for (int i = 0; i < 8; i++) out |= ((raw4(p + 4 * i) >> j) & 0x01010101) << i;
    return out;
}
// C2 from bits 2 field, 2 field + 1 of 32 bytes.
DEVICE uint2 c2_from_bytes(const u8* p, u32 field) {
    u32 out[2] = {0, 0};
    for (int i = 0; i < 8; i++) out[i / 4] |= ((raw4(p + 4 * i) >> (2 * field)) & 0x03030303) << (i % 4 * 2);
    return make_uint2(out[0], out[1]);
}
// C4 from one nibble (0: low) of 32 bytes.
DEVICE uint4 c4_from_bytes(const u8* p, u32 nibble) {
    u32 out[4];
    for (int i = 0; i < 4; i++)
        out[i] = ((raw4(p + 4 * i) >> (4 * nibble)) & 0x0f0f0f0f) |
                 ((raw4(p + 16 + 4 * i) >> (4 * nibble)) & 0x0f0f0f0f) << 4;
    return make_uint4(out[0], out[1], out[2], out[3]);
}

// ---- one chunk of a format: `raw` is the first byte of the matrix ----

template <class F>
struct Repack;

// Blocks of 32: an f16 (or two), H1 where there is one, C4.
template <int scales, bool fifth>
struct RepackNibbles {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at * (16 + 2 * scales + 4 * fifth);
        put16(m, 0, at, raw16(b + 2 * scales + 4 * fifth));
        if (fifth) put4(m, 1, at, h1_from_bits(raw4(b + 2 * scales)));
        if (scales == 1) put2(m, 1 + fifth, at, raw2(b));
        else put4(m, 1 + fifth, at, raw4(b));
    }
};
template <> struct Repack<Q4_0> : RepackNibbles<1, false> {};
template <> struct Repack<Q4_1> : RepackNibbles<2, false> {};
template <> struct Repack<Q5_0> : RepackNibbles<1, true> {};
template <> struct Repack<Q5_1> : RepackNibbles<2, true> {};
template <> struct Repack<IQ4_NL> : RepackNibbles<1, false> {};
template <> struct Repack<NF4> : RepackNibbles<1, false> {};
template <> struct Repack<FP4> : RepackNibbles<1, false> {};

template <>
struct Repack<Q8_0> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at * 34;
        put16(m, 0, at, raw16(b + 2));
        put16(m, 1, at, raw16(b + 18));
        put2(m, 2, at, raw2(b));
    }
};

template <>
struct Repack<MXFP4> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at * 17;
        put16(m, 0, at, make_uint4(bytes4(b + 1), bytes4(b + 5), bytes4(b + 9), bytes4(b + 13)));
        put1(m, 1, at, b[0]);
    }
};

// In the file: four scales, four times 8 bytes, the low nibbles of 8 bytes being values 0 to 7 of 16.
template <>
struct Repack<NVFP4> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8 *b = raw + at / 2 * 36, *qs = b + 4 + at % 2 * 16;
        u32 out[4];
        for (int i = 0; i < 4; i++)
            out[i] = ((raw4(qs + i % 2 * 4) >> (i / 2 * 4)) & 0x0f0f0f0f) |
                     ((raw4(qs + 8 + i % 2 * 4) >> (i / 2 * 4)) & 0x0f0f0f0f) << 4;
        put16(m, 0, at, make_uint4(out[0], out[1], out[2], out[3]));
        put2(m, 1, at, raw2(b + at % 2 * 2));
    }
};

template <>
struct Repack<Q1_0> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 4 * 18;
        put4(m, 0, at, h1_from_bits(raw4(b + 2 + at % 4 * 4)));
        if (at % 4 == 0) put2(m, 1, at / 4, raw2(b));
    }
};

template <>
struct Repack<Q2_0> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 2 * 18;
        u32 out[2] = {0, 0};
        for (int v = 0; v < 32; v++)
            out[v / 16] |= ((b[2 + at % 2 * 8 + v / 4] >> (v % 4 * 2)) & 3u) << (v % 4 * 8 + v % 16 / 4 * 2);
        put8(m, 0, at, make_uint2(out[0], out[1]));
        if (at % 2 == 0) put2(m, 1, at / 2, raw2(b));
    }
};

template <>
struct Repack<Q2_K> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 84;
        const u32 j = at % 8;
        put8(m, 0, at, c2_from_bytes(b + 16 + j / 4 * 32, j % 4));
        put2(m, 1, at, raw2(b + 2 * j));
        if (j == 0) put4(m, 2, at / 8, raw4(b + 80));
    }
};

// In the file, of the 16 scales: low nibbles of 8 bytes, their high nibbles; two bits each of 4 bytes.
template <>
struct Repack<Q3_K> {
    static DEVICE u32 upper(const u8* scales, u32 s) { return (scales[8 + s % 4] >> (s / 4 * 2)) & 3u; }
    static DEVICE u32 lower(const u8* scales, u32 s) { return (scales[s % 8] >> (s / 8 * 4)) & 15u; }
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8 *b = raw + at / 8 * 110, *scales = b + 96;
        const u32 j = at % 8;
        put8(m, 0, at, c2_from_bytes(b + 32 + j / 4 * 32, j % 4));
        put4(m, 1, at, h1_from_bytes(b, j));
        put1(m, 2, at, lower(scales, 2 * j) | lower(scales, 2 * j + 1) << 4);
        if (j == 0) {
            u32 high = 0;
            for (u32 s = 0; s < 16; s++) high |= upper(scales, s) << (2 * s);
            put4(m, 3, at / 8, high);
            put2(m, 4, at / 8, raw2(b + 108));
        }
    }
};

template <>
struct Repack<Q4_K> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 144;
        const u32 j = at % 8;
        put16(m, 0, at, c4_from_bytes(b + 16 + j / 2 * 32, j % 2));
        if (j == 0) put16(m, 1, at / 8, raw16(b));
    }
};

template <>
struct Repack<Q5_K> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 176;
        const u32 j = at % 8;
        put16(m, 0, at, c4_from_bytes(b + 48 + j / 2 * 32, j % 2));
        put4(m, 1, at, h1_from_bytes(b + 16, j));
        if (j == 0) put16(m, 2, at / 8, raw16(b));
    }
};

template <>
struct Repack<Q6_K> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 210;
        const u32 j = at % 8, half = j / 4, quarter = j % 4;
        put16(m, 0, at, c4_from_bytes(b + half * 64 + quarter % 2 * 32, quarter / 2));
        put8(m, 1, at, c2_from_bytes(b + 128 + half * 32, quarter));
        put2(m, 2, at, raw2(b + 192 + 2 * j));
        if (j == 0) put2(m, 3, at / 8, raw2(b + 208));
    }
};

template <>
struct Repack<IQ4_XS> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 136;
        const u32 j = at % 8;
        put16(m, 0, at, raw16(b + 8 + 16 * j));
        if (j == 0) put8(m, 1, at / 8, raw8(b));
    }
};

template <>
struct Repack<TQ2_0> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 66;
        const u32 j = at % 8;
        put8(m, 0, at, c2_from_bytes(b + j / 4 * 32, j % 4));
        if (j == 0) put2(m, 1, at / 8, raw2(b + 64));
    }
};

// In the file: 48 bytes of five ternary digits, 4 bytes of four; a byte holds ceil(256 n / 243) of the number n, the first
// value its highest digit, so that times 3^k (mod 256), then times 3, digit k is the carry.
template <>
struct Repack<TQ1_0> {
    static DEVICE u32 digit(const u8* b, u32 i) {
        const u32 byte = i < 160 ? b[i % 32] : i < 240 ? b[32 + (i - 160) % 16] : b[48 + (i - 240) % 4];
        const u32 k = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
        u32 v = byte;
        for (u32 n = 0; n < k; n++) v = (v * 3) & 255;
        return (v * 3) >> 8;
    }
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 54;
        const u32 j = at % 8;
        u32 out[2] = {0, 0};
        for (u32 v = 0; v < 32; v++) out[v / 16] |= digit(b, 32 * j + v) << (v % 4 * 8 + v % 16 / 4 * 2);
        put8(m, 0, at, make_uint2(out[0], out[1]));
        if (j == 0) put2(m, 1, at / 8, raw2(b + 52));
    }
};

template <>
struct Repack<IQ2_XXS> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 66;
        put8(m, 0, at, raw8(b + 2 + at % 8 * 8));
        if (at % 8 == 0) put2(m, 1, at / 8, raw2(b));
    }
};

template <>
struct Repack<IQ2_XS> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 74;
        put8(m, 0, at, raw8(b + 2 + at % 8 * 8));
        put1(m, 1, at, b[66 + at % 8]);
        if (at % 8 == 0) put2(m, 2, at / 8, raw2(b));
    }
};

template <>
struct Repack<IQ2_S> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 82;
        const u32 j = at % 8;
        put8(m, 0, at, make_uint2(raw4(b + 2 + 4 * j), raw4(b + 34 + 4 * j)));
        put2(m, 1, at, b[66 + j] | (u32)b[74 + j] << 8);
        if (j == 0) put2(m, 2, at / 8, raw2(b));
    }
};

template <>
struct Repack<IQ3_XXS> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 98;
        put8(m, 0, at, raw8(b + 2 + at % 8 * 8));
        put4(m, 1, at, raw4(b + 66 + at % 8 * 4));
        if (at % 8 == 0) put2(m, 2, at / 8, raw2(b));
    }
};

template <>
struct Repack<IQ3_S> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 110;
        const u32 j = at % 8;
        put8(m, 0, at, raw8(b + 2 + 8 * j));
        put4(m, 1, at, raw4(b + 74 + 4 * j));
        put1(m, 2, at, b[66 + j]);
        if (j == 0) {
            put4(m, 3, at / 8, raw4(b + 106));
            put2(m, 4, at / 8, raw2(b));
        }
    }
};

template <>
struct Repack<IQ1_S> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 50;
        put4(m, 0, at, raw4(b + 2 + at % 8 * 4));
        put2(m, 1, at, raw2(b + 34 + at % 8 * 2));
        if (at % 8 == 0) put2(m, 2, at / 8, raw2(b));
    }
};

template <>
struct Repack<IQ1_M> {
    static DEVICE void chunk(const u8* raw, const Matrix& m, u64 at) {
        const u8* b = raw + at / 8 * 56;
        put4(m, 0, at, raw4(b + at % 8 * 4));
        put2(m, 1, at, raw2(b + 32 + at % 8 * 2));
        if (at % 8 == 0) put8(m, 2, at / 8, raw8(b + 48));
    }
};
