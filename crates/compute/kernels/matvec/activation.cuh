// Activation functions, as crates/compute/src/ops/gated.rs defines them.
#pragma once
#include "args.cuh"

// Where CLAMPED_SWIGLU cuts values off.
constexpr float SWIGLU_LIMIT = 7.0f;

DEVICE float activate(int activation, float x) {
    if (activation == SILU) return x / (1.0f + expf(-x));
    if (activation == GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (activation == GELU_TANH) return x / (1.0f + expf(-1.5957691f * (x + 0.044715f * x * x * x)));
    if (activation == RELU) return x != x ? x : fmaxf(x, 0.0f);
    if (activation == RELU_SQUARED) return x != x ? x : fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
    if (activation == CLAMPED_SWIGLU) {
        const float cut = x > SWIGLU_LIMIT ? SWIGLU_LIMIT : x;
        return cut / (1.0f + expf(-1.702f * cut));
    }
    return x;
}
// What the gate's result multiplies, of the other matrix's.
DEVICE float activate_other(int activation, float x) {
    if (activation != CLAMPED_SWIGLU) return x;
    return (x > SWIGLU_LIMIT ? SWIGLU_LIMIT : x < -SWIGLU_LIMIT ? -SWIGLU_LIMIT : x) + 1.0f;
}
