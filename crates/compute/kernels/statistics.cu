// What perplexity needs of logits, row by row, as crates/run/src/statistics.rs defines it; and what importance matrices
// need of inputs, column by column.
//
//   extern "C" void statistics_rows(StatisticsArgs)   grid rows, block 512
//   extern "C" void statistics_kl(KlArgs)             grid rows, block 512
//   extern "C" void statistics_columns(ColumnsArgs)   grid ceil(columns / 32), block 1024
#include "reduce.cuh"

// logits [rows] of `vocab`, `stride` apart -> log_sum_exp (f64), the logit of target[row] (where there are targets), the
// index of the largest (lowest index among equals; NaN is passed over). A row with a NaN has a NaN log_sum_exp.
struct StatisticsArgs {
    const float *logits;
    const int *target;
    double *log_sum_exp;
    float *target_logit;
    int *largest;
    i64 stride;
    int rows, vocab;
};

// Kullback-Leibler divergence of each row of `logits` from that of `reference`, f64: sum of p (ln p - ln q).
struct KlArgs {
    const float *reference, *logits;
    double *divergence;
    i64 reference_stride, stride;
    int rows, vocab;
};

// x [rows][columns] -> the sum of each column's squares, f64. Squares are added in f32 over 16 rows, and the sums of these
// in f64, from the first row on: what crates/compute/src/executor/cpu/statistics.rs computes, to the last bit.
struct ColumnsArgs {
    const float *x;
    double *sums;
    int rows, columns;
};

__device__ __forceinline__ float largest_of(const float *x, int vocab) {
    float largest = __int_as_float(0xff800000);
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) largest = fmaxf(largest, x[i]);
    return reduce_block(largest, Larger());
}

// Exponentials in f32, their sum in f64.
__device__ __forceinline__ double log_sum_exp(const float *x, int vocab, float largest) {
    double sum = 0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) sum += (double)expf(x[i] - largest);
    return (double)largest + log(reduce_block(sum, Add()));
}

extern "C" __global__ void __launch_bounds__(512) statistics_rows(const __grid_constant__ StatisticsArgs a) {
    wait_for_earlier_kernels();
    const float *x = a.logits + blockIdx.x * a.stride;
    const float largest = largest_of(x, a.vocab);
    const double sum = log_sum_exp(x, a.vocab, largest);
    int index = 0x7fffffff;
    for (int i = threadIdx.x; i < a.vocab && index == 0x7fffffff; i += blockDim.x)
        if (x[i] == largest) index = i;
    index = reduce_block(index, Smaller());
    if (threadIdx.x == 0) {
        a.log_sum_exp[blockIdx.x] = sum;
        a.largest[blockIdx.x] = index == 0x7fffffff ? 0 : index;
        if (a.target) a.target_logit[blockIdx.x] = x[a.target[blockIdx.x]];
    }
}

extern "C" __global__ void __launch_bounds__(512) statistics_kl(const __grid_constant__ KlArgs a) {
    wait_for_earlier_kernels();
    const float *p = a.reference + blockIdx.x * a.reference_stride, *q = a.logits + blockIdx.x * a.stride;
    const double p_norm = log_sum_exp(p, a.vocab, largest_of(p, a.vocab));
    const double q_norm = log_sum_exp(q, a.vocab, largest_of(q, a.vocab));
    double sum = 0;
    for (int i = threadIdx.x; i < a.vocab; i += blockDim.x) {
        double log_p = (double)p[i] - p_norm, weight = exp(log_p);
        if (weight > 0) sum += weight * (log_p - ((double)q[i] - q_norm));
    }
    sum = reduce_block(sum, Add());
    if (threadIdx.x == 0) a.divergence[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(1024) statistics_columns(const __grid_constant__ ColumnsArgs a) {
    wait_for_earlier_kernels();
    constexpr int RUN = 16, WARPS = 32;
    __shared__ float parts[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    double sum = 0;
    for (i64 first = 0; first < a.rows; first += RUN * WARPS) {
        const i64 begin = first + warp * RUN;
        const float *x = a.x + begin * a.columns + column;
        float part = 0;
        if (column < a.columns) {
            if (begin + RUN <= a.rows) {
#pragma unroll
                for (int i = 0; i < RUN; i++) {
                    float value = x[(i64)i * a.columns];
                    part = __fadd_rn(part, __fmul_rn(value, value));
                }
            } else {
                for (i64 i = begin; i < a.rows; i++, x += a.columns) part = __fadd_rn(part, __fmul_rn(*x, *x));
            }
        }
        parts[warp][lane] = part;
        __syncthreads();
        if (warp == 0)
            for (int w = 0; w < WARPS && first + w * RUN < a.rows; w++) sum = __dadd_rn(sum, (double)parts[w][lane]);
        __syncthreads();  // the parts are read
    }
    if (warp == 0 && column < a.columns) a.sums[column] = sum;
}
