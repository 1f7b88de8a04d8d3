// vector_add: out[i] = a[i] + b[i], the smallest kernel. The tests of quern-compute's CUDA layer launch it: arguments,
// memory, graphs and the overlap of launches are tested with it, and nothing else uses it.

struct VectorAdd {
    const float* a;
    const float* b;
    float* out;
    unsigned n;
};

// One thread per value.
extern "C" __global__ void vector_add(const VectorAdd arguments) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < arguments.n) arguments.out[i] = arguments.a[i] + arguments.b[i];
}

// The same with its parameters one by one.
extern "C" __global__ void vector_add_parameters(const float* a, const float* b, float* out, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

// Reads an address that is no one's: ends the context, for the test of a lost card.
extern "C" __global__ void vector_fault(float* out) { *out = *reinterpret_cast<volatile float*>(16ull << 40); }
