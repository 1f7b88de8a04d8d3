// The gated delta rule: for each token, with its key k, query q, value v, decay g and step b,
//
//   S = g S;   d = b (v - k S);   S = S + k d;   out = q S
//
//   extern "C" void delta_rule_{32,64,128,256}(DeltaArgs)    key_dim rounded up to one of these
//
// Grid: (ceil(value_dim / 16), value_heads). Block: 128. Queries and keys are divided by their lengths first, and queries
// by the root of key_dim; decay = e^(rate * softplus(alpha + bias)), step = sigmoid(beta). As
// crates/compute/src/states/delta.rs.
#include "recurrent.cuh"

// x [n]: queries and keys of all key heads, values of all value heads, `x_stride` apart; beta and alpha [n][value_heads],
// `gate_stride` apart. tiled: value head h has key head h % key_heads; otherwise those of a key head follow each other.
struct DeltaArgs {
    const float *x, *beta, *alpha, *rates, *bias;
    float *state, *out;  // out [n][value_heads * value_dim]
    int n, key_heads, value_heads, key_dim, value_dim, tiled, x_stride, gate_stride;
};

// The least sum of squares that keys and queries are divided by.
constexpr float EPSILON = 1e-6f;

// What a lane brings of one token: its numbers of query and key, the block's values, and the head's gates.
template <int ROWS> struct Token {
    float q[ROWS / 32], k[ROWS / 32], value, alpha, beta;
};

template <int ROWS> __device__ __forceinline__ void delta_rule(const DeltaArgs &a) {
    __shared__ __align__(16) float queries[TILE][ROWS], keys[TILE][ROWS];
    __shared__ float values[TILE][COLUMNS], decays[TILE], steps[TILE], products[TILE];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = threadIdx.x % PARTS;
    const int head = blockIdx.y, begin = blockIdx.x * COLUMNS, own = threadIdx.x / PARTS, column = begin + own;
    const int key_head = a.tiled ? head % a.key_heads : head / (a.value_heads / a.key_heads);
    const int all_keys = a.key_heads * a.key_dim;
    const float scale = 1.0f / sqrtf((float)a.key_dim);
    wait_for_earlier_kernels();
    const float rate = a.rates[head], bias = a.bias[head];
    float *state = state_of(a.state, head, column, a.value_dim, a.key_dim);
    Own<ROWS> s;
    s.load(state, part, a.key_dim);
    Token<ROWS> next[TILE / 4];
    auto bring = [&](int start) {
#pragma unroll
        for (int j = 0; j < TILE / 4; j++) {
            const int t = start + warp + 4 * j;
            if (t >= a.n) continue;
            const float *row = a.x + (i64)t * a.x_stride, *q = row + key_head * a.key_dim, *k = q + all_keys;
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                const int at = lane + 32 * i;
                next[j].q[i] = at < a.key_dim ? q[at] : 0.0f;
                next[j].k[i] = at < a.key_dim ? k[at] : 0.0f;
            }
            const bool inside = lane < COLUMNS && begin + lane < a.value_dim;
            next[j].value = inside ? row[2 * all_keys + head * a.value_dim + begin + lane] : 0.0f;
            next[j].alpha = a.alpha[(i64)t * a.gate_stride + head];
            next[j].beta = a.beta[(i64)t * a.gate_stride + head];
        }
    };
    bring(0);
    for (int start = 0; start < a.n; start += TILE) {
        const int count = min(TILE, a.n - start);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < TILE / 4; j++) {
            const int t = warp + 4 * j;
            if (t >= count) continue;
            const Token<ROWS> &x = next[j];
            float qq = 0, kk = 0, qk = 0;
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) qq += x.q[i] * x.q[i], kk += x.k[i] * x.k[i], qk += x.q[i] * x.k[i];
            qq = reduce_warp(qq, Add()), kk = reduce_warp(kk, Add()), qk = reduce_warp(qk, Add());
            const float of_q = scale / sqrtf(qq + EPSILON), of_k = 1.0f / sqrtf(kk + EPSILON);
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                queries[t][lane + 32 * i] = x.q[i] * of_q;
                keys[t][lane + 32 * i] = x.k[i] * of_k;
            }
            if (lane < COLUMNS) values[t][lane] = x.value;
            if (lane == 0) {
                decays[t] = expf(rate * softplus(x.alpha + bias));
                steps[t] = 1.0f / (1.0f + expf(-x.beta));
                products[t] = qk * of_q * of_k;
            }
        }
        __syncthreads();
        bring(start + TILE);
        for (int t = 0; t < count; t++) {
            const float4 *q = (const float4 *)queries[t] + part, *k = (const float4 *)keys[t] + part;
            float4 recalled = make_float4(0, 0, 0, 0), read = recalled;
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                const float4 qs = q[PARTS * i], ks = k[PARTS * i], x = s.s[i];
                recalled.x += ks.x * x.x, recalled.y += ks.y * x.y, recalled.z += ks.z * x.z, recalled.w += ks.w * x.w;
                read.x += qs.x * x.x, read.y += qs.y * x.y, read.z += qs.z * x.z, read.w += qs.w * x.w;
            }
            const float of_k = sum_of_column((recalled.x + recalled.y) + (recalled.z + recalled.w));
            const float of_q = sum_of_column((read.x + read.y) + (read.z + read.w));
            const float g = decays[t], d = steps[t] * (values[t][own] - g * of_k);
            // q (g S + k d)
            if (part == 0 && column < a.value_dim)
                a.out[((i64)(start + t) * a.value_heads + head) * a.value_dim + column] = g * of_q + products[t] * d;
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                const float4 ks = k[PARTS * i];
                float4 &x = s.s[i];
                x.x = g * x.x + ks.x * d, x.y = g * x.y + ks.y * d, x.z = g * x.z + ks.z * d, x.w = g * x.w + ks.w * d;
            }
        }
    }
    s.store(state, part, a.key_dim);
}

extern "C" __global__ void __launch_bounds__(128) delta_rule_32(const __grid_constant__ DeltaArgs a) { delta_rule<32>(a); }
extern "C" __global__ void __launch_bounds__(128) delta_rule_64(const __grid_constant__ DeltaArgs a) { delta_rule<64>(a); }
extern "C" __global__ void __launch_bounds__(128) delta_rule_128(const __grid_constant__ DeltaArgs a) { delta_rule<128>(a); }
extern "C" __global__ void __launch_bounds__(128) delta_rule_256(const __grid_constant__ DeltaArgs a) { delta_rule<256>(a); }
