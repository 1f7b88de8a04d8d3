// GPTQ's column loop: choosing the scales of groups and rounding the columns of a block.
//
//   extern "C" void gptq_make_up_<B>(MakeUpArgs)   grid (width / 32), block 256, shared make_up bytes
//   extern "C" void gptq_start_<B>(StartArgs)      grid (width / 32), block 256, shared make_up bytes
//   extern "C" void gptq_choose(ChooseArgs)        grid (width / 32), block 256
//   extern "C" void gptq_round_<B>(RoundArgs)      grid (width / 32), block 256, shared round bytes
//
// B, 128 or 64: the most positions at once; the results are the same. A block of threads has 32 rows. Of its 8 warps the
// first does the columns that need each other; all pass errors on and search scales.
#include "gptq_round.cuh"

// Mirrored by cuda/column_loop/args.rs.
struct StartArgs {
    const float* factor;    // the square at the block's positions, [..][columns]
    float* residual;        // [size][width]: what the layer should make up for; becomes residuals
    float* minus;           // [size][width]: these, negated
    u32 columns, width, size, spare;
};

// Codes are whole numbers from 0 to `top`, less a zero point.
struct Gptq {
    Kind kind;
    Whole set;
    DEVICE explicit Gptq(const Kind& k) : kind(k), set{k.top} {}
    DEVICE Chosen choose(const Parameters& p, const Columns& columns, Found& found, u64 line, u64) const {
        Chosen chosen = {0.0f, 0.0f, 0.0f};
        choose_gptq(kind, columns, found, chosen.scale, chosen.low);
        if (threadIdx.x < 32) {
            p.scales[line] = chosen.scale;
            p.lows[line] = chosen.low;
        }
        return chosen;
    }
    DEVICE Chosen chosen(const Parameters& p, u64 line) const { return {p.scales[line], p.lows[line], 0.0f}; }
};

// From M to the residuals that the loop begins with, the last positions first, as Tile::start_from.
template <int B>
DEVICE void start_kernel(const StartArgs& a) {
    extern __shared__ __align__(16) char shared[];
    Work<B>& work = *(Work<B>*)shared;
    float(*lines)[LINE] = (float(*)[LINE])(&work + 1), (*kept)[LINE] = lines + B;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = blockIdx.x * LINE;
    load_triangle(work.triangle, a.factor, a.columns, a.size, triangle_floats(B));
    load_lines(lines, a.residual + row0, a.width, a.size);
    if (threadIdx.x < a.size) work.root[threadIdx.x] = 1.0f / a.factor[(u64)threadIdx.x * a.columns + threadIdx.x];
    loads_arrived();
    for (u32 first = (a.size - 1) / SHORT * SHORT;; first -= SHORT) {
        const u32 size = min((u32)SHORT, a.size - first);
        if (warp == 0) {
            float minus[SHORT];
#pragma unroll
            for (int j = SHORT - 1; j >= 0; j--) {
                minus[j] = 0.0f;
                if (j >= size) continue;
                float y = lines[first + j][lane];
#pragma unroll
                for (int i = j + 1; i < SHORT; i++)
                    if (i < size) y = y + work.triangle[triangle_row(first + i) + first + j] * minus[i];
                y = y * work.root[first + j];
                lines[first + j][lane] = y;
                kept[first + j][lane] = -y;
                minus[j] = -y;
            }
        }
        __syncthreads();
        if (first == 0) break;
        float e[SHORT];
#pragma unroll
        for (int i = 0; i < SHORT; i++) e[i] = i < size ? kept[first + i][lane] : 0.0f;
        for (u32 j = warp; j < first; j += WARPS) {
            float sum = lines[j][lane];
#pragma unroll
            for (int i = 0; i < SHORT; i++)
                if (i < size) sum = fmaf(work.triangle[triangle_row(first + i) + j], e[i], sum);
            lines[j][lane] = sum;
        }
        __syncthreads();
    }
    store_lines(a.residual + row0, lines, a.width, a.size);
    store_lines(a.minus + row0, kept, a.width, a.size);
}

#define KERNEL extern "C" __global__ void __launch_bounds__(256)
KERNEL gptq_make_up_128(const __grid_constant__ MakeUpArgs a) { make_up_kernel<128>(a); }
KERNEL gptq_make_up_64(const __grid_constant__ MakeUpArgs a) { make_up_kernel<64>(a); }
KERNEL gptq_start_128(const __grid_constant__ StartArgs a) { start_kernel<128>(a); }
KERNEL gptq_start_64(const __grid_constant__ StartArgs a) { start_kernel<64>(a); }
KERNEL gptq_round_128(const __grid_constant__ RoundArgs a) { round_kernel<128>(a, Gptq(a.kind)); }
KERNEL gptq_round_64(const __grid_constant__ RoundArgs a) { round_kernel<64>(a, Gptq(a.kind)); }
KERNEL gptq_choose(const __grid_constant__ ChooseArgs a) { choose_kernel(a, Gptq(a.kind)); }
