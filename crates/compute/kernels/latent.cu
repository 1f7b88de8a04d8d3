// Multi-head latent attention: the cache holds one vector for each position, of which every head's key and value are made.
//
//   extern "C" void latent_store_{f32,f16,q8_0}(LatentStoreArgs)    rotates the ends of queries and of latent vectors, stores these
//   extern "C" void latent_heads_{f32,f16,bf16}(LatentHeadsArgs)    y = W x, each head with a matrix of its own: few tokens
//   extern "C" void latent_product_{f32,f16,bf16}(LatentHeadsArgs)  the same for many tokens
//   extern "C" void latent_attention_{f32,f16,q8_0}_{128,320,576}(LatentArgs)    numbers of a position rounded up to one of these
//   extern "C" void latent_combine(LatentArgs)                      adds up what the splits of latent_attention computed
//
//   queries  (U_k^T q_nope, q_rope)     by latent_heads, and as latent_store left them
//   cache    (c, r)                     of each position, rank + rope numbers: key of all heads; c alone is their value
//   results  U_v (sum of p c)           by latent_heads, of what attention gathered
//
// As crates/compute/src/attention/latent.rs, its absorbed form. All sums are of f32.
#include "latent.cuh"
#include "rope.cuh"

// ---- rotation and storage: grid (ceil((heads + 1) / 8), n), block 256 ----

// q [n][heads][query], latent [n][cached]: the last 2 * pairs numbers of each are rotated by tables [n][pairs]; pairs 0:
// none. latent goes to the cache at *position + token.
struct LatentStoreArgs {
    float *q, *latent;
    const float *cos, *sin;
    const int *position;
    KvCache cache;
    int n, heads, query, cached, pairs, interleaved;
};

template <class T> __device__ __forceinline__ void store(const LatentStoreArgs &a) {
    __shared__ float stored[640];
    pdl_launch();
    pdl_wait();
    const int head = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 token = blockIdx.y;
    if (head > a.heads) return;
    const bool query = head < a.heads;
    float *x = query ? a.q + (token * a.heads + head) * a.query : a.latent + token * a.cached;
    float *end = x + (query ? a.query : a.cached) - 2 * a.pairs;
    for (int pair = lane; pair < a.pairs; pair += 32) {
        const int i = a.interleaved ? 2 * pair : pair, j = a.interleaved ? 2 * pair + 1 : pair + a.pairs;
        const float c = a.cos[token * a.pairs + pair], s = a.sin[token * a.pairs + pair], u = end[i], v = end[j];
        end[i] = u * c - v * s;
        end[j] = u * s + v * c;
    }
    if (query) return;
    __syncwarp();
    for (int i = lane; i < a.cache.row; i += 32) stored[i] = i < a.cached ? x[i] : 0.0f;
    __syncwarp();
    store_row(stored, (T *)a.cache.k, a.cache.k_scales, (i64)(*a.position + (int)token) * a.cache.row, a.cache.row, lane);
}

extern "C" __global__ void __launch_bounds__(256) latent_store_f32(const __grid_constant__ LatentStoreArgs a) { store<float>(a); }
extern "C" __global__ void __launch_bounds__(256) latent_store_f16(const __grid_constant__ LatentStoreArgs a) { store<__half>(a); }
extern "C" __global__ void __launch_bounds__(256) latent_store_q8_0(const __grid_constant__ LatentStoreArgs a) { store<signed char>(a); }

// ---- products of each head with its own matrix ----

// weights [heads][rows][stride], of which the first `columns` numbers of a row count; x: head h of token i begins at
// x + i * x_token + h * x_head, out likewise.
struct LatentHeadsArgs {
    const void *weights;
    const float *x;
    float *out;
    int n, rows, columns, stride, x_token, x_head, out_token, out_head;
};

