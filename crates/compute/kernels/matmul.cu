// y[token][row] = x W^T with weights of one format (-D FORMAT=Q4_0, ...), for more than 4 tokens, with mma.sync: compute
// capability 8.0 and later (m16n8k16, asynchronous copies), and 7.5 (two m16n8k8, copies through registers).
//
//   extern "C" __global__ void matmul_n128(const __grid_constant__ MatmulArgs)  (8.0 only)   and _n64, _n32, _n16
//   grid parts * token_tiles, block 256, dynamic shared memory: 128 * N * STAGES, and no less
//   than store_tile() needs
//
// A block does tiles of 256 rows x N tokens: eight warps of 32 rows each read packed weights from global memory into
// registers and convert them to f16 fragments there; every warp reads all of the activations' slab (64 columns of N tokens)
// from shared memory. Sums are f32 in registers.
#include "matmul.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define COPIES_ASYNCHRONOUSLY 1
#else
#define COPIES_ASYNCHRONOUSLY 0
#endif

constexpr int STAGES = COPIES_ASYNCHRONOUSLY ? 3 : 2;
constexpr u32 THREADS = 256;

DEVICE void copy16(u32 to, const void* from) {
#if COPIES_ASYNCHRONOUSLY
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#endif
}
DEVICE void copies_commit() {
#if COPIES_ASYNCHRONOUSLY
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int left>
DEVICE void copies_wait() {
#if COPIES_ASYNCHRONOUSLY
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
#endif
}
// Four matrices of 8 x 8 halfs: thread t gives the address of row t % 8 of matrix t / 8.
DEVICE void load_matrices(u32 (&b)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(address) : "memory");
}
// d[16][8] += a[16][16] b[8][16]^T; d[2 h + e] is row lane/4 + 8 h, column 2 (lane % 4) + e.
DEVICE void product(float* d, const u32 (&a)[4], u32 b0, u32 b1) {
#if COPIES_ASYNCHRONOUSLY
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

template <int N>
struct Multiplier {
    static constexpr int SLAB = 128 * N, UNITS = 8 * N, EACH = (UNITS + THREADS - 1) / THREADS;
    const MatmulArgs& a;
    u8* shared;
    Fragments<FORMAT, 1> weights[2];
    uint4 moving[EACH];
    float d[2][N / 2];

    // Computed where they are needed: registers are scarce.
    DEVICE u32 ring() const { return (u32)__cvta_generic_to_shared(shared); }
    DEVICE u32 token() const { return blockIdx.x % a.token_tiles * N; }
    DEVICE u32 units() const { return 8 * min((u32)N, a.padded_n - token()); }  // 16-byte pieces of a slab that exist
    DEVICE const u8* source(u32 slab, u32 unit) const {
        return a.x + ((u64)slab * a.padded_n + token()) * 128 + 16 * unit;
    }
    // Starts to copy a slab into place `slot`; finish() ends it where copies go through registers.
    DEVICE void start(u32 slab, u32 slot) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const u32 unit = threadIdx.x + THREADS * i;
            if (unit >= units()) continue;
            if (COPIES_ASYNCHRONOUSLY) copy16(ring() + slot * SLAB + 16 * unit, source(slab, unit));
            else moving[i] = __ldg((const uint4*)source(slab, unit));
        }
    }
    DEVICE void finish(u32 slot) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const u32 unit = threadIdx.x + THREADS * i;
            if (!COPIES_ASYNCHRONOUSLY && unit < units()) *(uint4*)(shared + slot * SLAB + 16 * unit) = moving[i];
        }
    }
    DEVICE u32 chunk(u32 step) const { return min(4 * step + threadIdx.x % 4, (a.columns + 31) / 32 - 1); }

    template <int half>
    DEVICE void multiply(const u32 (&row)[2][2], u32 at, u32 slot) {
        u32 fragment[2][4][4];
#pragma unroll
        for (int m = 0; m < 2; m++)
            weights[m].template convert<0, half>(row[m][0], row[m][1], chunk(at), a.factor, fragment[m]);
        const u32 lane = threadIdx.x % 32, r = lane % 8, base = ring() + slot * SLAB + ((lane / 16) * 8 + r) * 128;
#pragma unroll
        for (int s = 0; s < 4; s++) {
            const u32 place = (2 * s + lane / 8 % 2) ^ r;
#pragma unroll
            for (int j = 0; j < N / 8; j += 2) {
                u32 b[4];
                load_matrices(b, base + j * 1024 + place * 16);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    product(d[m] + 4 * j, fragment[m][s], b[0], b[1]);
                    product(d[m] + 4 * j + 4, fragment[m][s], b[2], b[3]);
                }
            }
        }
    }
    // All steps of a segment into d.
    DEVICE void run(const Matrix& m0, const Matrix& m1, const u32 (&row)[2][2], const Segment& s) {
        weights[0].template fetch<0>(m0, row[0][0], row[0][1], chunk(s.begin));
        weights[1].template fetch<0>(m1, row[1][0], row[1][1], chunk(s.begin));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int k = 0; k < N / 2; k++) d[i][k] = 0.0f;
        const u32 from = 2 * s.begin, to = 2 * s.end;
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++) {
            start(from + i, i);  // a segment has at least two slabs
            copies_commit();
            finish(i);
        }
        u32 slot = 0, next = STAGES - 1;
        for (u32 at = s.begin; at < s.end; at++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 coming = 2 * at + half + STAGES - 1;
                copies_wait<STAGES - 2>();
                __syncthreads();
                if (coming < to) start(coming, next);
                copies_commit();
                if (half == 0) multiply<0>(row, at, slot);
                else multiply<1>(row, at, slot);
                if (at + 1 < s.end) {
                    if (half == 0) {
                        weights[0].template refill<0, 0>(m0, row[0][0], row[0][1], chunk(at + 1));
                        weights[1].template refill<0, 0>(m1, row[1][0], row[1][1], chunk(at + 1));
                    } else {
                        weights[0].template refill<0, 1>(m0, row[0][0], row[0][1], chunk(at + 1));
                        weights[1].template refill<0, 1>(m1, row[1][0], row[1][1], chunk(at + 1));
                    }
                }
                if (coming < to) finish(next);
                slot = slot + 1 == STAGES ? 0 : slot + 1;
                next = next + 1 == STAGES ? 0 : next + 1;
            }
        }
        copies_wait<0>();
        __syncthreads();
    }
};

