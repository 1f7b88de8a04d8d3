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

// Functions to reduce by, with what changes nothing.
struct Add {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
    template <class T> static __device__ __forceinline__ T none() { return T(0); }
};
struct Larger {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
    template <class T> static __device__ __forceinline__ T none() { return __int_as_float(0xff800000); }
};
struct Smaller {
    __device__ __forceinline__ int operator()(int a, int b) const { return a < b ? a : b; }
    template <class T> static __device__ __forceinline__ T none() { return 0x7fffffff; }
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
    x = threadIdx.x % 32 < warps ? parts[threadIdx.x % 32] : F::template none<T>();
    return reduce_warp(x, f);
}
