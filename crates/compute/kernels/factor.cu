// The Cholesky factor of a symmetric matrix from its last column on, with the steps of the CPU (src/gram/factor.rs), bit for bit:
// a = U U^T, U^T in the lower triangle. Blocks of 128 rows, the last one first, each in three launches.
//
//   extern "C" void factor_square(FactorArgs)     grid 1, block 1024: the block's own square
//   extern "C" void factor_solve(FactorArgs)      grid ceil(start / 32), block 32, dynamic shared memory 49.2 KiB:
//                                                 what is to its left
//   extern "C" void factor_update(ProductsArgs)   grid tiles * tiles (of 128 x 128), block 256: all rows above
//
// Around it:
//
//   extern "C" void factor_arrange(ArrangeArgs)   grid (n, ceil(n / 256)), block 256: rows and columns in an order
//   extern "C" void factor_mirror(MirrorArgs)     grid (tiles, tiles) (of 32 x 32), block 256: lower triangle to the upper one
//   extern "C" void factor_pieces(PiecesArgs)     grid (pieces, 8), block 256: squares on the diagonal
//   extern "C" void factor_diagonal(DiagonalArgs) grid ceil(n / 256), block 256
//   extern "C" void factor_check(CheckArgs)       grid n, block 256: the first number that is not finite
#include "products_f32.cuh"

constexpr u32 BLOCK = 128, NONE = 0xffffffffu;

// Mirrored by cuda/sums_args.rs, as the others here; passed by value.
struct FactorArgs {
    float* a;    // [n][n]
    u32* stop;   // the first bad pivot; NONE so far
    u32 n;
    u32 start, end;  // the block's rows
    float least;
    float* square;   // the block's own square, packed: PACKED numbers
};

// The lower triangle of a square, rows filled up to whole fours: where row j begins.
DEVICE u32 packed_row(u32 j) { return 4 * (j / 4 + 1) * (2 * (j / 4) + j % 4); }
constexpr u32 PACKED = 4 * 33 * 64;

// A thread has numbers of rows warp + 32 r and columns lane + 32 c. Each step needs one row of the square, which the warp
// that has it divides and puts into shared memory.
extern "C" __global__ void __launch_bounds__(1024, 1) factor_square(const __grid_constant__ FactorArgs f) {
    __shared__ float line[2][BLOCK];
    __shared__ u32 bad;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, size = f.end - f.start;
    launch_next();
    wait_for_previous();
    if (*f.stop != NONE) return;
    if (threadIdx.x == 0) bad = NONE;
    float x[4][4];
#pragma unroll
    for (u32 r = 0; r < 4; r++)
#pragma unroll
        for (u32 c = 0; c < 4; c++) {
            const u32 i = warp + 32 * r, k = lane + 32 * c;
            x[r][c] = i < size && k <= i ? f.a[(u64)(f.start + i) * f.n + f.start + k] : 0.0f;
        }
    __syncthreads();
#pragma unroll
    for (int q = 3; q >= 0; q--) {
        for (int w = 31; w >= 0; w--) {
            const u32 j = 32 * q + w;
            if (j >= size) continue;
            if (warp == w) {
                const float pivot = __shfl_sync(NONE, x[q][q], w);  // row j, column j = w + 32 q
                if (!(pivot > f.least && pivot < __int_as_float(0x7f800000))) {
                    if (lane == 0) bad = j;
                }
                const float root = __fsqrt_rn(pivot);
#pragma unroll
                for (u32 c = 0; c < 4; c++) {
                    const u32 k = lane + 32 * c;
                    if (k < j) x[q][c] = __fdiv_rn(x[q][c], root);
                    if (k == j) x[q][c] = root;
                    line[j % 2][k] = x[q][c];
                }
            }
            __syncthreads();
            if (bad != NONE) {
                if (threadIdx.x == 0) *f.stop = f.start + bad;
                return;
            }
            float y[4];
#pragma unroll
            for (u32 c = 0; c < 4; c++) y[c] = line[j % 2][lane + 32 * c];
#pragma unroll
            for (u32 r = 0; r <= q; r++) {
                const u32 i = warp + 32 * r;
                if (i >= j) continue;
                const float factor = line[j % 2][i];
                // Columns behind the diagonal are computed as well, and not stored.
#pragma unroll
                for (u32 c = 0; c <= r; c++) x[r][c] = __fsub_rn(x[r][c], __fmul_rn(factor, y[c]));
            }
        }
    }
#pragma unroll
    for (u32 r = 0; r < 4; r++)
#pragma unroll
        for (u32 c = 0; c < 4; c++) {
            const u32 i = warp + 32 * r, k = lane + 32 * c;
            if (i < size && k <= i) f.a[(u64)(f.start + i) * f.n + f.start + k] = x[r][c];
            if (k / 4 <= i / 4) f.square[packed_row(i) + k] = x[r][c];
        }
}

// A thread solves one column, sixteen rows at a time in registers: what rows below pass on, in their order, the last row first.
constexpr u32 COLUMNS = 32, ROWS = 16;

