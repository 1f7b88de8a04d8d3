// Causal attention over one whole sequence and its gradients, in f32 without tensor cores. A kernel's name ends in D_T: heads
// of at most D numbers, filled up with zeros, in tiles of T queries and T keys. Signatures, all with blocks of 256 threads and
// shared memory as `Tiles` counts it:
//
//   extern "C" void attention_forward_D_T(AttentionGradientArgs)    out, log_sums         grid (ceil(tokens / T), heads)
//   extern "C" void attention_queries_D_T(AttentionGradientArgs)    owed, d_q             grid (ceil(tokens / T), heads)
//   extern "C" void attention_keys_D_T(AttentionGradientArgs)       d_k, d_v; after it    grid (ceil(tokens / T), kv_heads)
//
//   P = exp(S - log_sums), S = scale Q K^T        dV = P^T dO        dP = dO V^T        owed = sum(dO O)
//   dS = P (dP - owed) slope                      dQ = dS K          dK = dS^T Q        slope = scale (1 - (S / cap)^2)
//
// Every sum is taken by one thread in the order of the tiles: no result depends on timing.
#include "reduce.cuh"

// q, out, d_out, d_q [tokens][heads][dim]; k, v, d_k, d_v [tokens][kv_heads][dim]; log_sums, owed [tokens][heads]. softcap 0:
// none. window 0: all positions.
struct AttentionGradientArgs {
    const float *q, *k, *v;
    float *out, *log_sums;
    const float *d_out;
    float *owed, *d_q, *d_k, *d_v;
    int tokens, heads, kv_heads, dim;
    float scale, softcap;
    int window, unused;
};

// Threads are 16 x 16: thread (y, x) has scores of rows y + 16 a and columns x + 16 b, and numbers 4 x + 64 c .. + 3 of rows
// y + 16 a.
template <int D, int T> struct Tiles {
    static constexpr int R = T / 16, C = D / 64, STRIDE = D + 4, LINE = T + 1;
    static constexpr int VECTORS = T * STRIDE, SCORES = T * LINE;

    // Rows `first`.. of a head.
    static __device__ void load(float *to, const float *from, int first, int tokens, int heads, int head, int dim) {
        for (int i = threadIdx.x; i < T * D; i += 256) {
            const int row = i / D, at = i % D;
            const bool there = first + row < tokens && at < dim;
            to[row * STRIDE + at] = there ? from[((i64)(first + row) * heads + head) * dim + at] : 0.0f;
        }
    }

    static __device__ __forceinline__ void products(float (&c)[R][R], const float *a, const float *b) {
        const int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < R; j++) c[i][j] = 0;
#pragma unroll 4
        for (int at = 0; at < D; at += 4) {
            float4 u[R], v[R];
#pragma unroll
            for (int i = 0; i < R; i++) u[i] = *(const float4 *)(a + (y + 16 * i) * STRIDE + at);
#pragma unroll
            for (int j = 0; j < R; j++) v[j] = *(const float4 *)(b + (x + 16 * j) * STRIDE + at);
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < R; j++) {
                    c[i][j] = fmaf(u[i].x, v[j].x, c[i][j]);
                    c[i][j] = fmaf(u[i].y, v[j].y, c[i][j]);
                    c[i][j] = fmaf(u[i].z, v[j].z, c[i][j]);
                    c[i][j] = fmaf(u[i].w, v[j].w, c[i][j]);
                }
        }
    }

    // sum[row] += p[row][k] x[k]; of TRANSPOSED p, p[k][row].
    template <bool TRANSPOSED>
    static __device__ __forceinline__ void add(float4 (&sum)[R][C], const float *p, const float *x) {
        const int y = threadIdx.x / 16, at = 4 * (threadIdx.x % 16);
#pragma unroll 4
        for (int k = 0; k < T; k++) {
            float w[R];
#pragma unroll
            for (int i = 0; i < R; i++) w[i] = TRANSPOSED ? p[k * LINE + y + 16 * i] : p[(y + 16 * i) * LINE + k];
#pragma unroll
            for (int c = 0; c < C; c++) {
                const float4 v = *(const float4 *)(x + k * STRIDE + at + 64 * c);
#pragma unroll
                for (int i = 0; i < R; i++) {
                    sum[i][c].x = fmaf(w[i], v.x, sum[i][c].x);
                    sum[i][c].y = fmaf(w[i], v.y, sum[i][c].y);
                    sum[i][c].z = fmaf(w[i], v.z, sum[i][c].z);
                    sum[i][c].w = fmaf(w[i], v.w, sum[i][c].w);
                }
            }
        }
    }

    static __device__ __forceinline__ void clear(float4 (&sum)[R][C]) {
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int c = 0; c < C; c++) sum[i][c] = make_float4(0, 0, 0, 0);
    }

    // Rows `first`.. of a head, each number times its row's factor.
    static __device__ __forceinline__ void store(float *to, const float4 (&sum)[R][C], const float *factor, int first,
                                                 int tokens, int heads, int head, int dim) {
        const int y = threadIdx.x / 16, at = 4 * (threadIdx.x % 16);
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int row = y + 16 * i;
            if (first + row >= tokens) continue;
            const float f = factor ? factor[row] : 1.0f;
            float *out = to + ((i64)(first + row) * heads + head) * dim;
#pragma unroll
            for (int c = 0; c < C; c++) {
                const int j = at + 64 * c;
                if (j < dim) out[j] = sum[i][c].x * f;
                if (j + 1 < dim) out[j + 1] = sum[i][c].y * f;
                if (j + 2 < dim) out[j + 2] = sum[i][c].z * f;
                if (j + 3 < dim) out[j + 3] = sum[i][c].w * f;
            }
        }
    }
};

