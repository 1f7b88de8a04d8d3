// Instructions of compute capability 9.0a for the matrix product: barriers in shared memory (mbarrier), bulk copies from
// global to shared memory, and the asynchronous product of a warpgroup with A in registers and B in shared memory.
// Facts: PTX ISA, chapters "mbarrier", "cp.async.bulk" and "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once
#include "common.cuh"

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// ---- barriers: `arrivals` threads arrive and the announced bytes come in, then the phase changes ----

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes the initialised barriers known to the copy engine.
DEVICE void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Arrives at the barrier with this address in block `rank` of the cluster.
DEVICE void barrier_arrive_at(u32 barrier, u32 rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}\n" ::"r"(barrier), "r"(rank)
        : "memory");
}
DEVICE void barrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until the phase with this parity has ended.
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\n"
        "bra WAIT;\n"
        "DONE:\n"
        "}\n" ::"r"(barrier), "r"(parity)
        : "memory");
}
// A barrier among `threads` threads of the block; number 0 is __syncthreads.
DEVICE void named_barrier(u32 number, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// All threads of the cluster's blocks.
DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
DEVICE u32 cluster_rank() {
    u32 r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

// Copies `bytes` (a multiple of 16) to the same place in both blocks of a cluster and reports them to both barriers.
DEVICE void bulk_copy_to_both(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "h"((u16)3)
        : "memory");
}

// ---- the product ----

// Before the first product and after any change of the registers it reads.
DEVICE void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `left` committed groups are still running.
template <int left>
DEVICE void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

// B in shared memory: rows of 128 bytes (64 halfs), 8 rows a swizzle pattern of 1024 bytes, patterns one after another.
DEVICE u64 product_operand(u32 address) {
    return ((u64)(address & 0x3ffff) >> 4) | (1ull << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62);
}

// d[64][N] (+)= a[64][16] * b[N][16]^T. d: thread t of a warp holds rows t/4 and t/4 + 8 of the warp's 16, columns
// 8 j + 2 (t % 4) and the next: d[4 j + 2 h + e] is row t/4 + 8 h, column 8 j + 2 (t % 4) + e.
template <int N>
DEVICE void product(float (&d)[N / 2], const u32 (&a)[4], u64 b, u32 add);

#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D8(i) D4(i), D4(i + 4)
#define D16(i) D8(i), D8(i + 8)
#define D32(i) D16(i), D16(i + 16)
#define D64(i) D32(i), D32(i + 32)
#define R8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define R16 R8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define R64                                                                                                         \
    R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57," \
        "%58,%59,%60,%61,%62,%63"
#define R128                                                                                                           \
    R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,"   \
        "%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,"   \
        "%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define PRODUCT(N, REGISTERS, OPERANDS, A0, A1, A2, A3, B, ADD)                                                    \
    template <>                                                                                                    \
    DEVICE void product<N>(float(&d)[N / 2], const u32(&a)[4], u64 b, u32 add) {                                   \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" ADD ", 0;\n"                                             \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" REGISTERS "}, {%" A0 ",%" A1 ",%" A2 \
                     ",%" A3 "}, %" B ", p, 1, 1, 0;\n}\n"                                                         \
                     : OPERANDS                                                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                              \
    }
#define BOTH64(i) D64(i), D64(i + 64)
PRODUCT(16, R8, D8(0), "8", "9", "10", "11", "12", "13")
PRODUCT(32, R16, D16(0), "16", "17", "18", "19", "20", "21")
PRODUCT(64, R32, D32(0), "32", "33", "34", "35", "36", "37")
PRODUCT(128, R64, D64(0), "64", "65", "66", "67", "68", "69")
PRODUCT(256, R128, BOTH64(0), "128", "129", "130", "131", "132", "133")
