// What the kernels of cuda_prefill.cu share: barriers and the ring of slots in shared memory, and
// tiles. No kernel of its own; cuda_prefill.py puts it in front. Shapes and macros are explained in
// cuda_prefill.cu.

typedef unsigned int u32;
typedef unsigned long long u64;

static_assert(HIDDEN % 64 == 0 && INTERMEDIATE % 64 == 0, "rows and columns come in 64s");
static_assert(STAGES >= LAG + 2, "the gather would wait for itself");
static_assert(STAGGER < STAGES - LAG, "the late warpgroup would wait for ever");
static_assert(MAX_ROWS == 128 || MAX_ROWS == 256, "sizes of tiles");
static_assert(CLUSTER == 1 || (CLUSTER == 2 && PLACED), "rows that are gathered go to one block");
static_assert(DEPTH == 2 || DEPTH == 4, "the loop is unrolled by it");

constexpr int kSlot = MAX_ROWS * 128;          // bytes of a ring slot: rows x 64 k of bf16
constexpr int kStaging = 16384;                // bytes a warpgroup has to turn results in
constexpr int kGather = 128;                   // threads that copy activations
constexpr int kConsumerWarps = 8;

// What a block works on now: token rows (the numbers of `groups.work`) and 64 weight rows for each
// of its two warpgroups.
struct Tile {
    int expert, first_row, rows;  // rows == 0: no tile
    int group, groups;            // the first 64 weight rows; how many such groups: 0, 1 or 2
};

// ---------------------------------------------------------------- shared memory and barriers

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrive at the same barrier of block `rank` of the cluster. With no scope named: products that
// have ended read nothing any more, and a release to the cluster would be a fence of the whole GPU.
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, u32 rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
        "r"(rank)
        : "memory");
}

// All threads of the cluster.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ bool barrier_try(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
#ifdef WAIT_LIMIT_NS
    u64 begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    while (!barrier_try(barrier, parity)) {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
        if (now - begin > WAIT_LIMIT_NS) asm volatile("trap;");
    }
#else
    while (!barrier_try(barrier, parity)) {
    }
#endif
}

__device__ __forceinline__ void warpgroup_sync(int group) {  // of the two that multiply
    if (group == 0) {
        asm volatile("bar.sync 1, 128;" ::: "memory");
    } else {
        asm volatile("bar.sync 2, 128;" ::: "memory");
    }
}

// The thread's number, read anew: what is derived from it is then computed where it is used and
// does not take registers of the main loop.
__device__ __forceinline__ int fresh_thread() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

__device__ __forceinline__ bool first_lane() { return (fresh_thread() & 31) == 0; }
// Which of the two warpgroups that multiply.
__device__ __forceinline__ int consumer_group() { return fresh_thread() / 128 - 1; }

// The ring of activation chunks. A slot is full when its producers arrived (or its bytes), and
// empty again when the eight consumer warps of each block of the cluster did. In shared memory,
// from a multiple of 1,024 on: slots, staging of the epilogues, barriers.
struct Ring {
    u32 base;
    int slot;
    u32 parity;

    __device__ __forceinline__ void advance() {
        if (++slot == STAGES) {
            slot = 0;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ u32 data() const { return base + slot * kSlot; }
    __device__ __forceinline__ u32 staging() const { return base + STAGES * kSlot; }
    __device__ __forceinline__ u32 full_at(int s) const { return staging() + 2 * kStaging + s * 8; }
    __device__ __forceinline__ u32 empty_at(int s) const { return full_at(s) + STAGES * 8; }
    __device__ __forceinline__ int previous() const { return (slot == 0 ? STAGES : slot) - 1; }
    // Called by whole warps whose lanes have all seen slot `s`.
    __device__ __forceinline__ void release(int s) const {
        if (CLUSTER == 1) {
            if (first_lane()) barrier_arrive(empty_at(s));
        } else {
            u32 lane = fresh_thread() & 31;
            if (lane < CLUSTER) barrier_arrive_at(empty_at(s), lane);
        }
    }
};

// Copy `bytes` of global memory to shared memory, in all blocks of the cluster, at the same place;
// they count for the barrier `full` of each.
__device__ __forceinline__ void copy_bulk(u32 to, const char* from, u32 bytes, u32 full) {
#if CLUSTER == 1
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(full)
        : "memory");
#else
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(full), "h"((unsigned short)((1 << CLUSTER) - 1))
        : "memory");
#endif
}

// ---------------------------------------------------------------- tiles

// Token rows that are computed for `rows` of a tile: those past the end are computed for nothing.
// (With more sizes the compiler runs out of registers for asynchronous products.)
__device__ __forceinline__ int padded(int rows) {
#if MAX_ROWS == 256
    return rows > 128 ? 256 : rows > 64 ? 128 : 64;
#else
    return (rows + 31) & ~31;
#endif
}

// Where a tile's rows of `width` values begin, in bytes, in h and in the copy of x that place_many
// makes: only the last tile of an expert is padded, by up to 127 rows. Inside: [width / 64][padded
// rows][64], the 16-byte pieces of 128 bytes swizzled as wgmma reads them, so that one copy fills a
// ring slot.
__device__ __forceinline__ u64 tile_begin(int expert, int first_row, int width) {
    return (u64)(first_row + 127 * expert) * (width * 2);
}

__device__ __forceinline__ int cluster_rank() { return blockIdx.x % CLUSTER; }
__device__ __forceinline__ int first_index() { return blockIdx.x / CLUSTER; }
__device__ __forceinline__ int index_step() { return gridDim.x / CLUSTER; }

// Tile number `index` of the cluster. Each block takes 128 weight rows of the same token rows. What
// is left of the `kGroups` * 64 weight rows is divided among the blocks; such short tiles come
// last, after the full ones of all work items, so that the clusters end at about the same time.
template <int kGroups>
__device__ __forceinline__ Tile tile_at(int index, const int4* work, int num_work) {
    constexpr int kFull = kGroups / (2 * CLUSTER), kRest = kGroups % (2 * CLUSTER);
    constexpr int kEach = (kRest + CLUSTER - 1) / CLUSTER;
    static_assert(kFull > 0, "fewer weight rows than a cluster takes");
    Tile tile = {0, 0, 0, 0, 0};
    int at = index / kFull, rank = cluster_rank();
    if (at < num_work) {
        tile.group = (index % kFull * CLUSTER + rank) * 2;
        tile.groups = 2;
    } else if (kRest > 0) {
        at = index - num_work * kFull;
        int left = kRest - rank * kEach;
        tile.group = kFull * CLUSTER * 2 + rank * kEach;
        tile.groups = left < 0 ? 0 : left < kEach ? left : kEach;
    }
    if (at < num_work) {
        int4 item = __ldg(work + at);
        tile.expert = item.x;
        tile.first_row = item.y;
        tile.rows = item.z;
    } else {
        tile.groups = 0;
    }
    return tile;
}
