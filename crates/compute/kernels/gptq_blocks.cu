// The column loop of block types, as gptq/blocks/mod.rs does it.
//
//   extern "C" void gptq_blocks_round_<B>(RoundArgs)   grid (width / 32), block 256, shared round bytes
//   extern "C" void gptq_blocks_choose(ChooseArgs)     grid (width / 32), block 256
//   extern "C" void gptq_blocks_begin(BeginArgs)       grid (width / 32, groups of the unit), block 256
//   extern "C" void gptq_blocks_shared(SharedArgs)     grid (width / 32, 1 or 2), block 256
#include "gptq_blocks.cuh"

// Mirrored by cuda/column_loop/args.rs.
struct BeginArgs {
    const float* values;    // of the unit, [size][width]
    const float* diagonal;  // [size]
    const uint4* groups;    // first position within the unit, end, number
    float* curvature;       // [groups of the unit][width]
    Parameters parameters;
    Kind kind;
    u32 width, spare;
};
struct SharedArgs {
    const float* diagonal;  // of the unit
    const uint4* groups;
    const float* curvature; // [groups of the unit][width]
    Parameters parameters;
    Kind kind;
    u32 width, count, unit, spare;
};

// The table of levels, ready to be read.
#define WITH_TABLE                     \
    __shared__ Table table;            \
    if (TABLE_LEVELS) make_table(table); \
    __syncthreads();

#define KERNEL extern "C" __global__ void __launch_bounds__(256)
KERNEL gptq_blocks_round_128(const __grid_constant__ RoundArgs a) {
    WITH_TABLE
    round_kernel<128>(a, Blocks(a.kind, &table));
}
KERNEL gptq_blocks_round_64(const __grid_constant__ RoundArgs a) {
    WITH_TABLE
    round_kernel<64>(a, Blocks(a.kind, &table));
}
KERNEL gptq_blocks_choose(const __grid_constant__ ChooseArgs a) {
    WITH_TABLE
    choose_kernel(a, Blocks(a.kind, &table));
}

// What each group of a unit would like.
KERNEL gptq_blocks_begin(const __grid_constant__ BeginArgs a) {
    WITH_TABLE
    __shared__ Found found;
    const uint4 group = a.groups[blockIdx.y];
    const u32 row = blockIdx.x * LINE + threadIdx.x % 32;
    const Columns columns = {a.values + (u64)group.x * a.width + row, a.width, group.y - group.x, a.diagonal + group.x};
    const Searched s = Blocks(a.kind, &table).search(columns, found);
    if (threadIdx.x < 32) {
        const u64 line = (u64)group.z * a.width + row;
        a.parameters.scales[line] = s.scale;
        a.parameters.offsets[line] = s.offset;
        a.curvature[(u64)blockIdx.y * a.width + row] = s.curvature;
    }
}

DEVICE float as_half(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return half_bits(bits);
}

// The f16 under which whole numbers from `low` to `high` come closest to what groups want, under weights `cost`.
KERNEL gptq_blocks_shared(const __grid_constant__ SharedArgs a) {
    __shared__ float all_wanted[16][LINE], all_cost[16][LINE];
    __shared__ Found found;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * LINE + lane;
    const bool offsets = blockIdx.y == 1;
    const float low = offsets ? 0.0f : a.kind.code_low, high = offsets ? a.kind.offset_high : a.kind.code_high;
    for (u32 g = warp; g < a.count; g += WARPS) {
        const uint4 group = a.groups[g];
        const u64 line = (u64)group.z * a.width + row;
        if (offsets) {
            float sum = -0.0f;
            for (u32 j = group.x; j < group.y; j++) sum = sum + a.diagonal[j];
            all_wanted[g][lane] = -a.parameters.offsets[line];
            all_cost[g][lane] = sum;
        } else {
            all_wanted[g][lane] = a.parameters.scales[line];
            all_cost[g][lane] = a.curvature[(u64)g * a.width + row];
        }
    }
    __syncthreads();
    float largest = 0.0f;
    for (u32 g = 0; g < a.count; g++) largest = fmaxf(largest, fabsf(all_wanted[g][lane]));
    const bool usable = largest > 0.0f && largest < INFINITE;
    const auto code = [&](float w, float d) { return fminf(fmaxf(rintf(w / d), low), high); };
    Best best = {INFINITE, 0.0f, 0.0f, 0};
    const u32 count = low < 0.0f ? 48 : 24;
    for (u32 i = warp; i < count; i += WARPS) {
        const float sign = i < 24 ? 1.0f : -1.0f;
        float d = as_half(sign * largest / (high * (1.08f - 0.02f * (float)(i % 24))));
        for (u32 turn = 0; turn < 2; turn++) {
            if (d == 0.0f || !(fabsf(d) < INFINITE)) break;
            float error = -0.0f, along = 0.0f, square = 0.0f;
            for (u32 g = 0; g < a.count; g++) {
                const float w = all_wanted[g][lane], c = all_cost[g][lane], k = code(w, d);
                error = error + c * (w - d * k) * (w - d * k);
                along = along + c * w * k;
                square = square + c * k * k;
            }
            best.take(error, 2 * i + turn + 1, d, 0.0f);
            d = square > 0.0f ? as_half(along / square) : 0.0f;
        }
    }
    best = best_of_warps(best, found);
    const u64 line = (u64)a.unit * a.width + row;
    if (warp == 0) (offsets ? a.parameters.unit_offsets : a.parameters.unit_scales)[line] = usable ? best.scale : 0.0f;
}
