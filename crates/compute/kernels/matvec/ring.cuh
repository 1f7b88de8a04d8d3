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

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
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

// Lane p copies plane p: what it needs to know of it.
struct LanePlane {
    u32 bytes, shift, offset;  // of a record; log2 of the pieces it is for; in a slice
};

template <class F>
DEVICE LanePlane lane_plane(u32 lane) {
    LanePlane l = {0, 0, 0};
#pragma unroll
    for (int p = 0; p < F::Planes::COUNT; p++)
        if (lane == p) {
            const int pieces = F::Planes::values(p) / F::PIECE;
            l = {(u32)F::Planes::bytes(p), pieces >= 8 ? 3u : pieces >= 4 ? 2u : pieces >= 2 ? 1u : 0u, Slice<F>::offset(p)};
        }
    return l;
}

// Starts the copy of pieces first to first + count of a plane. The barrier counts one arrival for each plane.
DEVICE void issue(const LanePlane& l, const u8* plane, u32 first, u32 count, u32 slot, u32 barrier) {
    const u64 start = (u64)(first >> l.shift) * l.bytes;
    const u32 before = (u32)start & 15, length = ((count + (1u << l.shift) - 1) >> l.shift) * l.bytes;
    const u32 bytes = (before + length + 15) & ~15u;
    barrier_expect(barrier, bytes);
    bulk_copy(slot + l.offset, plane + start - before, bytes, barrier);
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
        for (u32 i = 0; i < stages; i++) barrier_init(full + 8 * i, F::Planes::COUNT);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
    launch_next();
    if (a.expert) wait_for_previous();  // which weights to load is the previous kernel's result

    const LanePlane mine = lane_plane<F>(lane);
    Walk next = {warp * gridDim.x + blockIdx.x, 0, 0};
    const auto issue_next = [&](u32 stage) {
        if (next.row >= s.rows) return;
        if (lane < F::Planes::COUNT) {
            int matrix;
            u32 row;
            locate(a, next, matrix, row);
            issue(mine, a.m[matrix].plane[lane], row * pieces + next.slice * UNIT, min(UNIT, pieces - next.slice * UNIT),
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
        // Two pieces of a lane at a time, loads first.
#pragma unroll
        for (u32 d = 0; d < UNIT; d += 64) {
            typename F::Raw raw[2];
#pragma unroll
            for (u32 e = 0; e < 64; e += 32)
                if (lane + d + e < count) raw[e / 32] = F::load(m, first + lane + d + e);
#pragma unroll
            for (u32 e = 0; e < 64; e += 32)
                if (lane + d + e < count)
                    add_piece<F, N>(raw[e / 32], first + lane + d + e, input, pieces, w.slice * UNIT + lane + d + e, sum);
        }
        __syncwarp();
        issue_next(stage);
        if (++stage == stages) stage = 0, parity ^= 1;
        if (w.slice + 1 == s.slices) end_part<N>(a, s, w, sum, r);
    }
}
