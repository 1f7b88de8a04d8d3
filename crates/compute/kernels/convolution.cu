// Causal convolution of each channel by itself, with the state that the tokens before left:
//
//   extern "C" void causal_convolution(ConvolutionArgs)      grid (ceil(channels / 128), ceil(n / 16)), block 128
//
//   y[t] = bias + sum over j of weight[j] * in[t - taps + 1 + j],   in = x, or gate * x
//   out[t - skip] = y, silu(y), or y * after                        for t >= skip
//
// A thread takes a channel through 16 tokens. The state, the inputs of the last taps - 1 tokens, is read and then written
// by the threads of the first 16 alone. As crates/compute/src/states/conv.rs.
#include "reduce.cuh"

constexpr int TILE = 16, MOST_TAPS = 8;

// Rows of x, gate and after are x_stride numbers apart; gate and after are null where there are none.
struct ConvolutionArgs {
    const float *x, *gate, *after;
    const float *weight;  // [taps][channels], the last tap the token's own
    const float *bias;    // [channels], or null
    float *state;         // [taps - 1][channels]
    float *out;
    int n, channels, taps, x_stride, out_stride, skip, silu, unused;
};

extern "C" __global__ void __launch_bounds__(128) causal_convolution(const __grid_constant__ ConvolutionArgs a) {
    wait_for_earlier_kernels();
    const int c = blockIdx.x * 128 + threadIdx.x, first = blockIdx.y * TILE, kept = a.taps - 1;
    if (c >= a.channels) return;
    // The input of a token, or of one before the first: from the state.
    auto input = [&](int t) {
        if (t < 0) return a.state[(i64)(kept + t) * a.channels + c];
        const i64 at = (i64)t * a.x_stride + c;
        return a.gate ? a.x[at] * a.gate[at] : a.x[at];
    };
    // Of the inputs so many tokens back.
    float weight[MOST_TAPS], back[MOST_TAPS];
#pragma unroll
    for (int b = 0; b < MOST_TAPS; b++) {
        weight[b] = b < a.taps ? a.weight[(i64)(kept - b) * a.channels + c] : 0.0f;
        back[b] = b > 0 && b < a.taps ? input(first - b) : 0.0f;
    }
    const float bias = a.bias ? a.bias[c] : 0.0f;
    const int end = min(first + TILE, a.n);
    for (int t = first; t < end; t++) {
        back[0] = input(t);
        float y = bias;
#pragma unroll
        for (int b = 0; b < MOST_TAPS; b++) y += weight[b] * back[b];
#pragma unroll
        for (int b = MOST_TAPS - 1; b > 0; b--) back[b] = back[b - 1];
        if (t < a.skip) continue;
        if (a.silu) y = y / (1.0f + expf(-y));
        if (a.after) y *= a.after[(i64)t * a.x_stride + c];
        a.out[(i64)(t - a.skip) * a.out_stride + c] = y;
    }
    if (blockIdx.y == 0) {
        // In this order nothing is overwritten that is still to be read.
        for (int j = 0; j < kept; j++) a.state[(i64)j * a.channels + c] = input(a.n - kept + j);
    }
}