struct Bf16 {
    u16 bits;
};
__device__ __forceinline__ float number(float x) { return x; }
__device__ __forceinline__ float number(__half x) { return __half2float(x); }
__device__ __forceinline__ float number(Bf16 x) { return __uint_as_float((u32)x.bits << 16); }
// Four neighbouring numbers.
__device__ __forceinline__ float4 four(const float *x) { return *(const float4 *)x; }
__device__ __forceinline__ float4 four(const __half *x) {
    const uint2 raw = *(const uint2 *)x;
    const float2 a = __half22float2(halves(raw.x)), b = __half22float2(halves(raw.y));
    return make_float4(a.x, a.y, b.x, b.y);
}
__device__ __forceinline__ float4 four(const Bf16 *x) {
    const uint2 raw = *(const uint2 *)x;
    return make_float4(__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xffff0000u), __uint_as_float(raw.y << 16),
                       __uint_as_float(raw.y & 0xffff0000u));
}

// A warp takes a row: grid (ceil(rows / 8), heads, ceil(n / 4)), block 256.
template <class T> __device__ __forceinline__ void heads(const LatentHeadsArgs &a) {
    pdl_launch();
    pdl_wait();
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.z * 4, count = min(4, a.n - first);
    if (row >= a.rows) return;
    const T *w = (const T *)a.weights + ((i64)blockIdx.y * a.rows + row) * a.stride;
    const float *x = a.x + (i64)first * a.x_token + (i64)blockIdx.y * a.x_head;
    float sums[4] = {};
    // Rows are padded with zeros to a multiple of 32.
#pragma unroll 4
    for (int c = 4 * lane; c < a.columns; c += 128) {
        const float4 own = four(w + c);
        const float of_row[4] = {own.x, own.y, own.z, own.w};
#pragma unroll
        for (int t = 0; t < 4; t++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (t < count && c + e < a.columns) sums[t] += of_row[e] * x[(i64)t * a.x_token + c + e];
    }
#pragma unroll
    for (int t = 0; t < 4; t++) {
        const float sum = warp_sum(sums[t]);
        if (lane == 0 && t < count) a.out[(i64)(first + t) * a.out_token + (i64)blockIdx.y * a.out_head + row] = sum;
    }
}

// 64 rows by 64 tokens, 16 columns at a time: grid (ceil(rows / 64), heads, ceil(n / 64)), block 256.
template <class T> __device__ __forceinline__ void product(const LatentHeadsArgs &a) {
    __shared__ __align__(16) float w[16][68], x[16][68];
    pdl_launch();
    pdl_wait();
    const int first_row = blockIdx.x * 64, first = blockIdx.z * 64, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const T *weights = (const T *)a.weights + (i64)blockIdx.y * a.rows * a.stride;
    const float *from = a.x + (i64)blockIdx.y * a.x_head;
    float sums[4][4] = {};
    for (int base = 0; base < a.columns; base += 16) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = ty + 16 * i, row = first_row + at, token = first + at, c = base + tx;
            w[tx][at] = row < a.rows && c < a.columns ? number(weights[(i64)row * a.stride + c]) : 0.0f;
            x[tx][at] = token < a.n && c < a.columns ? from[(i64)token * a.x_token + c] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int c = 0; c < 16; c++) {
            const float4 ws = *(const float4 *)&w[c][4 * tx], xs = *(const float4 *)&x[c][4 * ty];
            const float of_w[4] = {ws.x, ws.y, ws.z, ws.w}, of_x[4] = {xs.x, xs.y, xs.z, xs.w};
#pragma unroll
            for (int t = 0; t < 4; t++)
#pragma unroll
                for (int r = 0; r < 4; r++) sums[t][r] += of_x[t] * of_w[r];
        }
    }
#pragma unroll
    for (int t = 0; t < 4; t++) {
        const int token = first + 4 * ty + t;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int row = first_row + 4 * tx + r;
            if (token < a.n && row < a.rows) a.out[(i64)token * a.out_token + (i64)blockIdx.y * a.out_head + row] = sums[t][r];
        }
    }
}

#define HEADS(NAME, T)                                                                                                                \
    extern "C" __global__ void __launch_bounds__(256) latent_heads_##NAME(const __grid_constant__ LatentHeadsArgs a) { heads<T>(a); } \
    extern "C" __global__ void __launch_bounds__(256) latent_product_##NAME(const __grid_constant__ LatentHeadsArgs a) { product<T>(a); }
HEADS(f32, float)
HEADS(f16, __half)
HEADS(bf16, Bf16)

// ---- attention over the cache ----

