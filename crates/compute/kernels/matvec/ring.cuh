// The main loop for compute capability 9.0 and later: every warp has a ring of slices of its own in shared memory, filled by
// bulk copies (one for each plane). No warp waits for another, and nothing but the ring's size limits what is in flight.
//
//   shared memory: input vectors | WARPS times `stages` slices        a slice: its records of plane 0, of plane 1, ...
//
// The first `stages` slices are under way before the previous kernel has ended (programmatic dependent launch): weights do
// not depend on it.
#pragma once
#include "dot.cuh"
#include "walk.cuh"

constexpr int MAX_STAGES = 16;

template <class F>
struct Slice {
    static constexpr int DEPTH = UNIT_DEPTH;
    static constexpr int UNIT = 32 * DEPTH;
    // A copy begins and ends at multiples of 16 bytes: up to 30 bytes more than the records.
    static DEVICE constexpr u32 plane_bytes(int p) {
        return (UNIT * F::PIECE / F::Planes::values(p) * F::Planes::bytes(p) + 15) / 16 * 16 + 16;
    }
    static DEVICE constexpr u32 offset(int p) {
        return (p > 0 ? plane_bytes(0) : 0) + (p > 1 ? plane_bytes(1) : 0) + (p > 2 ? plane_bytes(2) : 0) +
               (p > 3 ? plane_bytes(3) : 0) + (p > 4 ? plane_bytes(4) : 0);
    }
    static constexpr u32 BYTES = offset(F::Planes::COUNT);
};

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

DEVICE void barrier_init(u32 barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(barrier), "r"(parity) : "memory");
}
DEVICE void bulk_copy(u32 to, const u8* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(barrier)
                 : "memory");
}

// Where a slice's records of plane p are: bytes from the plane's start.
template <class F>
DEVICE u64 record_offset(u32 first, int p) {
    return (u64)(first / (F::Planes::values(p) >= F::PIECE ? F::Planes::values(p) / F::PIECE : 1)) * F::Planes::bytes(p);
}

// Lane 0: starts the copies of pieces first to first + count.
template <class F>
DEVICE void issue(const Matrix& m, u32 first, u32 count, u32 slot, u32 barrier) {
    u32 total = 0, bytes[F::Planes::COUNT];
    u64 from[F::Planes::COUNT];
#pragma unroll
    for (int p = 0; p < F::Planes::COUNT; p++) {
        constexpr int P = F::PIECE;
        const u32 records = (count * P + F::Planes::values(p) - 1) / F::Planes::values(p);
        const u64 start = record_offset<F>(first, p), end = start + records * F::Planes::bytes(p);
        from[p] = start & ~15ull;
        bytes[p] = (u32)(((end + 15) & ~15ull) - from[p]);
        total += bytes[p];
    }
    barrier_expect(barrier, total);
#pragma unroll
    for (int p = 0; p < F::Planes::COUNT; p++) bulk_copy(slot + Slice<F>::offset(p), m.plane[p] + from[p], bytes[p], barrier);
}

template <class F, int N>
DEVICE void run_ring(const MatvecArgs& a, char* shared) {
    __shared__ u64 barriers[WARPS][MAX_STAGES];
    constexpr u32 UNIT = Slice<F>::UNIT;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, stages = a.stages;
    const u32 pieces = (a.m[0].columns + 31) / 32 * 32 / F::PIECE;
    const Shape s = shape_of(a, pieces, UNIT);
    const int vectors = a.sum_slots ? a.slots : N;
    const u32 ring = shared_address(shared) + vectors * Input<F>::vector_bytes(pieces) + warp * stages * Slice<F>::BYTES;
    const u32 full = shared_address(barriers[warp]);
    if (lane == 0) {
        for (u32 i = 0; i < stages; i++) barrier_init(full + 8 * i);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
    launch_next();
    if (a.expert) wait_for_previous();  // which weights to load is the previous kernel's result

    Walk next = {warp * gridDim.x + blockIdx.x, 0, 0};
    const auto issue_next = [&](u32 stage) {
        if (next.row >= s.rows) return;
        if (lane == 0) {
            int matrix;
            u32 row;
            locate(a, next, matrix, row);
            issue<F>(a.m[matrix], row * pieces + next.slice * UNIT, min(UNIT, pieces - next.slice * UNIT),
                     ring + stage * Slice<F>::BYTES, full + 8 * stage);
        }
        advance(next, s);
    };
    for (u32 i = 0; i < stages; i++) issue_next(i);

    if (!a.expert) wait_for_previous();
    prepare_input<F>(a, shared, vectors, pieces);

    float sum[N] = {};
    Row r;
    u32 stage = 0, parity = 0;
    for (Walk w = {warp * gridDim.x + blockIdx.x, 0, 0}; w.row < s.rows; advance(w, s)) {
        int matrix;
        u32 row;
        locate(a, w, matrix, row);
        if (w.slice == 0) begin_part<N>(a, w, matrix, row, r);
        const char* input = shared + (a.sum_slots ? w.part * Input<F>::vector_bytes(pieces) : 0);
        const u32 first = row * pieces + w.slice * UNIT, count = pieces - w.slice * UNIT, slot = ring + stage * Slice<F>::BYTES;
        SharedMatrix m;
#pragma unroll
        for (int p = 0; p < F::Planes::COUNT; p++)
            m.plane[p].address = slot + Slice<F>::offset(p) - ((u32)record_offset<F>(first, p) & ~15u);
        barrier_wait(full + 8 * stage, parity);
        typename F::Raw raw[Slice<F>::DEPTH];
#pragma unroll
        for (int d = 0; d < Slice<F>::DEPTH; d++)
            if (lane + 32 * d < count) raw[d] = F::load(m, first + lane + 32 * d);
        __syncwarp();
        issue_next(stage);
        if (++stage == stages) stage = 0, parity ^= 1;
#pragma unroll
        for (int d = 0; d < Slice<F>::DEPTH; d++)
            if (lane + 32 * d < count)
                add_piece<F, N>(raw[d], first + lane + 32 * d, input, pieces, w.slice * UNIT + lane + 32 * d, sum);
        if (w.slice + 1 == s.slices) end_part<N>(a, s, w, sum, r);
    }
}
