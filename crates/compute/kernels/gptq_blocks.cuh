// The search for scales and offsets of block types, as gptq/blocks/{mod,choose}.rs does it. KIND_... says which: levels
// are whole numbers or entries of a table, scales and offsets are f16, whole numbers under a shared f16, or powers of two.
#pragma once
#include "gptq_round.cuh"

#if defined(KIND_TABLE_HALF) || defined(KIND_TABLE_CODES) || defined(KIND_TABLE_POWER)
constexpr bool TABLE_LEVELS = true;
#else
constexpr bool TABLE_LEVELS = false;
#endif
#if defined(KIND_WHOLE_CODES) || defined(KIND_WHOLE_CODES_CODES) || defined(KIND_TABLE_CODES)
constexpr bool CODES = true;
#else
constexpr bool CODES = false;
#endif
#if defined(KIND_WHOLE_HALF_HALF)
constexpr bool OFFSETS = true, OFFSET_CODES = false;
#elif defined(KIND_WHOLE_CODES_CODES)
constexpr bool OFFSETS = true, OFFSET_CODES = true;
#else
constexpr bool OFFSETS = false, OFFSET_CODES = false;
#endif
#if defined(KIND_TABLE_POWER)
constexpr bool POWER = true;
#else
constexpr bool POWER = false;
#endif
constexpr bool HALVES = !CODES && !POWER;

#if defined(KIND_TABLE_POWER)
__device__ const float VALUES[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 12};
constexpr int USED = 15;
#else
__device__ const float VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int USED = 16;
#endif

// Ascending values, and half way from each to the next.
struct Table {
    float values[16], edges[16];
};
// The values of a table, which is in shared memory.
struct TableSet {
    const Table* table;
    DEVICE float of(float x, float) const {
        u32 i = 0;
#pragma unroll
        for (u32 step = 8; step > 0; step /= 2)
            if (!(x < table->edges[i + step - 1])) i += step;
        return table->values[i];
    }
};
// Fills the table; the block of threads waits before it is used.
DEVICE void make_table(Table& table) {
    const u32 i = threadIdx.x;
    if (i < 16) {
        table.values[i] = VALUES[i];
        table.edges[i] = (int)i + 1 < USED ? (VALUES[i] + VALUES[i + 1]) * 0.5f : __int_as_float(0x7f800000);
    }
}
template <bool TABLE_>
struct SetOf {
    typedef Whole Set;
    DEVICE static Set of(const Kind& kind, const Table*) { return {kind.high - kind.low}; }
};
template <>
struct SetOf<true> {
    typedef TableSet Set;
    DEVICE static Set of(const Kind&, const Table* table) { return {table}; }
};
typedef SetOf<TABLE_LEVELS>::Set Set;

#define INFINITE __int_as_float(0x7f800000)

// What rounding with each of N scales and offsets costs.
template <int N>
DEVICE void errors_of(const Set& set, const Columns& c, float low, const float (&scale)[N], const float (&offset)[N],
                      float (&sum)[N]) {
    float inv[N];
#pragma unroll
    for (int k = 0; k < N; k++) inv[k] = inverse(scale[k]), sum[k] = 0.0f;
#pragma unroll 2
    for (u32 j = 0; j < c.count; j++) {
        const float value = c.values[j * c.stride], weight = c.weights[j];
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float x = OFFSETS ? value - offset[k] : value;
            const float error = x - scale[k] * set.of(x * inv[k], low);
            sum[k] = sum[k] + weight * error * error;
        }
    }
}

// A scale as it is stored.
DEVICE float stored(float scale) { return HALVES ? signed_half(scale) : scale; }

// The best of `count` candidates, which `make` gives by number, spread over the warps.
template <class Make>
DEVICE Best best_of(const Set& set, const Columns& c, Found& found, float low, u32 count, Best best, const Make& make) {
    constexpr int N = 4;
    for (u32 at = N * (threadIdx.x / 32); at < count; at += N * WARPS) {
        float scale[N], offset[N], first[N], second[N], sum[N];
#pragma unroll
        for (int k = 0; k < N; k++) make(min(at + k, count - 1), scale[k], offset[k], first[k], second[k]);
        errors_of<N>(set, c, low, scale, offset, sum);
#pragma unroll
        for (int k = 0; k < N; k++)
            if (at + k < count) best.take(sum[k], at + k + 1, first[k], second[k]);
    }
    return best_of_warps(best, found);
}

struct Searched {
    float scale, offset, curvature;
};

constexpr int ROUNDS = 2;

