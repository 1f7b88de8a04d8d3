// The iq1, iq2 and iq3 formats: groups of eight (iq3: four) values are points of a grid, 256 values under one f16 scale.
//
//            planes, in order; bytes for 32 values where nothing else is said               bytes for 256 values
//   iq2_xxs  8: four index bytes, u32 of four times 7 sign bits and a 4-bit scale | f16 d for 256          66
//   iq2_xs   8: four u16 of 9 index and 7 sign bits | 1: two 4-bit scales | f16 d for 256                  74
//   iq2_s    8: four low bytes of indices, four bytes of signs | 2: the indices' upper two bits, two 4-bit
//            scales | f16 d for 256                                                                        82
//   iq3_xxs  8: eight index bytes | 4: four times 7 sign bits and a 4-bit scale | f16 d for 256            98
//   iq3_s    8: eight low bytes of indices | 4: signs | 1: the indices' upper bits | 4 for 256: eight 4-bit
//            scales | f16 d for 256                                                                       110
//   iq1_s    4: low bytes of indices | 2: upper bits, scale, shift | f16 d for 256                         50
//   iq1_m    4: low bytes of indices | 2: a nibble for each 8: upper bits, shift | 8 for 256: scales, d    56
//
// Fields are as in crates/tensor-io/src/layout/grid.rs. Values are odd integer scales times d times
//   iq2  +-(8, 25, 43) / 8     iq3_xxs  +-(4 .. 62) / 4     iq3_s  +-(1 .. 15)     iq1  (8 (-1, 0, 1) +- 1) / 8
#pragma once
#include "grids.cuh"

// Eight levels of two bits to eight bytes through a table of four.
DEVICE void levels(u32 code, u32 table, u32& first, u32& second) {
    u32 x = (code | code << 8) & 0x00ff00ff;
    x = (x | x << 4) & 0x0f0f0f0f;
    x = (x | x << 2) & 0x33333333;
    first = permute(table, 0, x);
    second = permute(table, 0, x >> 16);
}

// Four magnitudes, none of them 0, with a sign for each: bit j of `signs` set = value j is negative.
DEVICE u32 signed_four(u32 magnitudes, u32 signs) {
    const u32 one = ((signs & 15) * 0x00204081u) & 0x01010101;
    return (magnitudes ^ one * 0xff) + one;
}

// Signs of eight values stored in seven bits: the eighth makes their number even.
DEVICE u32 eighth_sign(u32 seven) { return seven | (count_bits(seven) & 1) << 7; }

// The magnitudes of a point of iq2's grids, with signs.
DEVICE void iq2_point(u32 code, u32 signs, u32 q[2]) {
    levels(code, 0x002b1908, q[0], q[1]);
    q[0] = signed_four(q[0], signs);
    q[1] = signed_four(q[1], signs >> 4);
}

