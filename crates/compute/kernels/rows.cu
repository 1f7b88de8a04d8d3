// What happens to rows of f32 between the linear layers. Signatures:
//
//   extern "C" void rows_norm(NormArgs)           out = norm(x); out may be x               grid n, block 1024
//   extern "C" void rows_add_norm(AddNormArgs)    y = norm_y(y); x += y; out = norm(x)      grid n, block 1024
//   extern "C" void rows_add(MapArgs)             x += y                                    grid (ceil(width / 1024), n), block 256
//   extern "C" void rows_activate(MapArgs)        x = act(x)
//   extern "C" void rows_activate_mul(MapArgs)    x = act(y) * z; x may be y
//   extern "C" void rows_softcap(MapArgs)         x = value * tanh(x / value)
//   extern "C" void rows_permute(MapArgs)         x[i][j] = y[i][order[j]]
//   extern "C" void rows_xielu(XieluArgs)         x = xielu(x)                              likewise
//
// Gate and up in one matrix: y = matrix, z = matrix + width, both with stride 2 * width. Strides are in numbers. Norms
// and functions are those of crates/compute/src/ops; sums are taken in f32.
#include "reduce.cuh"
#include <cuda_fp16.h>

// kind: 1 RMS, 2 layer norm. Rows of `width`, `stride` apart in x, `out_stride` in out. heads (rows_head_norm): rows
// n * heads, head h of row i at x + i * stride + h * width, its weight at weight + h * weight_stride.
struct NormArgs {
    const float *x, *weight, *bias;
    float *out;
    int n, width, stride, out_stride, kind, heads, weight_stride;
    float eps;
};

// x [n][width] += y [n][width], y normalised first where y_weight is given; then, where weight is given, out = norm of
// the sum (out may be x: the sum itself is then not kept).
struct AddNormArgs {
    float *x, *y;
    const float *y_weight, *y_bias, *weight, *bias;
    float *out;
    int n, width, kind;
    float eps;
};

// activation: 0 SiLU, 1 GELU (error function), 2 GELU (tanh), 3 ReLU, 4 the clamped SwiGLU, 5 ReLU squared.
struct MapArgs {
    void *x;
    const void *y, *z;
    const int *order;
    int n, width, x_stride, y_stride, z_stride, activation;
    float value;
    int unused;
};

// x [n][width]. As crates/compute/src/ops/xielu.rs.
struct XieluArgs {
    float *x;
    int n, width;
    float positive, negative, beta, eps;
};

// Mean (0 for RMS) and 1 / deviation of a row that `at` reads.
template <class F> __device__ __forceinline__ float2 moments(int width, int kind, float eps, F at) {
    float mean = 0;
    if (kind == 2) {
        for (int i = threadIdx.x; i < width; i += blockDim.x) mean += at(i);
        mean = reduce_block(mean, Add()) / width;
    }
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float d = at(i) - mean;
        squares += d * d;
    }
    return make_float2(mean, 1.0f / sqrtf(reduce_block(squares, Add()) / width + eps));
}

// A block's share of a row stays in registers up to this many numbers.
constexpr int THREADS = 1024, KEPT = 8192 / THREADS;

// Reads a row once if it fits in registers: `at(i, slot)` gives number i, the thread's slot-th.
template <class F> __device__ __forceinline__ float2 load_row(float (&kept)[KEPT], int width, int kind, float eps, F read) {
    if (width <= KEPT * THREADS) {
        float mean = 0, squares = 0;
#pragma unroll
        for (int s = 0; s < KEPT; s++) {
            int i = threadIdx.x + s * THREADS;
            kept[s] = i < width ? read(i) : 0.0f;
        }
        if (kind == 2) {
#pragma unroll
            for (int s = 0; s < KEPT; s++) mean += kept[s];
            mean = reduce_block(mean, Add()) / width;
        }
#pragma unroll
        for (int s = 0; s < KEPT; s++) {
            float d = kept[s] - mean;
            squares += (int)threadIdx.x + s * THREADS < width ? d * d : 0.0f;
        }
        return make_float2(mean, 1.0f / sqrtf(reduce_block(squares, Add()) / width + eps));
    }
    return moments(width, kind, eps, read);
}
// Writes f(number i, i) for the row that load_row took.
template <class R, class F> __device__ __forceinline__ void each_of_row(const float (&kept)[KEPT], int width, R read, F f) {
    if (width <= KEPT * THREADS) {
#pragma unroll
        for (int s = 0; s < KEPT; s++) {
            int i = threadIdx.x + s * THREADS;
            if (i < width) f(kept[s], i);
        }
        return;
    }
    for (int i = threadIdx.x; i < width; i += THREADS) f(read(i), i);
}