typedef const AttentionGradientArgs Args;

__device__ __forceinline__ bool seen(Args &a, int query, int key) {
    return key <= query && query < a.tokens && (a.window == 0 || key + a.window > query);
}

// The compared score of a product, and its derivative by the product.
__device__ __forceinline__ float score(Args &a, float product, float &slope) {
    float s = product * a.scale;
    slope = a.scale;
    if (a.softcap > 0) {
        s = a.softcap * tanhf(s / a.softcap);
        slope *= 1.0f - (s / a.softcap) * (s / a.softcap);
    }
    return s;
}

// The first tile of keys that a tile of queries sees.
template <int T> __device__ __forceinline__ int first_tile(Args &a, int tile) {
    return a.window == 0 ? 0 : max(0, tile * T + 1 - a.window) / T;
}

template <int D, int T> __device__ __forceinline__ void forward(Args &a) {
    typedef Tiles<D, T> Of;
    extern __shared__ float4 memory[];
    float *q = (float *)memory, *k = q + Of::VECTORS, *v = k + Of::VECTORS, *p = v + Of::VECTORS;
    __shared__ float largest[T], sums[T], factors[T];
    const int tile = blockIdx.x, head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads), first = tile * T;
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    Of::load(q, a.q, first, a.tokens, a.heads, head, a.dim);
    if (threadIdx.x < T) {
        largest[threadIdx.x] = __int_as_float(0xff800000);
        sums[threadIdx.x] = 0;
    }
    float4 out[Of::R][Of::C];
    Of::clear(out);
    for (int keys = first_tile<T>(a, tile); keys <= tile; keys++) {
        __syncthreads();
        Of::load(k, a.k, keys * T, a.tokens, a.kv_heads, kv_head, a.dim);
        Of::load(v, a.v, keys * T, a.tokens, a.kv_heads, kv_head, a.dim);
        __syncthreads();
        float c[Of::R][Of::R], slope;
        Of::products(c, q, k);
#pragma unroll
        for (int i = 0; i < Of::R; i++)
#pragma unroll
            for (int j = 0; j < Of::R; j++) {
                const int row = y + 16 * i, column = x + 16 * j;
                const bool sees = seen(a, first + row, keys * T + column);
                p[row * Of::LINE + column] = sees ? score(a, c[i][j], slope) : __int_as_float(0xff800000);
            }
        __syncthreads();
        const int lane = threadIdx.x % 32;
        for (int row = threadIdx.x / 32; row < T; row += 8) {
            const float s = lane < T ? p[row * Of::LINE + lane] : __int_as_float(0xff800000);
            const float before = largest[row], now = fmaxf(before, reduce_warp(s, Larger()));
            // No key of this tile or of those before is seen.
            const bool none = now == __int_as_float(0xff800000);
            const float e = none ? 0.0f : expf(s - now);
            if (lane < T) p[row * Of::LINE + lane] = e;
            const float sum = reduce_warp(e, Add());
            if (lane == 0) {
                factors[row] = none ? 1.0f : expf(before - now);
                sums[row] = sums[row] * factors[row] + sum;
                largest[row] = now;
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < Of::R; i++) {
            const float f = factors[y + 16 * i];
#pragma unroll
            for (int j = 0; j < Of::C; j++)
                out[i][j] = make_float4(out[i][j].x * f, out[i][j].y * f, out[i][j].z * f, out[i][j].w * f);
        }
        Of::template add<false>(out, p, v);
    }
    __syncthreads();
    if (threadIdx.x < T) {
        const int row = threadIdx.x;
        factors[row] = 1.0f / sums[row];
        if (first + row < a.tokens) a.log_sums[(i64)(first + row) * a.heads + head] = largest[row] + logf(sums[row]);
    }
    __syncthreads();
    Of::store(a.out, out, factors, first, a.tokens, a.heads, head, a.dim);
}

// Probabilities of a tile of queries over a tile of keys, and the derivatives by their products.
template <int D, int T>
__device__ __forceinline__ void slopes(Args &a, float *p, float *s, const float *q, const float *k, const float *v,
                                       const float *d, const float *log_sums, const float *owed, int first, int keys) {
    typedef Tiles<D, T> Of;
    const int y = threadIdx.x / 16, x = threadIdx.x % 16;
    float c[Of::R][Of::R], by[Of::R][Of::R];
    Of::products(c, q, k);
    Of::products(by, d, v);
#pragma unroll
    for (int i = 0; i < Of::R; i++)
#pragma unroll
        for (int j = 0; j < Of::R; j++) {
            const int row = y + 16 * i, column = x + 16 * j;
            float slope;
            const float compared = score(a, c[i][j], slope);
            const float chance = seen(a, first + row, keys + column) ? expf(compared - log_sums[row]) : 0.0f;
            if (p) p[row * Of::LINE + column] = chance;
            s[row * Of::LINE + column] = chance * (by[i][j] - owed[row]) * slope;
        }
}

