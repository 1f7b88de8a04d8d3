// A mixture of experts: the router's choice, and moving rows to and from the experts. As crates/run/src/forward/experts.rs.
//
//   extern "C" void experts_route(RouteArgs)      grid n, block 32
//   extern "C" void experts_group(GroupArgs)      grid 1, block 1024; dynamic shared memory 8 * experts bytes
//   extern "C" void experts_gather(MoveArgs)      rows = x of their tokens, times share if `scaled`;
//                                                 grid (ceil(width / 1024), rows), block 256
//   extern "C" void experts_scatter(MoveArgs)     x of a token += share * row      likewise; one expert's rows in a launch
//   extern "C" void experts_combine(MoveArgs)     x of a token = sum of share * row over its choices, by expert number;
//                                                 grid (ceil(width / 1024), n), block 256
//   extern "C" void experts_gate(MoveArgs)        row *= sigmoid(share of the row)  likewise
//
// Rows of all experts together are in slots: those of expert 0 first, within an expert by token.
#include "reduce.cuh"

// How outputs become scores, and what groups are ordered by: as crates/compute/src/executor/routing.rs has them.
enum Scores { SOFTMAX = 0, SIGMOID = 1, SPARSE_MIXER = 2 };
enum GroupRank { LARGEST = 0, TWO_LARGEST = 1 };

// logits [n][count], not changed -> expert, share [n][used], by expert number. The `used` largest scores are chosen, of
// equal ones the lowest number, by score + bias [count] where there are biases, and from the groups_used best of `groups`
// groups where there are any. normalized: shares are made to sum to 1, summed from the largest down; then times `scale`.
struct RouteArgs {
    const float *logits;
    const float *bias;  // null, or [count]
    int *expert;
    float *share;
    int n, count, used, normalized;
    int scores, groups, groups_used, group_rank;  // groups 0: none
    float scale, jitter;                          // jitter: of SPARSE_MIXER
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
// `from` on. expert-wise kernels use token and share; combine uses slot and share [n][used], or no shares if `scaled`.
struct MoveArgs {
    float *x, *rows;
    const int *token, *slot;
    const float *share;
    int width, used;
    int scaled;  // shares are of what experts read, not of what they make
    int unused;
};

// A number that grows with x as Rust's total_cmp does, 32 bits.
__device__ __forceinline__ u32 ordered(float x) {
    u32 b = __float_as_uint(x);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

// The one of `count` whose rank is the largest, of equals the lowest number, among those that are not taken: bit i of
// `taken` is number lane + 32 i.
__device__ __forceinline__ int best_of(const float *ranks, int count, u32 taken) {
    const int lane = threadIdx.x;
    unsigned long long best = 0;  // rank and number in one key
    for (int i = 0; lane + 32 * i < count; i++) {
        if (taken >> i & 1) continue;
        const int e = lane + 32 * i;
        const unsigned long long key = (unsigned long long)ordered(ranks[e]) << 32 | (u32)(0x7fffffff - e);
        best = key > best ? key : best;
    }
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, i);
        best = other > best ? other : best;
    }
    return 0x7fffffff - (int)(u32)best;
}

__device__ __forceinline__ void take(u32 &taken, int e) {
    if (e % 32 == (int)threadIdx.x) taken |= 1u << (e / 32);
}

// Marks the experts of all groups but the best as taken. group_ranks: [groups], memory of the warp.
__device__ __forceinline__ u32 outside_groups(const RouteArgs &a, const float *ranks, float *group_ranks) {
    const int lane = threadIdx.x, size = a.count / a.groups;
    for (int group = lane; group < a.groups; group += 32) {
        float first = __int_as_float(0xff800000), second = first;
        for (int e = group * size; e < (group + 1) * size; e++) {
            const float x = ranks[e];
            if (x > first) second = first, first = x;
            else if (x > second) second = x;
        }
        group_ranks[group] = a.group_rank == LARGEST ? first : first + second;
    }
    __syncwarp();
    u32 kept = 0, taken = 0;  // of groups, of experts
    for (int k = 0; k < a.groups_used; k++) take(kept, best_of(group_ranks, a.groups, kept));
    __syncwarp();
    for (int group = lane; group < a.groups; group += 32) group_ranks[group] = (float)(kept >> (group / 32) & 1);
    __syncwarp();
    for (int i = 0; lane + 32 * i < a.count; i++)
        if (group_ranks[(lane + 32 * i) / size] == 0.0f) taken |= 1u << i;
    return taken;
}