struct IQ2_XXS : Plain {
    using Planes = PlaneList<8, 32, 2, 256>;
    static constexpr bool SIGNED = true;
    struct Raw { uint2 c; u32 d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load2(m.plane[1] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
#pragma unroll
        for (int l = 0; l < 4; l++)
            iq2_point(iq2_xxs_grid(byte_of(r.c.x, l)), eighth_sign((r.c.y >> (7 * l)) & 127), o.q + 2 * l);
        o.scale[0] = half_bits(r.d) * (float)(2 * (r.c.y >> 28) + 1) * 0.125f;
        return o;
    }
};

struct IQ2_XS : Plain {
    using Planes = PlaneList<8, 32, 1, 32, 2, 256>;
    static constexpr int SCALES = 2;
    static constexpr bool SIGNED = true;
    struct Raw { uint2 c; u32 scales, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load1(m.plane[1] + at), load2(m.plane[2] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
#pragma unroll
        for (int l = 0; l < 4; l++) {
            const u32 code = ((l < 2 ? r.c.x : r.c.y) >> (l % 2 * 16)) & 0xffff;
            iq2_point(iq2_xs_grid(code & 511), eighth_sign(code >> 9), o.q + 2 * l);
        }
        const float d = half_bits(r.d) * 0.125f;
        o.scale[0] = d * (float)(2 * (r.scales & 15) + 1);
        o.scale[1] = d * (float)(2 * (r.scales >> 4) + 1);
        return o;
    }
};

struct IQ2_S : Plain {
    using Planes = PlaneList<8, 32, 2, 32, 2, 256>;
    static constexpr int SCALES = 2;
    static constexpr bool SIGNED = true;
    struct Raw { uint2 c; u32 high, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load2(m.plane[1] + 2ull * at), load2(m.plane[2] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
#pragma unroll
        for (int l = 0; l < 4; l++) {
            const u32 index = byte_of(r.c.x, l) | ((r.high >> (2 * l)) & 3) << 8;
            iq2_point(iq2_s_grid(index), byte_of(r.c.y, l), o.q + 2 * l);
        }
        const float d = half_bits(r.d) * 0.125f;
        o.scale[0] = d * (float)(2 * ((r.high >> 8) & 15) + 1);
        o.scale[1] = d * (float)(2 * (r.high >> 12) + 1);
        return o;
    }
};

struct IQ3_XXS : Plain {
    using Planes = PlaneList<8, 32, 4, 32, 2, 256>;
    static constexpr bool SIGNED = true;
    struct Raw { uint2 c; u32 tail, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load4(m.plane[1] + 4ull * at), load2(m.plane[2] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
#pragma unroll
        for (int l = 0; l < 4; l++) {
            const u32 signs = eighth_sign((r.tail >> (7 * l)) & 127), pair = (l < 2 ? r.c.x : r.c.y) >> (l % 2 * 16);
            o.q[2 * l] = signed_four(iq3_xxs_grid(pair & 0xff), signs);
            o.q[2 * l + 1] = signed_four(iq3_xxs_grid((pair >> 8) & 0xff), signs >> 4);
        }
        o.scale[0] = half_bits(r.d) * (float)(2 * (r.tail >> 28) + 1) * 0.25f;
        return o;
    }
};

struct IQ3_S : Plain {
    using Planes = PlaneList<8, 32, 4, 32, 1, 32, 4, 256, 2, 256>;
    static constexpr bool SIGNED = true;
    struct Raw { uint2 c; u32 signs, high, scales, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load4(m.plane[1] + 4ull * at), load1(m.plane[2] + at),
                load4(m.plane[3] + 4ull * (at / 8)), load2(m.plane[4] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const u32 index = byte_of(k < 4 ? r.c.x : r.c.y, k % 4) | ((r.high >> k) & 1) << 8;
            o.q[k] = signed_four(iq3_s_grid(index), r.signs >> (4 * k));
        }
        o.scale[0] = half_bits(r.d) * (float)(2 * ((r.scales >> (4 * (at & 7))) & 15) + 1);
        return o;
    }
};

// Eight times a point of iq1's grid, nine above its shifted value.
DEVICE void iq1_point(u32 index, bool down, u32 q[2]) {
    levels(iq1_grid(index), down ? 0x00100800 : 0x00120a02, q[0], q[1]);
}

struct IQ1_S : Plain {
    using Planes = PlaneList<4, 32, 2, 32, 2, 256>;
    static constexpr int ZERO = 9;
    struct Raw { u32 c, high, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load4(m.plane[0] + 4ull * at), load2(m.plane[1] + 2ull * at), load2(m.plane[2] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
#pragma unroll
        for (int l = 0; l < 4; l++)
            iq1_point(byte_of(r.c, l) | ((r.high >> (3 * l)) & 7) << 8, r.high >> 15, o.q + 2 * l);
        o.scale[0] = half_bits(r.d) * (float)(2 * ((r.high >> 12) & 7) + 1) * 0.125f;
        return o;
    }
};

struct IQ1_M : Plain {
    using Planes = PlaneList<4, 32, 2, 32, 8, 256>;
    static constexpr int ZERO = 9, SCALES = 2;
    struct Raw { u32 c, high; uint2 header; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load4(m.plane[0] + 4ull * at), load2(m.plane[1] + 2ull * at), load8(m.plane[2] + 8ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
#pragma unroll
        for (int l = 0; l < 4; l++) {
            const u32 high = r.high >> (4 * l);
            iq1_point(byte_of(r.c, l) | (high & 7) << 8, high & 8, o.q + 2 * l);
        }
        // The top nibbles of the four words are d; below them, four scales of three bits in each word.
        const uint2 h = r.header;
        const u32 d = ((h.x >> 12) & 15) | ((h.x >> 28) << 4) | ((h.y >> 12) & 15) << 8 | ((h.y >> 28) << 12);
        const u32 scales = (at & 4 ? h.y : h.x) >> ((at & 2) * 8 + (at & 1) * 6);
        const float unit = half_bits(d) * 0.125f;
        o.scale[0] = unit * (float)(2 * (scales & 7) + 1);
        o.scale[1] = unit * (float)(2 * ((scales >> 3) & 7) + 1);
        return o;
    }
};