extern "C" __global__ void __launch_bounds__(COLUMNS) factor_solve(const __grid_constant__ FactorArgs f) {
    extern __shared__ __align__(16) float memory[];
    float* square = memory;                                          // packed
    float (*solved)[COLUMNS] = (float (*)[COLUMNS])(memory + PACKED);  // [row][thread]
    const int size = f.end - f.start;
    const u32 column = blockIdx.x * COLUMNS + threadIdx.x;
    launch_next();
    wait_for_previous();
    if (*f.stop != NONE) return;
#pragma unroll 11
    for (u32 at = threadIdx.x; at < PACKED / 4; at += COLUMNS) ((float4*)square)[at] = ((const float4*)f.square)[at];
    __syncthreads();
    if (column >= f.start) return;
    float* own = f.a + (u64)f.start * f.n + column;
    for (int first = (size - 1) / ROWS * ROWS; first >= 0; first -= ROWS) {
        float x[ROWS];
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) x[i] = first + i < size ? own[(u64)(first + i) * f.n] : 0.0f;
        for (int j = size - 1; j >= first + (int)ROWS; j--) {
            const float y = solved[j][threadIdx.x];
            const float* line = square + packed_row(j) + first;
#pragma unroll
            for (u32 i = 0; i < ROWS; i += 4) {
                const float4 factor = *(const float4*)&line[i];
                x[i] = __fsub_rn(x[i], __fmul_rn(factor.x, y));
                x[i + 1] = __fsub_rn(x[i + 1], __fmul_rn(factor.y, y));
                x[i + 2] = __fsub_rn(x[i + 2], __fmul_rn(factor.z, y));
                x[i + 3] = __fsub_rn(x[i + 3], __fmul_rn(factor.w, y));
            }
        }
#pragma unroll
        for (int j = ROWS - 1; j >= 0; j--) {
            if (first + j >= size) continue;
            const float* line = square + packed_row(first + j) + first;
            x[j] = __fdiv_rn(x[j], line[j]);
#pragma unroll
            for (u32 i = 0; i < j; i++) x[i] = __fsub_rn(x[i], __fmul_rn(line[i], x[j]));
            solved[first + j][threadIdx.x] = x[j];
            own[(u64)(first + j) * f.n] = x[j];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) factor_update(const __grid_constant__ ProductsArgs a) {
    __shared__ ProductsShared shared;
    launch_next();
    wait_for_previous();
    if (*a.stop != NONE) return;
    products_f32(a, shared);
}

// out[i][j] = sum[order[i]][order[j]], of which the lower triangle is there; diagonal[i] on the diagonal.
struct ArrangeArgs {
    const float* sum;
    const u32* order;
    const float* diagonal;
    float* out;
    u32 n;
};

extern "C" __global__ void __launch_bounds__(256) factor_arrange(const __grid_constant__ ArrangeArgs a) {
    wait_for_previous();
    const u32 i = blockIdx.x, j = blockIdx.y * 256 + threadIdx.x;
    if (j >= a.n) return;
    const u32 row = a.order[i], column = a.order[j];
    a.out[(u64)i * a.n + j] = i == j ? a.diagonal[i] : a.sum[(u64)max(row, column) * a.n + min(row, column)];
}

struct MirrorArgs {
    float* a;  // [n][n]
    u32 n;
};

extern "C" __global__ void __launch_bounds__(256) factor_mirror(const __grid_constant__ MirrorArgs m) {
    __shared__ float tile[32][33];
    wait_for_previous();
    const u32 row = 32 * blockIdx.y, column = 32 * blockIdx.x, x = threadIdx.x % 32, y = threadIdx.x / 32;
    if (column > row) return;
    for (u32 i = y; i < 32; i += 8)
        if (row + i < m.n && column + x < m.n) tile[i][x] = m.a[(u64)(row + i) * m.n + column + x];
    __syncthreads();
    for (u32 i = y; i < 32; i += 8)
        if (column + i < m.n && row + x < m.n && column + i < row + x) m.a[(u64)(column + i) * m.n + row + x] = tile[x][i];
}

// Squares on the diagonal, from the upper triangle; `diagonal` on the diagonal.
struct Piece {
    u64 at;  // where the square begins in `values`
    u32 start, size;
};
struct PiecesArgs {
    const float* a;  // [n][n]
    const float* diagonal;
    const Piece* pieces;
    float* values;
    u32 n;
};

extern "C" __global__ void __launch_bounds__(256) factor_pieces(const __grid_constant__ PiecesArgs a) {
    wait_for_previous();
    const Piece piece = a.pieces[blockIdx.x];
    for (u32 at = blockIdx.y * 256 + threadIdx.x; at < piece.size * piece.size; at += 256 * gridDim.y) {
        const u32 i = piece.start + at / piece.size, j = piece.start + at % piece.size;
        a.values[piece.at + at] = i == j ? a.diagonal[i] : a.a[(u64)min(i, j) * a.n + max(i, j)];
    }
}

struct DiagonalArgs {
    const float* a;  // [n][n]
    float* out;
    u32 n;
};

extern "C" __global__ void __launch_bounds__(256) factor_diagonal(const __grid_constant__ DiagonalArgs a) {
    wait_for_previous();
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i < a.n) a.out[i] = a.a[(u64)i * a.n + i];
}

// The least place i * n + j, j <= i, whose number is infinite or none. `first` is ~0 before.
struct CheckArgs {
    const float* a;  // [n][n]
    u64* first;
    u32 n;
};

extern "C" __global__ void __launch_bounds__(256) factor_check(const __grid_constant__ CheckArgs a) {
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * a.n;
    for (u32 j = threadIdx.x; j <= blockIdx.x; j += 256)
        if (!(fabsf(a.a[row + j]) < __int_as_float(0x7f800000))) {
            atomicMin((unsigned long long*)a.first, row + j);
            break;
        }
}

// to += from
struct AddArgs {
    float* to;
    const float* from;
    u64 length;
};

//   extern "C" void sums_add(AddArgs)    grid up to ceil(length / 256), block 256
extern "C" __global__ void __launch_bounds__(256) sums_add(const __grid_constant__ AddArgs a) {
    wait_for_previous();
    for (u64 i = blockIdx.x * 256ull + threadIdx.x; i < a.length; i += 256ull * gridDim.x) a.to[i] += a.from[i];
}