// Tries one more candidate; every warp does the same.
DEVICE void try_one(const Set& set, const Columns& c, float low, float scale, float offset, Best& best) {
    const float scales[1] = {scale}, offsets[1] = {offset};
    float error[1];
    errors_of<1>(set, c, low, scales, offsets, error);
    best.take(error[0], 0, scale, offset);
}

// Scale alone: shares of the range with both signs, then least squares for the levels found.
DEVICE Searched symmetric(const Kind& kind, const Set& set, const Columns& c, Found& found) {
    float largest = 0.0f;
    for (u32 j = 0; j < c.count; j++) largest = lane_max(fabsf(c.values[j * c.stride]), largest);
    const float reach = 2.0f / (kind.high - kind.low);
    const bool ternary = kind.high - kind.low == 2.0f;
    const auto make = [&](u32 i, float& scale, float& offset, float& first, float& second) {
        const float step = (float)(i % 30), sign = i < 30 ? 1.0f : -1.0f;
        const float share = ternary ? 1.0f - 0.03f * step : 1.08f - 0.02f * step;
        scale = stored(largest * reach * (share * sign));
        first = scale;
        offset = second = 0.0f;
    };
    Best best = best_of(set, c, found, kind.low, 60, {INFINITE, 0.0f, 0.0f, 0}, make);
    float curvature = 0.0f;
    for (int round = 0; round <= ROUNDS; round++) {
        const float inv = inverse(best.scale);
        float along = 0.0f, square = 0.0f;
        for (u32 j = 0; j < c.count; j++) {
            const float x = c.values[j * c.stride];
            const float t = set.of(x * inv, kind.low);
            const float weighted = c.weights[j] * t;
            along = along + weighted * x;
            square = square + weighted * t;
        }
        curvature = square;
        if (round == ROUNDS) break;
        try_one(set, c, kind.low, stored(0.0f < square ? along / square : best.scale), 0.0f, best);
    }
    return {best.scale, 0.0f, curvature};
}

// Scale and offset: both ends of the range moved inwards, then least squares for both.
DEVICE Searched affine(const Kind& kind, const Set& set, const Columns& c, Found& found) {
    const auto bounded = [](float offset) { return OFFSET_CODES ? lane_min(offset, 0.0f) : offset; };
    const auto half_offset = [](float offset) { return HALVES ? signed_half(offset) : offset; };
    float low = INFINITE, high = -INFINITE;
    for (u32 j = 0; j < c.count; j++) {
        const float x = c.values[j * c.stride];
        low = lane_min(x, low);
        high = lane_max(x, high);
    }
    low = bounded(low);
    const float range = high - low, reach = 1.0f / (kind.high - kind.low);
    const auto move = [](u32 i) {
        return i == 0 ? 0.0f : i == 1 ? -0.02f : i == 2 ? 0.025f : i == 3 ? 0.05f : i == 4 ? 0.08f : i == 5 ? 0.12f : i == 6 ? 0.16f : 0.22f;
    };
    const auto make = [&](u32 i, float& scale, float& offset, float& first, float& second) {
        offset = half_offset(bounded(low + range * move(i / 8)));
        const float end = high - range * move(i % 8);
        scale = stored(lane_max((end - offset) * reach, 0.0f));
        first = scale;
        second = offset;
    };
    Best best = best_of(set, c, found, kind.low, 64, {INFINITE, 0.0f, 0.0f, 0}, make);
    float curvature = 0.0f;
    for (int round = 0; round <= ROUNDS; round++) {
        const float inv = inverse(best.scale);
        float xt = 0.0f, tt = 0.0f, x1 = 0.0f, t1 = 0.0f, one = 0.0f;
        for (u32 j = 0; j < c.count; j++) {
            const float x = c.values[j * c.stride], weight = c.weights[j];
            const float t = set.of((x - best.second) * inv, kind.low);
            xt = xt + weight * x * t;
            tt = tt + weight * t * t;
            x1 = x1 + weight * x;
            t1 = t1 + weight * t;
            one = one + weight;
        }
        curvature = tt;
        if (round == ROUNDS) break;
        const float determinant = tt * one - t1 * t1;
        const bool solved = 0.0f < determinant;
        float scale = (xt * one - x1 * t1) / determinant, offset = (x1 * tt - xt * t1) / determinant;
        // Beyond the bound: the best scale for an offset of 0.
        const bool beyond = OFFSET_CODES && 0.0f < offset;
        const float alone = 0.0f < tt ? xt / tt : best.scale;
        scale = beyond ? alone : scale;
        offset = beyond ? 0.0f : offset;
        scale = stored(lane_max(solved ? scale : best.scale, 0.0f));
        offset = half_offset(solved ? offset : best.second);
        try_one(set, c, kind.low, scale, offset, best);
    }
    return {best.scale, best.second, curvature};
}

