// What a matvec launch is given. Mirrored by cuda/formats.rs (MatvecArgs, repr(C)).
#pragma once
#include "../decode.cuh"

enum Prologue { PLAIN = 0, RMS_NORM = 1, LAYER_NORM = 2 };
enum Epilogue { STORE = 0, ADD = 1, GATED = 2 };
enum Activation { NONE = 0, SILU = 1, GELU = 2, GELU_TANH = 3, RELU = 4, CLAMPED_SWIGLU = 5, RELU_SQUARED = 6 };

// Bytes that the next launch reads first: a multiple of 16 of both.
struct Region {
    const u8* address;
    u64 bytes;
};

// 400 bytes; lengths and strides in values.
struct MatvecArgs {
    Matrix m[3];             // all of one format and of as many columns; one for experts and sums, two if GATED (act(m0) * m1)
    const float* bias[3];    // null, or [rows] ([experts][rows])
    const float* x;          // [vectors][x_stride]
    const int* permutation;  // null, or column j of the weights multiplies x[permutation[j]]
    const float* norm_weight;  // [columns], for a norm
    const float* norm_bias;    // null, or [columns], for LAYER_NORM
    float* out;              // [tokens][out_stride]: rows of m0, m1, m2 one after the other; GATED: rows of m0
    const int* expert;       // null, or [slots]: which of the stacked matrices each slot uses
    const float* share;      // null, or [slots]: a factor of each slot's result, biases within; see share_input
    int x_stride;
    int out_stride;
    int matrices;
    int prologue;
    int epilogue;
    int activation;  // of the result before it is stored or added; GATED: of m0's
    int slots;       // with experts: how many; else 1
    int sum_slots;   // 0: every slot has its rows in out, [slots][rows], all from vector 0
                     // 1: slot s multiplies vector s, and out has the sum over the slots, in their order
    int regions;     // of `ahead`
    float eps;
    float x_scale;   // the input is multiplied by this, after the norm (1: not)
    int share_input;  // 1: `share` is a factor of the slot's input, so that biases are not multiplied
    Region ahead[8];  // brought to the second cache at the end (compute_90): parts of the planes of the next launch
};
