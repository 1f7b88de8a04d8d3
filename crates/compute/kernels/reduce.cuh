// Sums and maxima over a block. Every thread of the block must take part; every one gets the result.
#pragma once

typedef unsigned int u32;
typedef long long i64;

__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

struct Add {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Larger {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <class T, class F> __device__ __forceinline__ T reduce_warp(T x, F f) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) x = f(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

// Blocks of whole warps.
template <class T, class F> __device__ __forceinline__ T reduce_block(T x, F f) {
    __shared__ T parts[32];
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = reduce_warp(x, f);
    __syncthreads();  // an earlier call's parts are read
    if (threadIdx.x % 32 == 0) parts[warp] = x;
    __syncthreads();
    x = parts[0];
    for (int i = 1; i < warps; i++) x = f(x, parts[i]);
    return x;
}