constexpr int ROWS = 8, KEYS = 16, LEAST = 64, MOST_SPLITS = 512;
constexpr float LOWEST = -1e30f;

// The positions of a split: whole tiles, at least LEAST positions where there are as many.
struct Part {
    int low, high;
};
__device__ __forceinline__ Part part_of(int end, int split, int splits) {
    const int each = max(LEAST, ((end + splits - 1) / splits + KEYS - 1) / KEYS * KEYS);
    return {min(end, split * each), min(end, (split + 1) * each)};
}

// Grid: (ceil(n * heads / ROWS), splits). Block: 256. Dynamic shared memory: 4 * (ROWS + KEYS) * (WIDTH + 4) bytes. Of a
// score eight lanes compute an eighth each; of the results a thread has four numbers of four rows.
template <class T, int WIDTH> __device__ __forceinline__ void attention(const LatentArgs &a) {
    constexpr int STRIDE = WIDTH + 4;
    extern __shared__ __align__(16) float floats[];
    float *queries = floats, *tile = queries + ROWS * STRIDE;
    __shared__ __align__(16) float factors[KEYS][ROWS], fading[ROWS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The last rows see the most positions: they begin first.
    const int first_row = (gridDim.x - 1 - blockIdx.x) * ROWS, rows = a.n * a.heads, cached = a.rank + a.rope;
    pdl_launch();
    pdl_wait();
    const int first = *a.position + a.offset;
    const Part part = part_of(first + min(first_row + ROWS - 1, rows - 1) / a.heads + 1, blockIdx.y, a.splits);

    for (int at = threadIdx.x; at < ROWS * WIDTH; at += 256) {
        const int r = at / WIDTH, c = at % WIDTH, row = first_row + r;
        float x = 0;
        if (row < rows && c < cached)
            x = c < a.rank ? a.absorbed[(i64)row * a.rank + c] : a.q[(i64)row * (a.nope + a.rope) + a.nope + c - a.rank];
        queries[r * STRIDE + c] = x * a.scale;
    }
    // Of a score: its key, four rows, a slice of the numbers. Of the softmax: a row for each warp. Of the results: four
    // rows, four numbers.
    const int slice = lane % 8, key = warp % 4 * 4 + lane / 8, four = warp / 4 * 4;
    const int end = first + (first_row + warp) / a.heads + 1, quad = threadIdx.x % 128, of = threadIdx.x / 128 * 4;
    float reference = LOWEST, sum = 0;
    float4 results[4];
#pragma unroll
    for (int r = 0; r < 4; r++) results[r] = make_float4(0, 0, 0, 0);

    for (int base = part.low; base < part.high; base += KEYS) {
        __syncthreads();
        for (int at = threadIdx.x; at < KEYS * (WIDTH / 8); at += 256) {
            const int k = at / (WIDTH / 8), c = at % (WIDTH / 8) * 8;
            float x[8] = {};
            if (base + k < part.high && c < a.cache.row)
                eight((const T *)a.cache.k, a.cache.k_scales, (i64)(base + k) * a.cache.row + c, x);
            *(float4 *)(tile + k * STRIDE + c) = make_float4(x[0], x[1], x[2], x[3]);
            *(float4 *)(tile + k * STRIDE + c + 4) = make_float4(x[4], x[5], x[6], x[7]);
        }
        __syncthreads();
        float scores[4] = {};
#pragma unroll 2
        for (int i = 0; i < WIDTH / 32; i++) {
            const int c = 4 * (slice + 8 * i);
            const float4 x = *(const float4 *)(tile + key * STRIDE + c);
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const float4 q = *(const float4 *)(queries + (four + r) * STRIDE + c);
                scores[r] += q.x * x.x + q.y * x.y + q.z * x.z + q.w * x.w;
            }
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
#pragma unroll
            for (int d = 1; d < 8; d *= 2) scores[r] += __shfl_xor_sync(FULL, scores[r], d);
            if (slice == 0) factors[key][four + r] = scores[r];
        }
        __syncthreads();
        {
            const bool seen = lane < KEYS && base + lane < min(end, part.high);
            const float score = seen ? factors[lane % KEYS][warp] : -infinity();
            const float raised = fmaxf(reference, warp_max(score)), factor = expf(reference - raised), p = expf(score - raised);
            reference = raised;
            sum = sum * factor + warp_sum(p);
            if (lane < KEYS) factors[lane][warp] = p;
            if (lane == 0) fading[warp] = factor;
        }
        __syncthreads();
        if (4 * quad < a.rank) {
            const float4 fade = *(const float4 *)(fading + of);
            const float fades[4] = {fade.x, fade.y, fade.z, fade.w};
#pragma unroll
            for (int r = 0; r < 4; r++) results[r].x *= fades[r], results[r].y *= fades[r], results[r].z *= fades[r], results[r].w *= fades[r];
#pragma unroll 4
            for (int k = 0; k < KEYS; k++) {
                const float4 x = *(const float4 *)(tile + k * STRIDE + 4 * quad), p = *(const float4 *)(factors[k] + of);
                const float ps[4] = {p.x, p.y, p.z, p.w};
#pragma unroll
                for (int r = 0; r < 4; r++)
                    results[r].x += ps[r] * x.x, results[r].y += ps[r] * x.y, results[r].z += ps[r] * x.z, results[r].w += ps[r] * x.w;
            }
        }
    }
    __syncthreads();
    // Sums are with the warps of their rows, results with others.
    if (lane == 0) fading[warp] = sum;
    if (a.splits > 1 && lane == 0 && first_row + warp < rows)
        ((float2 *)a.partial)[(i64)blockIdx.y * rows + first_row + warp] = make_float2(reference, sum);
    __syncthreads();
    if (4 * quad >= a.rank || part.low >= part.high) return;
    float *out = a.splits > 1 ? a.partial + 2 * (i64)a.splits * rows + (i64)blockIdx.y * rows * a.rank : a.out;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int row = first_row + of + r;
        if (row >= rows) continue;
        const float inverse = a.splits > 1 ? 1.0f : 1.0f / fading[of + r];
        const float x[4] = {results[r].x, results[r].y, results[r].z, results[r].w};
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (4 * quad + e < a.rank) out[(i64)row * a.rank + 4 * quad + e] = x[e] * inverse;
    }
}

