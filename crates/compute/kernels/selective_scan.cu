// The selective scan of Mamba-2: for each token, with its input x, its vectors b and c, its step t and the head's rate,
//
//   S = e^(t rate) S + t b x;   out = c S + skip x
//
//   extern "C" void selective_scan_{32,64,128,256}(ScanArgs)    the state's rows rounded up to one of these
//
// Grid: (ceil(head_dim / 16), heads). Block: 128. step = softplus(steps + bias), at least `least` and at most `most`. As
// crates/compute/src/states/scan.rs.
#include "recurrent.cuh"

// x [n]: inputs of all heads, b of all groups, c of all groups, `x_stride` apart; steps [n][heads], `step_stride` apart.
struct ScanArgs {
    const float *x, *steps, *rates, *bias, *skips;
    float *state, *out;  // out [n][heads * head_dim]
    int n, heads, head_dim, groups, rows, x_stride, step_stride;
    float least, most;
    int unused;
};

// What a lane brings of one token: its numbers of b and c, the block's inputs, and the head's step.
template <int ROWS> struct Token {
    float b[ROWS / 32], c[ROWS / 32], input, step;
};

template <int ROWS> __device__ __forceinline__ void selective_scan(const ScanArgs &a) {
    __shared__ __align__(16) float written[TILE][ROWS], asked[TILE][ROWS];
    __shared__ float inputs[TILE][COLUMNS], decays[TILE], steps[TILE];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = threadIdx.x % PARTS;
    const int head = blockIdx.y, begin = blockIdx.x * COLUMNS, own = threadIdx.x / PARTS, column = begin + own;
    const int group = head / (a.heads / a.groups), inner = a.heads * a.head_dim;
    wait_for_earlier_kernels();
    const float skip = a.skips[head], rate = a.rates[head], bias = a.bias[head];
    float *state = state_of(a.state, head, column, a.head_dim, a.rows);
    Own<ROWS> s;
    s.load(state, part, a.rows);
    Token<ROWS> next[TILE / 4];
    auto bring = [&](int start) {
#pragma unroll
        for (int j = 0; j < TILE / 4; j++) {
            const int t = start + warp + 4 * j;
            if (t >= a.n) continue;
            const float *row = a.x + (i64)t * a.x_stride, *b = row + inner + group * a.rows, *c = b + a.groups * a.rows;
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                const int at = lane + 32 * i;
                next[j].b[i] = at < a.rows ? b[at] : 0.0f;
                next[j].c[i] = at < a.rows ? c[at] : 0.0f;
            }
            next[j].input = lane < COLUMNS && begin + lane < a.head_dim ? row[head * a.head_dim + begin + lane] : 0.0f;
            next[j].step = a.steps[(i64)t * a.step_stride + head];
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
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                written[t][lane + 32 * i] = next[j].b[i];
                asked[t][lane + 32 * i] = next[j].c[i];
            }
            if (lane < COLUMNS) inputs[t][lane] = next[j].input;
            if (lane == 0) {
                const float step = fminf(fmaxf(softplus(next[j].step + bias), a.least), a.most);
                steps[t] = step;
                decays[t] = expf(step * rate);
            }
        }
        __syncthreads();
        bring(start + TILE);
        for (int t = 0; t < count; t++) {
            const float4 *b = (const float4 *)written[t] + part, *c = (const float4 *)asked[t] + part;
            const float x = inputs[t][own], g = decays[t], d = steps[t] * x;
            float4 read = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                const float4 bs = b[PARTS * i], cs = c[PARTS * i];
                float4 &y = s.s[i];
                y.x = g * y.x + bs.x * d, y.y = g * y.y + bs.y * d, y.z = g * y.z + bs.z * d, y.w = g * y.w + bs.w * d;
                read.x += cs.x * y.x, read.y += cs.y * y.y, read.z += cs.z * y.z, read.w += cs.w * y.w;
            }
            const float sum = sum_of_column((read.x + read.y) + (read.z + read.w));
            if (part == 0 && column < a.head_dim)
                a.out[(i64)(start + t) * inner + head * a.head_dim + column] = sum + skip * x;
        }
    }
    s.store(state, part, a.rows);
}

extern "C" __global__ void __launch_bounds__(128) selective_scan_32(const __grid_constant__ ScanArgs a) { selective_scan<32>(a); }
extern "C" __global__ void __launch_bounds__(128) selective_scan_64(const __grid_constant__ ScanArgs a) { selective_scan<64>(a); }
extern "C" __global__ void __launch_bounds__(128) selective_scan_128(const __grid_constant__ ScanArgs a) { selective_scan<128>(a); }
extern "C" __global__ void __launch_bounds__(128) selective_scan_256(const __grid_constant__ ScanArgs a) { selective_scan<256>(a); }
