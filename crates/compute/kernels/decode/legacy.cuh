// Formats whose scale is beside each 32 values (or 64, 128): ggml's first types, bitsandbytes' 4-bit types, the FP4 types.
//
//          planes, in order                                           bytes for 32 values
//   q4_0   C4 | f16 d                                                 18     value = d (q - 8)
//   q8_0   values 0..15 | values 16..31 (int8) | f16 d                34     value = d q
#pragma once

struct Q4_0 : Plain {
    static constexpr int ZERO = 8;
    static constexpr bool NIBBLES = true;
    struct Raw { uint4 c; u32 d; };
    static DEVICE Raw load(const Matrix& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load2(m.plane[1] + 2ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        Chunk o;
        nibbles(r.c, o.q);
        o.scale[0] = half_bits(r.d);
        return o;
    }
};

struct Q8_0 : Plain {
    static constexpr bool SIGNED = true;
    struct Raw { uint4 a, b; u32 d; };
    static DEVICE Raw load(const Matrix& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at), load16(m.plane[1] + 16ull * at), load2(m.plane[2] + 2ull * at)};
    }
    static DEVICE Chunk decode(const Raw& r, u32) {
        return {{r.a.x, r.a.y, r.a.z, r.a.w, r.b.x, r.b.y, r.b.z, r.b.w}, {half_bits(r.d), 0}, {0, 0}};
    }
};