__device__ __forceinline__ float normed(float x, float2 m, const float *weight, const float *bias, int i) {
    float y = (x - m.x) * m.y * weight[i];
    return bias ? y + bias[i] : y;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) rows_norm(const __grid_constant__ NormArgs a) {
    wait_for_earlier_kernels();
    const float *x = a.x + (i64)blockIdx.x * a.stride;
    float *out = a.out + (i64)blockIdx.x * a.out_stride;
    float kept[KEPT];
    auto read = [&](int i) { return x[i]; };
    float2 m = load_row(kept, a.width, a.kind, a.eps, read);
    each_of_row(kept, a.width, read, [&](float v, int i) { out[i] = normed(v, m, a.weight, a.bias, i); });
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) rows_add_norm(const __grid_constant__ AddNormArgs a) {
    wait_for_earlier_kernels();
    float *x = a.x + (i64)blockIdx.x * a.width, *y = a.y + (i64)blockIdx.x * a.width;
    float kept[KEPT];
    auto read_y = [&](int i) { return y[i]; };
    if (a.y_weight) {
        float2 m = load_row(kept, a.width, a.kind, a.eps, read_y);
        each_of_row(kept, a.width, read_y, [&](float v, int i) { y[i] = normed(v, m, a.y_weight, a.y_bias, i); });
    }
    // Each thread reads what it wrote itself.
    if (!a.weight) {
        for (int i = threadIdx.x; i < a.width; i += THREADS) x[i] += y[i];
        return;
    }
    float *out = a.out + (i64)blockIdx.x * a.width;
    const bool keep = a.out != a.x;
    auto read = [&](int i) { return x[i] + y[i]; };
    float2 m = load_row(kept, a.width, a.kind, a.eps, read);
    each_of_row(kept, a.width, read, [&](float v, int i) {
        if (keep) x[i] = v;
        out[i] = normed(v, m, a.weight, a.bias, i);
    });
}

// The number of the clamped SwiGLU, and where it cuts values off; that of the square of ReLU.
constexpr int CLAMPED_SWIGLU = 4, RELU_SQUARED = 5;
constexpr float SWIGLU_LIMIT = 7.0f;

__device__ __forceinline__ float activated(float x, int kind) {
    switch (kind) {
        case 0: return x / (1.0f + expf(-x));
        case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case 2: return x / (1.0f + expf(-2.0f * 0.7978846f * (x + 0.044715f * x * x * x)));
        case CLAMPED_SWIGLU: {
            const float cut = x > SWIGLU_LIMIT ? SWIGLU_LIMIT : x;
            return cut / (1.0f + expf(-1.702f * cut));
        }
        case RELU_SQUARED: return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
        default: return fmaxf(x, 0.0f);
    }
}
// What an activated gate multiplies.
__device__ __forceinline__ float activated_other(float x, int kind) {
    if (kind != CLAMPED_SWIGLU) return x;
    return (x > SWIGLU_LIMIT ? SWIGLU_LIMIT : x < -SWIGLU_LIMIT ? -SWIGLU_LIMIT : x) + 1.0f;
}

// f(row, column) for the four columns of a thread, neighbours in a warp side by side.
template <class F> __device__ __forceinline__ void each(int width, F f) {
    wait_for_earlier_kernels();
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int j = blockIdx.x * 1024 + e * 256 + threadIdx.x;
        if (j < width) f((i64)blockIdx.y, j);
    }
}
#define MAP(NAME, X, Y, BODY)                                                               \
    extern "C" __global__ void __launch_bounds__(256) rows_##NAME(const __grid_constant__ MapArgs a) { \
        X *x = (X *)a.x;                                                                    \
        [[maybe_unused]] const Y *y = (const Y *)a.y;                                       \
        each(a.width, [&](i64 i, int j) {                                                   \
            X &to = x[i * a.x_stride + j];                                                  \
            BODY;                                                                           \
        });                                                                                 \
    }
MAP(add, float, float, to += y[i * a.y_stride + j])
MAP(activate, float, float, to = activated(to, a.activation))
MAP(activate_mul, float, float, to = activated(y[i * a.y_stride + j], a.activation) *
                                          activated_other(((const float *)a.z)[i * a.z_stride + j], a.activation))
MAP(softcap, float, float, to = a.value * (1.0f - 2.0f / (1.0f + expf(2.0f * to / a.value))))
MAP(permute, float, float, to = y[i * a.y_stride + a.order[j]])

extern "C" __global__ void __launch_bounds__(256) rows_xielu(const __grid_constant__ XieluArgs a) {
    each(a.width, [&](i64 i, int j) {
        float &to = a.x[i * a.width + j];
        const float x = to;
        to = x > 0.0f ? a.positive * x * x + a.beta * x : (expm1f(fminf(x, a.eps)) - x) * a.negative + a.beta * x;
    });
}
