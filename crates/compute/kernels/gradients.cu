// What gradients need between matrix products, over rows of f32. Signatures, all with blocks of 256 threads:
//
//   extern "C" void gradients_head_norm(HeadNormArgs)       x = norm(x), head by head             grid rows
//   extern "C" void gradients_norm(HeadNormArgs)            d = gradient of x through the norm    grid rows
//   extern "C" void gradients_activate(GateArgs)            gate = act(gate)                      any grid
//   extern "C" void gradients_gate(GateArgs)                gate = act(gate) * up
//   extern "C" void gradients_activated(GateArgs)           gate = d * slope(gate)
//   extern "C" void gradients_gated(GateArgs)               gate, up = d * up * slope(gate), d * act(gate)
//   extern "C" void gradients_rotate(RotateArgs)            rotates pairs of x in place
//   extern "C" void gradients_columns(ColumnsMoveArgs)      to[i][j] = from[i][j]
//   extern "C" void gradients_units(ColumnsMoveArgs)        to[i][j] = j == i + first ? 1 : 0
//   extern "C" void gradients_transpose(ColumnsMoveArgs)    to[j][i] = from[i][j]     grid (ceil(width / 32), ceil(rows / 32))
//
// Norms and functions are those of crates/compute/src/ops (backward.rs); sums are taken in f32.
#include "reduce.cuh"

// kind: 1 RMS, 2 layer norm. Row i has weight i % weights. Without bias.
struct HeadNormArgs {
    float *x;
    const float *weight;
    float *d;
    int dim, weights, kind;
    float eps;
};

// activation: 0 SiLU, 1 GELU (error function), 2 GELU (tanh), 3 ReLU, 5 ReLU squared.
struct GateArgs {
    float *gate, *up;
    const float *d;
    i64 length;
    int activation, unused;
};

// x [rows][heads][dim], cos and sin [rows][pairs]; sign -1 rotates back.
struct RotateArgs {
    float *x;
    const float *cos, *sin;
    int rows, heads, dim, pairs, interleaved;
    float sign;
};

// Rows of `width` numbers, strides in numbers.
struct ColumnsMoveArgs {
    const float *from;
    float *to;
    i64 from_stride, to_stride;
    int rows, width, first, unused;
};

struct Moments {
    float mean, r;
};

__device__ __forceinline__ Moments moments_of(const float *x, const HeadNormArgs &a) {
    float mean = 0, squares = 0;
    if (a.kind == 2) {
        for (int i = threadIdx.x; i < a.dim; i += blockDim.x) mean += x[i];
        mean = reduce_block(mean, Add()) / a.dim;
    }
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
    squares = reduce_block(squares, Add()) / a.dim;
    return {mean, 1.0f / sqrtf(squares + a.eps)};
}

extern "C" __global__ void __launch_bounds__(256) gradients_head_norm(const __grid_constant__ HeadNormArgs a) {
    float *x = a.x + (i64)blockIdx.x * a.dim;
    const float *w = a.weight + (i64)(blockIdx.x % a.weights) * a.dim;
    const Moments m = moments_of(x, a);
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) x[i] = (x[i] - m.mean) * m.r * w[i];
}

extern "C" __global__ void __launch_bounds__(256) gradients_norm(const __grid_constant__ HeadNormArgs a) {
    const float *x = a.x + (i64)blockIdx.x * a.dim;
    float *d = a.d + (i64)blockIdx.x * a.dim;
    const float *w = a.weight + (i64)(blockIdx.x % a.weights) * a.dim;
    const Moments m = moments_of(x, a);
    float whole = 0, along = 0;
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
        whole += d[i] * w[i];
        along += d[i] * w[i] * (x[i] - m.mean);
    }
    along = reduce_block(along, Add()) / a.dim * m.r * m.r;
    whole = reduce_block(whole, Add()) / a.dim;
    if (a.kind != 2) whole = 0;
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) d[i] = m.r * (d[i] * w[i] - whole - (x[i] - m.mean) * along);
}

__device__ __forceinline__ float activated(float x, int kind) {
    switch (kind) {
        case 0: return x / (1.0f + expf(-x));
        case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case 2: return x / (1.0f + expf(-2.0f * 0.7978846f * (x + 0.044715f * x * x * x)));
        case 5: return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
        default: return fmaxf(x, 0.0f);
    }
}

