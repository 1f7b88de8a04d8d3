// Between rows of weights, as files have them, and the layout of the column loop: [position in the order][row].
//
//   extern "C" void gptq_take_rows(TakeRowsArgs)   grid (ceil(columns / 32), ceil(rows / 32)), block 256
//   extern "C" void gptq_codes(CodesArgs)          grid (ceil(columns / 128), ceil(rows / 32)), block 256
//   extern "C" void gptq_losses(LossesArgs)        grid (width / 32), block 256
#include "gptq.cuh"

// Mirrored by cuda/column_loop/args.rs; passed by value.
struct TakeRowsArgs {
    const float* from;      // [rows][columns]
    float* to;              // [columns][width], of row `first` on
    const u32* places;      // the position of each column
    const float* alive;     // by position: columns with 0 become 0
    u32 rows, columns, width, first;
};
struct CodesArgs {
    const float* levels;    // [columns][width]
    const float* lows;      // [groups][width]
    const u32* places;      // the position of each column
    const u32* group;       // the group of each column
    u8* codes;              // [rows][columns]
    u32 rows, columns, width;
    float shift;            // added instead of the lows, where those are null
};
struct LossesArgs {
    const float* residual;  // [columns][width]
    double* losses;         // [width]
    u32 columns, width;
};

extern "C" __global__ void __launch_bounds__(256) gptq_take_rows(const __grid_constant__ TakeRowsArgs a) {
    __shared__ float tile[32][33];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 column0 = blockIdx.x * 32, row0 = blockIdx.y * 32;
    for (u32 r = warp; r < 32; r += 8)
        if (row0 + r < a.rows && column0 + lane < a.columns)
            tile[r][lane] = a.from[(u64)(row0 + r) * a.columns + column0 + lane];
    __syncthreads();
    for (u32 c = warp; c < 32 && column0 + c < a.columns; c += 8) {
        const u32 place = a.places[column0 + c];
        if (row0 + lane < a.rows)
            a.to[(u64)place * a.width + a.first + row0 + lane] = a.alive[place] > 0.0f ? tile[lane][c] : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256) gptq_codes(const __grid_constant__ CodesArgs a) {
    __shared__ __align__(4) u8 tile[32][128 + 4];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 column0 = blockIdx.x * 128, row = blockIdx.y * 32 + lane;
    for (u32 c = warp; c < 128 && column0 + c < a.columns; c += 8) {
        const u32 column = column0 + c;
        const float level = a.levels[(u64)a.places[column] * a.width + row];
        const float zero = a.lows ? 0.0f - a.lows[(u64)a.group[column] * a.width + row] : a.shift;
        tile[lane][c] = (u8)(int)fminf(fmaxf(level + zero, 0.0f), 255.0f);
    }
    __syncthreads();
    for (u32 r = warp; r < 32 && blockIdx.y * 32 + r < a.rows; r += 8) {
        u8* to = a.codes + (u64)(blockIdx.y * 32 + r) * a.columns + column0;
        const u32 count = min(128u, a.columns - column0), at = 4 * lane;
        if (a.columns % 4 == 0) {
            if (at < count) *(u32*)(to + at) = *(const u32*)&tile[r][at];
        } else {
            for (u32 i = at; i < min(at + 4, count); i++) to[i] = tile[r][i];
        }
    }
}

// Half the square of each row's residual: eight runs of positions, added in order.
extern "C" __global__ void __launch_bounds__(256) gptq_losses(const __grid_constant__ LossesArgs a) {
    __shared__ double parts[WARPS][LINE];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * LINE + lane;
    const u32 run = (a.columns + WARPS - 1) / WARPS, end = min(a.columns, (warp + 1) * run);
    double sum = 0;
#pragma unroll 8
    for (u32 j = warp * run; j < end; j++) {
        const double r = a.residual[(u64)j * a.width + row];
        sum += 0.5 * r * r;
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0) {
        for (int w = 1; w < WARPS; w++) sum += parts[w][lane];
        a.losses[row] = sum;
    }
}
