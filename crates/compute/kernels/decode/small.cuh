// Formats whose scale is beside each 16, 32, 64 or 128 values: ggml's first types, the tables of four bits, the FP4 types,
// the types of one and two bits.
//
//           planes, in order; bytes for 32 values where nothing else is said          value
//   q4_0    C4 | f16 d                                                                d (q - 8)
//   q4_1    C4 | f16 d, f16 m                                                         d q + m
//   q5_0    C4 | H1 | f16 d                                                           d (q - 16)
//   q5_1    C4 | H1 | f16 d, f16 m                                                    d q + m
//   q8_0    int8 of values 0..15 | of values 16..31 | f16 d                           d q
//   iq4_nl  C4 | f16 d                                                                d T[q]
//   nf4     C4 | f16 d                                                                d T[q] / 124.125
//   fp4     C4 | f16 d                                                                d T[q] / 120
//   mxfp4   C4 | u8 e                                                                 2^(e - 128) T[q]
//   nvfp4   C4 | u8 scales of values 0..15 and 16..31 (UE4M3)                         half of the scale, T[q]
//   q1_0    H1 | f16 d for 128                                                        d (2 q - 1)
//   q2_0    C2 | f16 d for 64                                                         d (q - 1)
#pragma once

// The tables are quern's (crates/compute/src/block/tables.rs): bytes of values 0-3, 4-7, 8-11, 12-15.
#define IQ4_TABLE make_uint4(0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535)
#define NF4_TABLE make_uint4(0xcfbfaa84, 0x00f5e9dd, 0x2a1f140a, 0x7c5a4637)
#define FP4_TABLE make_uint4(0x78500100, 0x1e143c28, 0x88b0ff00, 0xe2ecc4d8)
#define E2M1_TABLE make_uint4(0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc)