__device__ __forceinline__ float slope(float x, int kind) {
    switch (kind) {
        case 0: {
            const float s = 1.0f / (1.0f + expf(-x));
            return s + x * s * (1.0f - s);
        }
        case 1: return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.3989423f * expf(-0.5f * x * x);
        case 2: {
            const float s = 1.0f / (1.0f + expf(-2.0f * 0.7978846f * (x + 0.044715f * x * x * x)));
            return s + x * s * (1.0f - s) * 2.0f * 0.7978846f * (1.0f + 0.134145f * x * x);
        }
        case 5: return 2.0f * fmaxf(x, 0.0f);
        default: return x > 0.0f ? 1.0f : 0.0f;
    }
}

template <class F> __device__ __forceinline__ void each(i64 length, F f) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (i64)gridDim.x * blockDim.x) f(i);
}

extern "C" __global__ void __launch_bounds__(256) gradients_activate(const __grid_constant__ GateArgs a) {
    each(a.length, [&](i64 i) { a.gate[i] = activated(a.gate[i], a.activation); });
}

extern "C" __global__ void __launch_bounds__(256) gradients_gate(const __grid_constant__ GateArgs a) {
    each(a.length, [&](i64 i) { a.gate[i] = activated(a.gate[i], a.activation) * a.up[i]; });
}

extern "C" __global__ void __launch_bounds__(256) gradients_activated(const __grid_constant__ GateArgs a) {
    each(a.length, [&](i64 i) { a.gate[i] = a.d[i] * slope(a.gate[i], a.activation); });
}

extern "C" __global__ void __launch_bounds__(256) gradients_gated(const __grid_constant__ GateArgs a) {
    each(a.length, [&](i64 i) {
        const float gate = a.gate[i], up = a.up[i], d = a.d[i];
        a.gate[i] = d * up * slope(gate, a.activation);
        a.up[i] = d * activated(gate, a.activation);
    });
}

extern "C" __global__ void __launch_bounds__(256) gradients_rotate(const __grid_constant__ RotateArgs a) {
    const i64 of_row = (i64)a.heads * a.pairs;
    each(a.rows * of_row, [&](i64 i) {
        const i64 row = i / of_row;
        const int head = (int)(i % of_row) / a.pairs, pair = (int)(i % of_row) % a.pairs;
        float *x = a.x + (row * a.heads + head) * a.dim;
        float &first = x[a.interleaved ? 2 * pair : pair], &second = x[a.interleaved ? 2 * pair + 1 : pair + a.pairs];
        const float c = a.cos[row * a.pairs + pair], s = a.sign * a.sin[row * a.pairs + pair];
        const float u = first, v = second;
        first = u * c - v * s;
        second = u * s + v * c;
    });
}

extern "C" __global__ void __launch_bounds__(256) gradients_columns(const __grid_constant__ ColumnsMoveArgs a) {
    each((i64)a.rows * a.width, [&](i64 i) {
        const i64 row = i / a.width, column = i % a.width;
        a.to[row * a.to_stride + column] = a.from[row * a.from_stride + column];
    });
}

extern "C" __global__ void __launch_bounds__(256) gradients_units(const __grid_constant__ ColumnsMoveArgs a) {
    each((i64)a.rows * a.width, [&](i64 i) {
        const i64 row = i / a.width, column = i % a.width;
        a.to[row * a.to_stride + column] = column == row + a.first ? 1.0f : 0.0f;
    });
}

extern "C" __global__ void __launch_bounds__(256) gradients_transpose(const __grid_constant__ ColumnsMoveArgs a) {
    __shared__ float tile[32][33];
    const i64 column = (i64)blockIdx.x * 32, row = (i64)blockIdx.y * 32;
    const int x = threadIdx.x % 32;
    for (int y = threadIdx.x / 32; y < 32; y += 8)
        if (row + y < a.rows && column + x < a.width) tile[y][x] = a.from[(row + y) * a.from_stride + column + x];
    __syncthreads();
    for (int y = threadIdx.x / 32; y < 32; y += 8)
        if (column + y < a.width && row + x < a.rows) a.to[(column + y) * a.to_stride + row + x] = tile[x][y];
}
