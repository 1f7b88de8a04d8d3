// y[token][row] = x W^T with f32 weights, in f32 multiply-adds (no tensor cores: their f32 mode keeps 10 bits).
//
//   extern "C" __global__ void matmul_f32_n64(MatmulF32Args)    grid (ceil(rows / 64), ceil(n / 64)), block 256
//   extern "C" __global__ void matmul_f32_n16(MatmulF32Args)    grid (ceil(rows / 64), ceil(n / 16)), block 256
//
// A block does 64 rows x N tokens, a thread 4 rows x N / 16 tokens; 16 columns at a time go through shared memory, the next
// 16 are loaded meanwhile. Every sum runs over the columns in order.
#include "common.cuh"

// Mirrored by cuda/matmul_args.rs; passed by value.
struct MatmulF32Args {
    const float* weights;  // [rows][columns]
    const float* x;        // [n][x_stride]
    float* out;            // [n][out_stride]
    const float* bias;     // [rows], or null
    u32 rows, columns, n, x_stride, out_stride;
    u32 add;               // 1: add to what is in `out`
};

constexpr int ROWS = 64, COLUMNS = 16, PAD = 4;

// Four values of a row from column `at`; zeros outside.
DEVICE float4 four(const float* row, bool inside, u32 at, u32 columns) {
    if (!inside) return make_float4(0, 0, 0, 0);
    const float* p = row + at;
    if (at + 4 <= columns && (u64)p % 16 == 0) return __ldg((const float4*)p);
    return make_float4(at < columns ? __ldg(p) : 0.0f, at + 1 < columns ? __ldg(p + 1) : 0.0f,
                       at + 2 < columns ? __ldg(p + 2) : 0.0f, at + 3 < columns ? __ldg(p + 3) : 0.0f);
}
template <int WIDTH>
DEVICE void put(float (&tile)[COLUMNS][WIDTH], u32 column, u32 at, const float4& v) {
    tile[column][at] = v.x;
    tile[column + 1][at] = v.y;
    tile[column + 2][at] = v.z;
    tile[column + 3][at] = v.w;
}

template <int N>
DEVICE void matmul_f32(const MatmulF32Args& a) {
    constexpr int TOKENS = N / 16;
    __shared__ float w[2][COLUMNS][ROWS + PAD], x[2][COLUMNS][N + PAD];
    const u32 row0 = blockIdx.x * ROWS, token0 = blockIdx.y * N;
    // Which values this thread loads: row or token thread / 4, columns 4 (thread % 4) and on.
    const u32 line = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
    const bool row_inside = row0 + line < a.rows, token_inside = line < N && token0 + line < a.n;
    const float* w_row = a.weights + (u64)(row0 + line) * a.columns;
    const float* x_row = a.x + (u64)(token0 + line) * a.x_stride;
    const u32 r = threadIdx.x % 16, t = threadIdx.x / 16;
    float d[TOKENS][4] = {};

    launch_next();
    wait_for_previous();
    float4 next_w = four(w_row, row_inside, column, a.columns), next_x = four(x_row, token_inside, column, a.columns);
    u32 buffer = 0;
    for (u32 at = 0; at < a.columns; at += COLUMNS) {
        put(w[buffer], column, line, next_w);
        if (line < N) put(x[buffer], column, line, next_x);
        __syncthreads();
        if (at + COLUMNS < a.columns) {
            next_w = four(w_row, row_inside, at + COLUMNS + column, a.columns);
            next_x = four(x_row, token_inside, at + COLUMNS + column, a.columns);
        }
#pragma unroll
        for (int k = 0; k < COLUMNS; k++) {
            const float4 v = *(const float4*)&w[buffer][k][4 * r];
#pragma unroll
            for (int i = 0; i < TOKENS; i++) {
                const float s = x[buffer][k][t * TOKENS + i];
                d[i][0] = fmaf(v.x, s, d[i][0]);
                d[i][1] = fmaf(v.y, s, d[i][1]);
                d[i][2] = fmaf(v.z, s, d[i][2]);
                d[i][3] = fmaf(v.w, s, d[i][3]);
            }
        }
        buffer ^= 1;  // the other one was last read before the barrier above
    }
#pragma unroll
    for (int i = 0; i < TOKENS; i++) {
        const u32 token = token0 + t * TOKENS + i;
        if (token >= a.n) continue;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const u32 row = row0 + 4 * r + k;
            if (row >= a.rows) continue;
            float* p = a.out + (u64)token * a.out_stride + row;
            const float v = a.bias == nullptr ? d[i][k] : d[i][k] + __ldg(a.bias + row);
            *p = a.add ? *p + v : v;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) matmul_f32_n64(MatmulF32Args a) { matmul_f32<64>(a); }
extern "C" __global__ void __launch_bounds__(256) matmul_f32_n16(MatmulF32Args a) { matmul_f32<16>(a); }