// The best of a few powers of two, and its number.
DEVICE Searched power(const Table& table, const Columns& c) {
    float largest = 0.0f;
    for (u32 j = 0; j < c.count; j++) largest = fmaxf(largest, fabsf(c.values[j * c.stride]));
    const u32 bits = __float_as_uint(largest), exponent = bits >> 23;
    u32 middle = 0;
    if (exponent != 0 && (bits & 0x7fffffu) < 0x7fff00u) middle = (exponent - 2) & 255;
    else if (largest > 0.0f) middle = (u32)(int)(floorf((float)log2((double)largest)) - 2.0f + 127.0f) & 255;
    float least = INFINITE;
    Searched found = {0.0f, 0.0f, 0.0f};
    for (int k = 0; k < 3; k++) {
        const u32 e = k == 0 ? middle : k == 1 ? min(min(middle + 1, 255u), 254u) : middle == 0 ? 0 : middle - 1;
        const float scale = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        float error = 0.0f;
        for (u32 j = 0; j < c.count; j++) {
            const float value = c.values[j * c.stride], x = value / scale;
            u32 at = 0;
            while (at < 15 && x >= table.edges[at]) at++;
            const float miss = value - scale * table.values[at];
            error = error + c.weights[j] * miss * miss;
        }
        if (error < least) least = error, found.scale = scale, found.curvature = (float)e;
    }
    return found;
}

// A block type.
struct Blocks {
    Kind kind;
    Set set;
    const Table* table;
    DEVICE Blocks(const Kind& k, const Table* t) : kind(k), set(SetOf<TABLE_LEVELS>::of(k, t)), table(t) {}

    // The best scale and offset of a group: final where they are f16, otherwise what its numbers are chosen from.
    DEVICE Searched search(const Columns& c, Found& found) const {
        if constexpr (POWER) return power(*table, c);
        else if constexpr (OFFSETS) return affine(kind, set, c, found);
        else return symmetric(kind, set, c, found);
    }
    DEVICE Chosen choose(const Parameters& p, const Columns& c, Found& found, u64 line, u64 unit) const {
        const Searched s = search(c, found);
        Chosen chosen = {s.scale, kind.low, s.offset};
        float code = POWER ? s.curvature : 0.0f, offset_code = 0.0f;
        if constexpr (CODES) chosen = codes(p, c, found, s, unit, code, offset_code);
        if (threadIdx.x < 32) {
            p.scales[line] = chosen.scale;
            p.lows[line] = kind.low;
            p.offsets[line] = chosen.offset;
            p.scale_codes[line] = code;
            p.offset_codes[line] = offset_code;
        }
        return chosen;
    }
    // Whole numbers around what was found, under the shared f16s.
    DEVICE Chosen codes(const Parameters& p, const Columns& c, Found& found, const Searched& s, u64 unit_line, float& code,
                        float& offset_code) const {
        const float unit = p.unit_scales[unit_line], unit_offset = OFFSET_CODES ? p.unit_offsets[unit_line] : 0.0f;
        const float top = OFFSET_CODES ? kind.offset_high : 0.0f;
        const auto clamp = [](float x, float low, float high) { return lane_min(lane_max(x, low), high); };
        const float middle = nearest(clamp(s.scale * inverse(unit), kind.code_low, kind.code_high));
        const float middle_offset = nearest(clamp((0.0f - s.offset) * inverse(unit_offset), 0.0f, top));
        // 0, -1, 1, -2, ...
        const auto beside = [](u32 i) { return i % 2 ? -(float)((i + 1) / 2) : (float)(i / 2); };
        constexpr u32 BESIDE = OFFSET_CODES ? 3 : 1;
        const auto make = [&](u32 i, float& scale, float& offset, float& first, float& second) {
            first = clamp(middle + beside(i / BESIDE), kind.code_low, kind.code_high);
            second = clamp(middle_offset + beside(i % BESIDE), 0.0f, top);
            scale = unit * first;
            offset = 0.0f - unit_offset * second;
        };
        const Best best = best_of(set, c, found, kind.low, 7 * BESIDE, {INFINITE, middle, middle_offset, 0}, make);
        code = best.scale;
        offset_code = best.second;
        return {unit * code, kind.low, 0.0f - unit_offset * offset_code};
    }
    DEVICE Chosen chosen(const Parameters& p, u64 line) const { return {p.scales[line], kind.low, p.offsets[line]}; }
};
