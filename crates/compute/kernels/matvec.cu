// Matrix times one to four vectors, for generation: y = W x, with a norm before it and a bias, an activation, a sum or a
// gate after it. One module for each format (-D FORMAT=Q4_0), named matvec_q4_0.
//
//   void matvec_1(MatvecArgs a) ... matvec_4(MatvecArgs a)     the number is that of tokens
//       block 1024, grid and shared memory from cuda/formats.rs (Format::matvec); on compute_90 with the attribute of
//       programmatic stream serialization, so that its first weights arrive while the kernel before it still runs.
//       Reads activations and writes global memory only after that kernel has ended.
//
//       __launch_bounds__ keep a thread at 64 registers: one block of 32 warps fills a multiprocessor.
//
// matvec/args.cuh has the arguments, prologue.cuh the input in shared memory, walk.cuh the order of rows, stream.cuh the
// main loop. -D UNIT_DEPTH=4: other slices, for trying.
#ifndef UNIT_DEPTH
#define UNIT_DEPTH 0
#endif
#include "matvec/stream.cuh"

#define MATVEC(n)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1024 / THREADS) matvec_##n(const __grid_constant__ MatvecArgs a) { \
        extern __shared__ __align__(128) char shared[];                                                  \
        run<FORMAT, n>(a, shared);                                                                       \
    }

MATVEC(1)
MATVEC(2)
MATVEC(3)
MATVEC(4)
