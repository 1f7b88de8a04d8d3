// Clusters of blocks (compute capability 9.0; elsewhere every block is alone): their size, their barrier, and reading the
// shared memory of another block of the cluster.
#pragma once
#include "attention.cuh"

// Blocks of the launch's clusters (1 where there are none), a barrier of theirs, and a block's shared memory.
__device__ __forceinline__ u32 cluster_size() {
    u32 n = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n));
#endif
    return n;
}
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ u32 address_of_block(u32 at, u32 rank) {
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    return there;
}
__device__ __forceinline__ float2 of_block(u32 at, u32 rank, float2) {
    float2 x;
    asm volatile("ld.shared::cluster.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address_of_block(at, rank)));
    return x;
}
__device__ __forceinline__ float4 of_block(u32 at, u32 rank, float4) {
    float4 x;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(address_of_block(at, rank)));
    return x;
}
#else
template <class V> __device__ __forceinline__ V of_block(u32, u32, V v) { return v; }
#endif
