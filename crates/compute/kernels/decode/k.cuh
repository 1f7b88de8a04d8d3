// The K formats: 256 values under one f16 scale of small integer scales.
//
//          planes, in order                                                                        bytes for 256 values
//   q4_K   C4 | 16 bytes for 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima as in ggml   144
//   q6_K   C4 (low bits) | C2 (high bits) | 2 int8 scales for 32 (one for each 16) | f16 d for 256  210
#pragma once

// Scale and minimum of sub-block j of eight, each of six bits, from the 12 bytes y, z, w:
//   j < 4   low six bits of byte j, and of byte 4 + j
//   j >= 4  low and high nibble of byte 4 + j, above them the top two bits of bytes j - 4 and j
// All eight lanes that share a header take the same path through selects, no branches.
DEVICE void scale_and_min(const uint4& header, u32 j, float& scale, float& min) {
    const u32 i = j & 3;
    const u32 a = byte_of(header.y, i), b = byte_of(header.z, i), c = byte_of(header.w, i);
    const u32 s = j < 4 ? a & 63 : (c & 15) | ((a >> 6) << 4);
    const u32 m = j < 4 ? b & 63 : (c >> 4) | ((b >> 6) << 4);
    scale = half_bits(header.x) * (float)s;
    min = half_bits(header.x >> 16) * (float)m;
}

struct Q4_K : Plain {
    static constexpr bool MIN = true, NIBBLES = true;
    struct Raw { uint4 c, header; };
    static DEVICE Raw load(const Matrix& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load16(m.plane[1] + 16ull * (at / 8))};
    }
    static DEVICE Chunk decode(const Raw& r, u32 at) {
        Chunk o;
        nibbles(r.c, o.q);
        scale_and_min(r.header, at & 7, o.scale[0], o.min[0]);
        return o;
    }
};

struct Q6_K : Plain {
    static constexpr int ZERO = 32, SCALES = 2;
    struct Raw { uint4 c; uint2 h; u32 scales, d; };
    static DEVICE Raw load(const Matrix& m, u32 at) {
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