// Stores the block's 256 rows (128 of each matrix of a gated pair), some tokens at a time through shared memory, so that a
// token's rows leave together.
template <int N>
DEVICE void store_tile(const MatmulArgs& a, const MatmulMatrix& m, const float (&d)[2][N / 2], float* staging, u32 row,
                       u32 token) {
    constexpr u32 ROUND = N == 128 ? 32 : 16, PITCH = 260;  // no conflicts between banks
    const bool pair = a.mode == MODE_GATED;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* place = staging + 2 * (lane % 4) * PITCH + lane / 4 + warp * (pair ? 16 : 32);
    const u32 second = pair ? 128 : 16;
    const float undo = 1.0f / a.factor;
    const u32 wide = pair ? 32 : 64, column = threadIdx.x % wide * 4;
    const float4 bias = bias_of(m, row + column);
    const float4 other_bias = pair ? bias_of(a.matrix[1], row + column) : bias;
    // One body for all rounds, so that the code stays small; only which registers go to shared memory differs.
#pragma unroll 1
    for (u32 round = 0; round < N / ROUND; round++) {
#pragma unroll
        for (u32 k = 0; k < N / ROUND; k++)
            if (round == k)
#pragma unroll
                for (u32 j = 0; j < ROUND / 8; j++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        float* p = place + (8 * j + i % 2) * PITCH + i / 2 * 8;
                        p[0] = d[0][4 * (k * (ROUND / 8) + j) + i];
                        p[second] = d[1][4 * (k * (ROUND / 8) + j) + i];
                    }
        __syncthreads();
        const u32 first = token + round * ROUND;
#pragma unroll 4
        for (u32 t = threadIdx.x / wide; t < ROUND && first + t < a.n; t += THREADS / wide) {
            const float scale = __ldg(a.x_scale + first + t) * undo;
            float4 v = scaled(*(const float4*)(staging + t * PITCH + column), scale, bias);
            if (pair) v = gated(a, v, scaled(*(const float4*)(staging + t * PITCH + 128 + column), scale, other_bias));
            store_four(a, m, v, row + column, first + t);
        }
        __syncthreads();
    }
}

