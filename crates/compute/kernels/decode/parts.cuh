// Parts that several formats share: how codes of 1, 2, 4 bits stand in the bytes of a chunk.
//
//   C4  16 bytes   low nibble of byte i = value i, high nibble = value 16 + i
//   C2   8 bytes   bits 2k, 2k+1 of byte b of word h = value 16 h + 4 k + b
//   H1   4 bytes   bit i of byte b = value 4 i + b
//
// so that a shift and a mask give the codes of four consecutive values, one in each byte.
#pragma once

DEVICE void nibbles(const uint4& c, u32 q[8]) {
    const u32 w[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        q[i] = w[i] & 0x0f0f0f0f;
        q[i + 4] = (w[i] >> 4) & 0x0f0f0f0f;
    }
}

DEVICE void two_bits(const uint2& c, u32 q[8]) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        q[k] = (c.x >> (2 * k)) & 0x03030303;
        q[k + 4] = (c.y >> (2 * k)) & 0x03030303;
    }
}

// Puts two more bits above the four of each code (C2 order).
DEVICE void add_two_bits(const uint2& h, u32 q[8]) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        q[k] |= (k < 2 ? h.x << (4 - 2 * k) : h.x >> (2 * k - 4)) & 0x30303030;
        q[k + 4] |= (k < 2 ? h.y << (4 - 2 * k) : h.y >> (2 * k - 4)) & 0x30303030;
    }
}

// Puts one more bit above `bits` of each code (H1 order).
template <int bits>
DEVICE void add_one_bit(u32 h, u32 q[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) q[i] |= (i < bits ? h << (bits - i) : h >> (i - bits)) & (0x01010101u << bits);
}

// Codes through a table of 16 signed bytes, given as four words, in pairs: q[2 i] and q[2 i + 1] have the values
// 4 i, 16 + 4 i, 4 i + 1, 16 + 4 i + 1 and the same two places on, as the nibbles of word i are.
DEVICE void table_pairs(const uint4& c, const uint4& t, u32 q[8]) {
    const u32 w[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // The low three bits of a nibble choose in either half of the table, the top bit between the halves.
        const u32 low = w[i] & 0x77777777, top = ((w[i] & 0x88888888) >> 1) | 0x32103210;
        q[2 * i] = permute(permute(t.x, t.y, low), permute(t.z, t.w, low), top);
        q[2 * i + 1] = permute(permute(t.x, t.y, low >> 16), permute(t.z, t.w, low >> 16), top >> 16);
    }
}

// The same in order.
DEVICE void table(const uint4& c, const uint4& t, u32 q[8]) {
    u32 pairs[8];
    table_pairs(c, t, pairs);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        q[i] = permute(pairs[2 * i], pairs[2 * i + 1], 0x6420);
        q[i + 4] = permute(pairs[2 * i], pairs[2 * i + 1], 0x7531);
    }
}