#define ATTENTION(NAME, T, WIDTH)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) latent_attention_##NAME##_##WIDTH(const __grid_constant__ LatentArgs a) { \
        attention<T, WIDTH>(a);                                                                                            \
    }
#define WIDTHS(NAME, T) ATTENTION(NAME, T, 128) ATTENTION(NAME, T, 320) ATTENTION(NAME, T, 576)
WIDTHS(f32, float)
WIDTHS(f16, __half)
WIDTHS(q8_0, signed char)

// Grid: (n * heads, ceil(rank / 128)). Block: 128. The splits with positions that a row sees are the first ones; the others
// have the sum 0, and may have no results.
extern "C" __global__ void __launch_bounds__(128) latent_combine(const __grid_constant__ LatentArgs a) {
    __shared__ float factors[MOST_SPLITS];
    pdl_launch();
    pdl_wait();
    const i64 rows = (i64)a.n * a.heads, row = blockIdx.x;
    const float2 *sums = (const float2 *)a.partial + row;
    float reference = LOWEST, total = 0;
    int active = 0;
    for (int s = threadIdx.x % 32; s < a.splits; s += 32) {
        const float2 own = sums[s * rows];
        if (own.y > 0) reference = fmaxf(reference, own.x), active = s + 1;
    }
    reference = warp_max(reference);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) active = max(active, __shfl_xor_sync(FULL, active, d));
    for (int s = threadIdx.x % 32; s < active; s += 32) {
        const float2 own = sums[s * rows];
        const float factor = own.y > 0 ? expf(own.x - reference) : 0.0f;
        total += own.y * factor;
        if (threadIdx.x < 32) factors[s] = factor;
    }
    total = warp_sum(total);
    __syncthreads();
    const int c = blockIdx.y * 128 + threadIdx.x;
    if (c >= a.rank) return;
    const float *results = a.partial + 2 * a.splits * rows + row * a.rank + c;
    float x = 0;
#pragma unroll 8
    for (int s = 0; s < active; s++) x += factors[s] * results[s * rows * a.rank];
    a.out[row * a.rank + c] = x / total;
}