extern "C" __global__ void __launch_bounds__(32) experts_route(const __grid_constant__ RouteArgs a) {
    wait_for_earlier_kernels();
    constexpr int MOST = 32;  // experts a lane holds: 1024 in all
    __shared__ float scores[32 * MOST], ranks[32 * MOST], group_ranks[32 * MOST];
    const int lane = threadIdx.x, token = blockIdx.x;
    const float *row = a.logits + (i64)token * a.count;
    int *expert = a.expert + token * a.used;
    float *share = a.share + token * a.used;
    const bool mixer = a.scores == SPARSE_MIXER;
    float largest = 0, inverse = 1;
    if (a.scores == SOFTMAX) {
        largest = __int_as_float(0xff800000);
        for (int i = lane; i < a.count; i += 32) largest = fmaxf(largest, row[i]);
        largest = reduce_warp(largest, Larger());
        float sum = 0;
        for (int i = lane; i < a.count; i += 32) sum += expf(row[i] - largest);
        inverse = 1.0f / reduce_warp(sum, Add());
    }
    for (int e = lane; e < a.count; e += 32) {
        const float x = row[e];
        float score = x + 0.0f;  // 0 and -0 are equal
        if (a.scores == SOFTMAX) score = expf(x - largest) * inverse;
        if (a.scores == SIGMOID) score = 1.0f / (1.0f + expf(-x));
        scores[e] = score;
        ranks[e] = a.bias ? score + a.bias[e] : score;
    }
    __syncwarp();
    u32 taken = a.groups ? outside_groups(a, ranks, group_ranks) : 0;
    u32 chosen = 0;  // bit i: expert lane + 32 i
    float total = 0;
    for (int k = 0; k < a.used; k++) {
        const int e = best_of(ranks, a.count, taken);
        if (mixer) {
            // Its part of a softmax over those left that are near it; two outputs of 0 are near each other.
            const float top = ranks[e];
            float sum = 0;
            for (int i = 0; lane + 32 * i < a.count; i++) {
                const float x = ranks[lane + 32 * i], apart = (top - x) / fmaxf(fabsf(x), top);
                if (!(taken >> i & 1) && !(apart > 2.0f * a.jitter)) sum += expf(x - top);
            }
            sum = reduce_warp(sum, Add());
            if (lane == 0) scores[e] = 1.0f / sum;
        }
        take(taken, e);
        take(chosen, e);
        total += scores[e];
    }
    __syncwarp();
    const float factor = a.normalized && !mixer ? a.scale / fmaxf(total, 1e-20f) : a.scale;
    // In the order of the experts' numbers.
    int before = 0;
    for (int i = 0; i < MOST && 32 * i < a.count; i++) {
        const u32 own = __ballot_sync(0xffffffffu, chosen >> i & 1);
        if (chosen >> i & 1) {
            const int at = before + __popc(own & ((1u << lane) - 1)), e = lane + 32 * i;
            expert[at] = e;
            share[at] = scores[e] * factor;
        }
        before += __popc(own);
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
    each_column(a.width, [&](i64 i, int j) {
        const float x = a.x[(i64)a.token[i] * a.width + j];
        a.rows[i * a.width + j] = a.scaled ? a.share[i] * x : x;
    });
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
            const float y = a.rows[(i64)a.slot[at] * a.width + j];
            sum = __fadd_rn(sum, a.scaled ? y : __fmul_rn(a.share[at], y));
        }
        a.x[i * a.width + j] = sum;
    });
}

extern "C" __global__ void __launch_bounds__(256) experts_gate(const __grid_constant__ MoveArgs a) {
    each_column(a.width, [&](i64 i, int j) { a.rows[i * a.width + j] *= 1.0f / (1.0f + expf(-a.share[i])); });
}
