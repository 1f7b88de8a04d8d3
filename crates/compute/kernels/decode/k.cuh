// Formats of 256 values under one f16 scale of small integer scales: the K formats, iq4_xs and the ternary ones.
//
//           planes, in order; bytes for 32 values where nothing else is said                      bytes for 256 values
//   q2_K    C2 | u8 for each 16: scale, in the high nibble its minimum | f16 d, f16 dmin for 256           84
//   q3_K    C2 | H1 (the third bits) | low nibbles of the scales of both 16 | upper two bits of the
//           scales, a nibble for 32 values (4 bytes for 256) | f16 d for 256                              110
//   q4_K    C4 | 16 bytes for 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima as in ggml         144
//   q5_K    C4 | H1 (the fifth bits) | 16 bytes for 256 as q4_K                                            176
//   q6_K    C4 (low bits) | C2 (high bits) | int8 scales of both 16 | f16 d for 256                        210
//   iq4_xs  C4 | 8 bytes for 256: f16 d, u16 upper two bits of the scales, 4 bytes of their nibbles        136
//   tq2_0   C2 | f16 d for 256                                                                              66
//   tq1_0   the same: its 54 bytes are recoded to two bits a value                                          66
#pragma once

// Scale and minimum of sub-block j of eight, each of six bits, from the 12 bytes y, z, w:
//   j < 4   low six bits of byte j, and of byte 4 + j
//   j >= 4  low and high nibble of byte 4 + j, above them the top two bits of bytes j - 4 and j
DEVICE void scale_and_min(const uint4& header, u32 j, float& scale, float& min) {
    const u32 i = j & 3;
    const u32 a = byte_of(header.y, i), b = byte_of(header.z, i), c = byte_of(header.w, i);
    const u32 s = j < 4 ? a & 63 : (c & 15) | ((a >> 6) << 4);
    const u32 m = j < 4 ? b & 63 : (c >> 4) | ((b >> 6) << 4);
    scale = half_bits(header.x) * (float)s;
    min = half_bits(header.x >> 16) * (float)m;
}

struct Q2_K : Plain {
    using Planes = PlaneList<8, 32, 2, 32, 4, 256>;
    static constexpr int SCALES = 2;
    static constexpr bool MIN = true;
    struct Raw { uint2 c; u32 scales, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load2(m.plane[1] + 2ull * at), load4(m.plane[2] + 4ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        two_bits(r.c, o.q);
        const float d = half_bits(r.d), dmin = half_bits(r.d >> 16);
        o.scale[0] = d * (float)(r.scales & 15);
        o.min[0] = dmin * (float)((r.scales >> 4) & 15);
        o.scale[1] = d * (float)((r.scales >> 8) & 15);
        o.min[1] = dmin * (float)((r.scales >> 12) & 15);
        return o;
    }
};

struct Q3_K : Plain {
    using Planes = PlaneList<8, 32, 4, 32, 1, 32, 4, 256, 2, 256>;
    static constexpr int ZERO = 4, SCALES = 2;
    struct Raw { uint2 c; u32 h, low, high, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load4(m.plane[1] + 4ull * at), load1(m.plane[2] + at),
                load4(m.plane[3] + 4ull * (at / 8)), load2(m.plane[4] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
        two_bits(r.c, o.q);
        add_one_bit<2>(r.h, o.q);
        const float d = half_bits(r.d);
        const u32 high = r.high >> (4 * (at & 7));
        o.scale[0] = d * (float)((int)((r.low & 15) | (high & 3) << 4) - 32);
        o.scale[1] = d * (float)((int)((r.low >> 4) | (high & 12) << 2) - 32);
        return o;
    }
};

struct Q4_K : Plain {
    using Planes = PlaneList<16, 32, 16, 256>;
    static constexpr bool MIN = true, NIBBLES = true;
    struct Raw { uint4 c, header; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load16(m.plane[1] + 16ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
        nibbles(r.c, o.q);
        scale_and_min(r.header, at & 7, o.scale[0], o.min[0]);
        return o;
    }
};

struct Q5_K : Plain {
    using Planes = PlaneList<16, 32, 4, 32, 16, 256>;
    static constexpr bool MIN = true;
    struct Raw { uint4 c, header; u32 h; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load16(m.plane[2] + 16ull * (at / 8)), load4(m.plane[1] + 4ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
        nibbles(r.c, o.q);
        add_one_bit<4>(r.h, o.q);
        scale_and_min(r.header, at & 7, o.scale[0], o.min[0]);
        return o;
    }
};

struct Q6_K : Plain {
    using Planes = PlaneList<16, 32, 8, 32, 2, 32, 2, 256>;
    static constexpr int ZERO = 32, SCALES = 2;
    struct Raw { uint4 c; uint2 h; u32 scales, d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load8(m.plane[1] + 8ull * at), load2(m.plane[2] + 2ull * at),
                load2(m.plane[3] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        nibbles(r.c, o.q);
        add_two_bits(r.h, o.q);
        const float d = half_bits(r.d);
        o.scale[0] = d * (float)signed_byte_of(r.scales, 0);
        o.scale[1] = d * (float)signed_byte_of(r.scales, 1);
        return o;
    }
};

struct IQ4_XS : Plain {
    using Planes = PlaneList<16, 32, 8, 256>;
    static constexpr bool SIGNED = true, PAIRS = true;
    struct Raw { uint4 c; uint2 header; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load8(m.plane[1] + 8ull * (at / 8))};
    }
    static DEVICE void pairs(const Raw& r, u32 q[8]) { table_pairs(r.c, IQ4_TABLE, q); }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
        table(r.c, IQ4_TABLE, o.q);
        const u32 j = at & 7, low = (r.header.y >> (4 * j)) & 15, high = (r.header.x >> (16 + 2 * j)) & 3;
        o.scale[0] = half_bits(r.header.x) * (float)((int)(low | high << 4) - 32);
        return o;
    }
};

struct TQ2_0 : Plain {
    using Planes = PlaneList<8, 32, 2, 256>;
    static constexpr int ZERO = 1;
    struct Raw { uint2 c; u32 d; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load8(m.plane[0] + 8ull * at), load2(m.plane[1] + 2ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        two_bits(r.c, o.q);
        o.scale[0] = half_bits(r.d);
        return o;
    }
};
struct TQ1_0 : TQ2_0 {};