template <int D, int T> __device__ __forceinline__ void queries(Args &a) {
    typedef Tiles<D, T> Of;
    extern __shared__ float4 memory[];
    float *q = (float *)memory, *d = q + Of::VECTORS, *k = d + Of::VECTORS, *v = k + Of::VECTORS, *s = v + Of::VECTORS;
    __shared__ float log_sums[T], owed[T];
    const int tile = blockIdx.x, head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads), first = tile * T;
    Of::load(q, a.q, first, a.tokens, a.heads, head, a.dim);
    Of::load(d, a.d_out, first, a.tokens, a.heads, head, a.dim);
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < T; row += 8) {
        const bool there = first + row < a.tokens;
        const i64 at = (i64)(first + row) * a.heads + head;
        float sum = 0;
        if (there)
            for (int i = lane; i < a.dim; i += 32) sum += a.out[at * a.dim + i] * d[row * Of::STRIDE + i];
        sum = reduce_warp(sum, Add());
        if (lane == 0) {
            owed[row] = sum;
            log_sums[row] = there ? a.log_sums[at] : 0.0f;
            if (there) a.owed[at] = sum;
        }
    }
    float4 sum[Of::R][Of::C];
    Of::clear(sum);
    for (int keys = first_tile<T>(a, tile); keys <= tile; keys++) {
        __syncthreads();
        Of::load(k, a.k, keys * T, a.tokens, a.kv_heads, kv_head, a.dim);
        Of::load(v, a.v, keys * T, a.tokens, a.kv_heads, kv_head, a.dim);
        __syncthreads();
        slopes<D, T>(a, nullptr, s, q, k, v, d, log_sums, owed, first, keys * T);
        __syncthreads();
        Of::template add<false>(sum, s, k);
    }
    Of::store(a.d_q, sum, nullptr, first, a.tokens, a.heads, head, a.dim);
}

template <int D, int T> __device__ __forceinline__ void keys_and_values(Args &a) {
    typedef Tiles<D, T> Of;
    extern __shared__ float4 memory[];
    float *q = (float *)memory, *d = q + Of::VECTORS, *k = d + Of::VECTORS, *v = k + Of::VECTORS, *s = v + Of::VECTORS,
          *p = s + Of::SCORES;
    __shared__ float log_sums[T], owed[T];
    const int tile = blockIdx.x, kv_head = blockIdx.y, group = a.heads / a.kv_heads, first = tile * T;
    Of::load(k, a.k, first, a.tokens, a.kv_heads, kv_head, a.dim);
    Of::load(v, a.v, first, a.tokens, a.kv_heads, kv_head, a.dim);
    float4 d_k[Of::R][Of::C], d_v[Of::R][Of::C];
    Of::clear(d_k);
    Of::clear(d_v);
    int last = (a.tokens - 1) / T;
    // The last query that sees the last key of this tile.
    if (a.window > 0) last = min(last, (first + T - 1 + a.window - 1) / T);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int at = tile; at <= last; at++) {
            __syncthreads();
            Of::load(q, a.q, at * T, a.tokens, a.heads, head, a.dim);
            Of::load(d, a.d_out, at * T, a.tokens, a.heads, head, a.dim);
            if (threadIdx.x < T) {
                const int query = at * T + threadIdx.x;
                const bool there = query < a.tokens;
                log_sums[threadIdx.x] = there ? a.log_sums[(i64)query * a.heads + head] : 0.0f;
                owed[threadIdx.x] = there ? a.owed[(i64)query * a.heads + head] : 0.0f;
            }
            __syncthreads();
            slopes<D, T>(a, p, s, q, k, v, d, log_sums, owed, at * T, first);
            __syncthreads();
            Of::template add<true>(d_v, p, d);
            Of::template add<true>(d_k, s, q);
        }
    Of::store(a.d_k, d_k, nullptr, first, a.tokens, a.kv_heads, kv_head, a.dim);
    Of::store(a.d_v, d_v, nullptr, first, a.tokens, a.kv_heads, kv_head, a.dim);
}

#define KERNELS(D, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) attention_forward_##D##_##T(const __grid_constant__ AttentionGradientArgs a) { \
        forward<D, T>(a);                                                                                                 \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) attention_queries_##D##_##T(const __grid_constant__ AttentionGradientArgs a) { \
        queries<D, T>(a);                                                                                                 \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) attention_keys_##D##_##T(const __grid_constant__ AttentionGradientArgs a) { \
        keys_and_values<D, T>(a);                                                                                         \
    }
KERNELS(64, 32)
KERNELS(128, 32)
KERNELS(128, 16)
KERNELS(256, 16)
