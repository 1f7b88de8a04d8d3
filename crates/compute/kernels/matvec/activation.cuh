// Activation functions, as crates/compute/src/ops/gated.rs defines them.
#pragma once
#include "args.cuh"

DEVICE float activate(int activation, float x) {
    if (activation == SILU) return x / (1.0f + expf(-x));
    if (activation == GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (activation == GELU_TANH) return x / (1.0f + expf(-1.5957691f * (x + 0.044715f * x * x * x)));
    if (activation == RELU) return x != x ? x : fmaxf(x, 0.0f);
    return x;
}