DEVICE u32 first_row(const MatmulMatrix& m, const Segment& s, bool pair) {
    return pair ? s.tile * 128 : (s.tile - m.first_tile) * 256;
}
// Read again at every use instead of kept in a register while the products run.
DEVICE u32 block_number() {
    u32 b;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(b));
    return b;
}

template <int N>
DEVICE void matmul(const MatmulArgs& a) {
    extern __shared__ __align__(1024) u8 shared[];
    const bool pair = a.mode == MODE_GATED;
    Multiplier<N> c{a, shared};
    auto sync = [] { __syncthreads(); };
    launch_next();
    wait_for_previous();
    Segment s;
    u32 next = Work::start_of(a, blockIdx.x / a.token_tiles + 1);
    while (true) {
        Work work(a, block_number() / a.token_tiles);
        work.next = next;
        if (!work.take(s)) break;
        next = work.next;
        const u32 which = pair ? 0
                          : a.matrices > 2 && s.tile >= a.matrix[2].first_tile ? 2
                          : a.matrices > 1 && s.tile >= a.matrix[1].first_tile ? 1 : 0;
        const MatmulMatrix& m = a.matrix[which];
        // A warp has 32 rows, or 16 of one matrix of a gated pair and the same 16 of the other.
        const u32 base = first_row(m, s, pair) + threadIdx.x / 32 * (pair ? 16 : 32) + threadIdx.x % 32 / 4;
        const u32 last = m.weights.rows - 1, chunks = (a.columns + 31) / 32;
        u32 row[2][2];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) row[i][h] = min(base + (pair ? 0 : 16 * i) + 8 * h, last) * chunks;
        c.run(m.weights, a.matrix[pair ? 1 : which].weights, row, s);

        const u32 part = block_number() / a.token_tiles, token_tile = block_number() % a.token_tiles;
        // For every block there is a place for the sums of both pieces of 16 rows, and a flag for each.
        auto block = [&](u32 p) { return p * a.token_tiles + token_tile; };
        auto place0 = [&](u32 p) { return a.sums + (u64)block(p) * (N * 256 / 4); };
        auto place1 = [&](u32 p) { return place0(p) + N * 128 / 4; };
        auto ready0 = [&](u32 p) { return a.ready + 8 * block(p); };
        auto ready1 = [&](u32 p) { return ready0(p) + 1; };
        if (s.end < a.steps) {
            leave_sums(c.d[0], place0(part), threadIdx.x, THREADS, ready0(part), sync);
            leave_sums(c.d[1], place1(part), threadIdx.x, THREADS, ready1(part), sync);
            continue;
        }
        if (s.begin > 0) {
            add_sums(a, c.d[0], part, s.tile * a.steps, threadIdx.x, THREADS, place0, ready0, sync);
            add_sums(a, c.d[1], part, s.tile * a.steps, threadIdx.x, THREADS, place1, ready1, sync);
        }
        store_tile<N>(a, m, c.d, (float*)shared, first_row(m, s, pair), token_tile * N);
    }
}

#define KERNEL(N) \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) matmul_n##N(const __grid_constant__ MatmulArgs a) { matmul<N>(a); }
#if COPIES_ASYNCHRONOUSLY
KERNEL(128)
#endif
KERNEL(64)
KERNEL(32)
KERNEL(16)
