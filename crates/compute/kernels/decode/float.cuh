// Float formats: plane 0 has the rows, padded with zeros to a multiple of 32 values. `at` counts pieces of 16 bytes.
#pragma once

struct FloatPieces : Plain {
    static constexpr bool FLOAT = true;
    using Planes = PlaneList<16, 8>;
    static constexpr int PIECE = 8;
    struct Raw { uint4 v; };
    template <class M>
    static DEVICE Raw load(const M& m, u32 at) {
        return {load16(m.plane[0] + 16ull * at)};
    }
};

// value(r, i): value i of the piece.
struct F16 : FloatPieces {
    static DEVICE float value(const Raw& r, int i) {
        const u32 w = i < 2 ? r.v.x : i < 4 ? r.v.y : i < 6 ? r.v.z : r.v.w;
        return half_bits(i % 2 ? w >> 16 : w);
    }
};
struct BF16 : FloatPieces {
    static DEVICE float value(const Raw& r, int i) {
        const u32 w = i < 2 ? r.v.x : i < 4 ? r.v.y : i < 6 ? r.v.z : r.v.w;
        return float_bits(i % 2 ? w & 0xffff0000 : w << 16);
    }
};
struct F32 : FloatPieces {
    using Planes = PlaneList<16, 4>;
    static constexpr int PIECE = 4;
    static DEVICE float value(const Raw& r, int i) {
        return float_bits(i < 1 ? r.v.x : i < 2 ? r.v.y : i < 3 ? r.v.z : r.v.w);
    }
};
