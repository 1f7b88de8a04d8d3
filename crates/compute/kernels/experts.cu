// A mixture of experts: the router's choice, and moving rows to and from the experts. As crates/run/src/forward/experts.rs.
//
//   extern "C" void experts_route(RouteArgs)      grid n, block 32
//   extern "C" void experts_group(GroupArgs)      grid 1, block 1024; dynamic shared memory 8 * experts bytes
//   extern "C" void experts_gather(MoveArgs)      rows = x of their tokens         grid (ceil(width / 1024), rows), block 256
//   extern "C" void experts_scatter(MoveArgs)     x of a token += share * row      likewise; one expert's rows in a launch
//   extern "C" void experts_combine(MoveArgs)     x of a token = sum of share * row over its choices, by expert number;
//                                                 grid (ceil(width / 1024), n), block 256
//
// Rows of all experts together are in slots: those of expert 0 first, within an expert by token.
#include "reduce.cuh"

// logits [n][count], not changed -> expert, share [n][used], by expert number. The `used` largest probabilities are
// chosen, of equal ones the lowest number; normalized: shares are made to sum to 1, summed from the largest down.
struct RouteArgs {
    const float *logits;
    int *expert;
    float *share;
    int n, count, used, normalized;
};

// expert, share [n][used] -> first [count + 1]: slots of expert e are first[e]..first[e + 1]; token and slot_share
// [n * used] of each slot; slot [n][used] of each choice.
struct GroupArgs {
    const int *expert;
    const float *share;
    int *first, *token, *slot;
    float *slot_share;
    int n, count, used, unused;
};

// rows [slots][width] from slot `from` on (a pointer into it is as good: from 0). token, share: of the slots from
// `from` on. expert-wise kernels use token and share; combine uses slot and share [n][used].
struct MoveArgs {
    float *x, *rows;
    const int *token, *slot;
    const float *share;
    int width, used, unused_0, unused_1;
};

// A number that grows with x as Rust's total_cmp does, 32 bits.
__device__ __forceinline__ u32 ordered(float x) {
    u32 b = __float_as_uint(x);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

extern "C" __global__ void __launch_bounds__(32) experts_route(const __grid_constant__ RouteArgs a) {
    wait_for_earlier_kernels();
    constexpr int MOST = 32;  // experts a lane holds: 1024 in all
    const int lane = threadIdx.x, token = blockIdx.x;
    const float *row = a.logits + (i64)token * a.count;
    int *expert = a.expert + token * a.used;
    float *share = a.share + token * a.used;
    float largest = __int_as_float(0xff800000), sum = 0;
    for (int i = lane; i < a.count; i += 32) largest = fmaxf(largest, row[i]);
    largest = reduce_warp(largest, Larger());
    for (int i = lane; i < a.count; i += 32) sum += expf(row[i] - largest);
    const float inverse = 1.0f / reduce_warp(sum, Add());
    u32 taken = 0;  // bit i: expert lane + 32 i
    float total = 0;
    for (int k = 0; k < a.used; k++) {
        // The largest left, of equals the lowest number: both in one 64-bit key.
        unsigned long long best = 0;
        for (int i = 0; i < MOST && lane + 32 * i < a.count; i++) {
            if (taken >> i & 1) continue;
            int e = lane + 32 * i;
            u32 p = ordered(expf(row[e] - largest) * inverse);
            unsigned long long key = (unsigned long long)p << 32 | (u32)(0x7fffffff - e);
            best = key > best ? key : best;
        }
#pragma unroll
        for (int i = 16; i > 0; i >>= 1) {
            unsigned long long other = __shfl_xor_sync(0xffffffffu, best, i);
            best = other > best ? other : best;
        }
        int e = 0x7fffffff - (int)(u32)best;
        if (e % 32 == lane) taken |= 1u << (e / 32);
        total += expf(row[e] - largest) * inverse;
    }
    // In the order of the experts' numbers.
    int before = 0;
    for (int i = 0; i < MOST && 32 * i < a.count; i++) {
        u32 chosen = __ballot_sync(0xffffffffu, taken >> i & 1);
        if (taken >> i & 1) {
            int at = before + __popc(chosen & ((1u << lane) - 1)), e = lane + 32 * i;
            float p = expf(row[e] - largest) * inverse;
            expert[at] = e;
            share[at] = a.normalized ? p / total : p;
        }
        before += __popc(chosen);
    }
}

extern "C" __global__ void __launch_bounds__(1024) experts_group(const __grid_constant__ GroupArgs a) {
    wait_for_earlier_kernels();
    extern __shared__ int counts[];  // [count], then where each begins [count]
    int *begins = counts + a.count;
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32, all = a.n * a.used;
    for (int e = warp; e < a.count; e += warps) {
        int count = 0;
        for (int i = 0; i < all; i += 32) count += __popc(__ballot_sync(0xffffffffu, i + lane < all && a.expert[i + lane] == e));
        if (lane == 0) counts[e] = count;
    }
    __syncthreads();
    if (warp == 0) {
        int sum = 0;
        for (int i = 0; i < a.count; i += 32) {
            int own = i + lane < a.count ? counts[i + lane] : 0, up_to = own;
#pragma unroll
            for (int d = 1; d < 32; d <<= 1) {
                int other = __shfl_up_sync(0xffffffffu, up_to, d);
                if (lane >= d) up_to += other;
            }
            if (i + lane < a.count) begins[i + lane] = a.first[i + lane] = sum + up_to - own;
            sum += __shfl_sync(0xffffffffu, up_to, 31);
        }
        if (lane == 0) a.first[a.count] = sum;
    }
    __syncthreads();
    for (int e = warp; e < a.count; e += warps) {
        int at = begins[e];
        if (counts[e] == 0) continue;
        for (int i = 0; i < all; i += 32) {
            bool mine = i + lane < all && a.expert[i + lane] == e;
            u32 chosen = __ballot_sync(0xffffffffu, mine);
            if (mine) {
                int to = at + __popc(chosen & ((1u << lane) - 1));
                a.token[to] = (i + lane) / a.used;
                a.slot_share[to] = a.share[i + lane];
                a.slot[i + lane] = to;
            }
            at += __popc(chosen);
        }
    }
}

template <class F> __device__ __forceinline__ void each_column(int width, F f) {
    wait_for_earlier_kernels();
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int j = blockIdx.x * 1024 + e * 256 + threadIdx.x;
        if (j < width) f((i64)blockIdx.y, j);
    }
}

extern "C" __global__ void __launch_bounds__(256) experts_gather(const __grid_constant__ MoveArgs a) {
    each_column(a.width, [&](i64 i, int j) { a.rows[i * a.width + j] = a.x[(i64)a.token[i] * a.width + j]; });
}

extern "C" __global__ void __launch_bounds__(256) experts_scatter(const __grid_constant__ MoveArgs a) {
    each_column(a.width, [&](i64 i, int j) {
        float &to = a.x[(i64)a.token[i] * a.width + j];
        to = __fadd_rn(to, __fmul_rn(a.share[i], a.rows[i * a.width + j]));
    });
}

extern "C" __global__ void __launch_bounds__(256) experts_combine(const __grid_constant__ MoveArgs a) {
    each_column(a.width, [&](i64 i, int j) {
        float sum = 0;
        for (int k = 0; k < a.used; k++) {
            i64 at = i * a.used + k;
            sum = __fadd_rn(sum, __fmul_rn(a.share[at], a.rows[(i64)a.slot[at] * a.width + j]));
        }
        a.x[i * a.width + j] = sum;
    });
}