struct Q4_0 : Plain {
    using Planes = PlaneList<16, 32, 2, 32>;
    static constexpr int ZERO = 8;
    static constexpr bool NIBBLES = true;
    struct Raw { uint4 c; u32 d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load2(m.plane[1] + 2ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        nibbles(r.c, o.q);
        o.scale[0] = half_bits(r.d);
        return o;
    }
};

struct Q4_1 : Plain {
    using Planes = PlaneList<16, 32, 4, 32>;
    static constexpr bool MIN = true, NIBBLES = true;
    struct Raw { uint4 c; u32 dm; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load4(m.plane[1] + 4ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        nibbles(r.c, o.q);
        o.scale[0] = half_bits(r.dm);
        o.min[0] = -half_bits(r.dm >> 16);
        return o;
    }
};

struct Q5_0 : Plain {
    using Planes = PlaneList<16, 32, 4, 32, 2, 32>;
    static constexpr int ZERO = 16;
    struct Raw { uint4 c; u32 h, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load4(m.plane[1] + 4ull * at), load2(m.plane[2] + 2ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        nibbles(r.c, o.q);
        add_one_bit<4>(r.h, o.q);
        o.scale[0] = half_bits(r.d);
        return o;
    }
};

struct Q5_1 : Plain {
    using Planes = PlaneList<16, 32, 4, 32, 4, 32>;
    static constexpr bool MIN = true;
    struct Raw { uint4 c; u32 h, dm; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load4(m.plane[1] + 4ull * at), load4(m.plane[2] + 4ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        nibbles(r.c, o.q);
        add_one_bit<4>(r.h, o.q);
        o.scale[0] = half_bits(r.dm);
        o.min[0] = -half_bits(r.dm >> 16);
        return o;
    }
};

struct Q8_0 : Plain {
    using Planes = PlaneList<16, 32, 16, 32, 2, 32>;
    static constexpr bool SIGNED = true;
    struct Raw { uint4 a, b; u32 d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load16(m.plane[1] + 16ull * at), load2(m.plane[2] + 2ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        return {{r.a.x, r.a.y, r.a.z, r.a.w, r.b.x, r.b.y, r.b.z, r.b.w}, {half_bits(r.d), 0}, {0, 0}};
    }
};

// Codes of four bits into a table, an f16 scale for 32.
struct Table : Plain {
    static constexpr bool PAIRS = true;
    using Planes = PlaneList<16, 32, 2, 32>;
    static constexpr bool SIGNED = true;
    struct Raw { uint4 c; u32 d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load2(m.plane[1] + 2ull * at)};
    }
    static DEVICE Chunk through(const uint4& values, float step, const Raw& r) {
        Chunk o;
        table(r.c, values, o.q);
        o.scale[0] = half_bits(r.d) * step;
        return o;
    }
};
struct IQ4_NL : Table {
    static DEVICE void pairs(const Raw& r, u32 q[8]) { table_pairs(r.c, IQ4_TABLE, q); }
    static DEVICE Chunk decode(const Raw& r, u32) { return through(IQ4_TABLE, 1.0f, r); }
};
struct NF4 : Table {
    static DEVICE void pairs(const Raw& r, u32 q[8]) { table_pairs(r.c, NF4_TABLE, q); }
    static DEVICE Chunk decode(const Raw& r, u32) { return through(NF4_TABLE, 1.0f / 124.125f, r); }
};
struct FP4 : Table {
    static DEVICE void pairs(const Raw& r, u32 q[8]) { table_pairs(r.c, FP4_TABLE, q); }
    static DEVICE Chunk decode(const Raw& r, u32) { return through(FP4_TABLE, 1.0f / 120.0f, r); }
};

// E2M1 numbers, doubled, under half of an E8M0 exponent; the two smallest halves are subnormal.
struct MXFP4 : Plain {
    using Planes = PlaneList<16, 32, 1, 32>;
    static constexpr bool SIGNED = true, PAIRS = true;
    struct Raw { uint4 c; u32 e; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load1(m.plane[1] + at)};
    }
    static DEVICE void pairs(const Raw& r, u32 q[8]) { table_pairs(r.c, E2M1_TABLE, q); }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        table(r.c, E2M1_TABLE, o.q);
        o.scale[0] = float_bits(r.e < 2 ? 0x00200000u << r.e : (r.e - 1) << 23);
        return o;
    }
};

// E2M1 numbers, doubled, under half of a UE4M3 scale for each 16. The scale's top bit is ignored and 0x7f is zero, as in
// ggml.
struct NVFP4 : Plain {
    using Planes = PlaneList<16, 32, 2, 32>;
    static constexpr int SCALES = 2;
    static constexpr bool SIGNED = true;
    struct Raw { uint4 c; u32 scales; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load2(m.plane[1] + 2ull * at)};
    }
    static DEVICE float half_of(u32 code) {
        const u32 exponent = (code >> 3) & 15, mantissa = code & 7;
        const u32 steps = exponent == 0 ? mantissa : (8 + mantissa) << (exponent - 1);
        return code == 0x7f ? 0.0f : (float)steps * (1.0f / 1024.0f);
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        table(r.c, E2M1_TABLE, o.q);
        o.scale[0] = half_of(byte_of(r.scales, 0));
        o.scale[1] = half_of(byte_of(r.scales, 1));
        return o;
    }
};

struct Q1_0 : Plain {
    using Planes = PlaneList<4, 32, 2, 128>;
    static constexpr int ZERO = 1;  // codes are 0 and 2
    struct Raw { u32 h, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load4(m.plane[0] + 4ull * at), load2(m.plane[1] + 2ull * (at / 4))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o = {};
        add_one_bit<1>(r.h, o.q);
        o.scale[0] = half_bits(r.d);
        return o;
    }
};

struct Q2_0 : Plain {
    using Planes = PlaneList<8, 32, 2, 64>;
    static constexpr int ZERO = 1;
    struct Raw { uint2 c; u32 d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load2(m.plane[1] + 2ull * (at / 2))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        two_bits(r.c, o.q);
        o.scale[0] = half_bits(r.d);
        return o;
    }
};
