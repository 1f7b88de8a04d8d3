// Gates of mixers, and rows that are taken apart for them. Signatures:
//
//   extern "C" void gates_part(PartArgs)        queries and gates, computed head by head, apart   grid (ceil(width / 1024), n), block 256
//   extern "C" void gates_front(PartArgs)       out[i][j] = x[i][j], rows of other strides         the same
//   extern "C" void gates_sigmoid(GateArgs)     out *= 1 / (1 + e^-gate)                           the same
//   extern "C" void gates_norm(GateArgs)        out = norm(x) * silu(gate)                         grid (n, groups), block 128
//   extern "C" void gates_gated_norm(GateArgs)  out = norm(x * silu(gate))                         the same
//
// Norms are root mean squares of `width` numbers, with a weight. Strides are in numbers. As crates/compute/src/states/gate.rs.
#include "reduce.cuh"

// x [n] rows of `width` numbers: for each head `dim` of its query, then `dim` of its gate, `2 * query` in all, then what
// is copied. out gets the queries and what is copied, gates the gates, rows of `query`.
struct PartArgs {
    const float *x;
    float *out, *gates;
    int n, width, x_stride, out_stride, query, dim;
};

// x, gate and out: rows of `groups * width` numbers, their strides; weight [groups * width], or [width] where
// weight_stride is 0.
struct GateArgs {
    const float *x, *gate, *weight;
    float *out;
    int n, width, x_stride, gate_stride, out_stride, weight_stride;
    float eps;
    int unused;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// f(row, column) for the four columns of a thread.
template <class F> __device__ __forceinline__ void each(int width, F f) {
    wait_for_earlier_kernels();
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int j = blockIdx.x * 1024 + e * 256 + threadIdx.x;
        if (j < width) f((i64)blockIdx.y, j);
    }
}

extern "C" __global__ void __launch_bounds__(256) gates_part(const __grid_constant__ PartArgs a) {
    each(a.width, [&](i64 i, int j) {
        const float x = a.x[i * a.x_stride + j];
        if (j >= 2 * a.query) {
            a.out[i * a.out_stride + j - a.query] = x;
            return;
        }
        const int head = j / (2 * a.dim), e = j % (2 * a.dim);
        if (e < a.dim)
            a.out[i * a.out_stride + head * a.dim + e] = x;
        else
            a.gates[i * a.query + head * a.dim + e - a.dim] = x;
    });
}

extern "C" __global__ void __launch_bounds__(256) gates_front(const __grid_constant__ PartArgs a) {
    each(a.width, [&](i64 i, int j) { a.out[i * a.out_stride + j] = a.x[i * a.x_stride + j]; });
}

extern "C" __global__ void __launch_bounds__(256) gates_sigmoid(const __grid_constant__ GateArgs a) {
    each(a.width, [&](i64 i, int j) { a.out[i * a.out_stride + j] *= sigmoid(a.gate[i * a.gate_stride + j]); });
}

template <bool GATED_FIRST> __device__ __forceinline__ void norm(const GateArgs &a) {
    wait_for_earlier_kernels();
    const i64 i = blockIdx.x;
    const int group = blockIdx.y;
    const float *x = a.x + i * a.x_stride + group * a.width, *gate = a.gate + i * a.gate_stride + group * a.width;
    const float *weight = a.weight + group * a.weight_stride;
    float *out = a.out + i * a.out_stride + group * a.width;
    auto value = [&](int j) {
        const float g = gate[j];
        return GATED_FIRST ? x[j] * (g * sigmoid(g)) : x[j];
    };
    float squares = 0;
    for (int j = threadIdx.x; j < a.width; j += 128) {
        const float v = value(j);
        squares += v * v;
    }
    const float scale = 1.0f / sqrtf(reduce_block(squares, Add()) / a.width + a.eps);
    for (int j = threadIdx.x; j < a.width; j += 128) {
        const float g = gate[j], v = value(j) * scale * weight[j];
        out[j] = GATED_FIRST ? v : v * (g * sigmoid(g));
    }
}

extern "C" __global__ void __launch_bounds__(128) gates_norm(const __grid_constant__ GateArgs a) { norm<false>(a); }
extern "C" __global__ void __launch_bounds__(128) gates_gated_norm(const __grid_constant__ GateArgs a) { norm<true>(a); }
