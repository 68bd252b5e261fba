// What the kernels of cuda_prefill.cu are made of: barriers and the ring of slots in shared memory,
// tiles, weights on their way from the fragment layout to bf16 registers, and wgmma. No kernel of
// its own; cuda_prefill.py puts it in front. Shapes and macros are explained in cuda_prefill.cu.

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

struct Raw {  // a lane's packed weights of one chunk and the four scales of its two rows
    uint4 words;
    u32 scales;
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

// Arrive at the same barrier of block `rank` of the cluster. With no scope named: products that have
// ended read nothing any more, and a release to the cluster would be a fence of the whole GPU.
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
// empty again when the eight consumer warps of each block of the cluster did. In shared memory, from a multiple of 1,024 on:
// slots, staging of the epilogues, barriers.
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

// ---------------------------------------------------------------- weights

// Not .nc: such loads the compiler moves together to the end of the main loop, one chunk before they
// are needed instead of DEPTH.
__device__ __forceinline__ Raw load_raw(const uint4* blocks, const u32* scales) {
    Raw raw;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.words.x), "=r"(raw.words.y), "=r"(raw.words.z), "=r"(raw.words.w)
                 : "l"(blocks)
                 : "memory");
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(raw.scales) : "l"(scales) : "memory");
    return raw;
}

__device__ __forceinline__ u32 times(u32 a, u32 b) {
    u32 product;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

// Byte `kByte` of `codes`, an E8M0 scale of at most 128, as 2^(code - 1) twice in bf16.
template <int kByte>
__device__ __forceinline__ u32 multiplier(u32 codes) {
    u32 twice;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(twice) : "r"(codes), "n"(0x4040 + 0x101 * kByte));
    return twice * 128u + 0x3F003F00u;
}

// One word of a lane -> its four A registers of one wgmma step.
__device__ __forceinline__ void unpack_word(u32 w, u32 scale_low, u32 scale_high, u32* a) {
    constexpr u32 kValue = 0x81C081C0u;  // sign, two exponent bits, one mantissa bit
    a[0] = times(w & kValue, scale_low);
    a[1] = times((w << 3) & kValue, scale_high);
    a[2] = times((w << 6) & kValue, scale_low);
    u32 last = ((w << 1) & 0x80008000u) | ((w >> 5) & 0x01000100u) | ((w >> 4) & 0x00C000C0u);
    a[3] = times(last, scale_high);
}

__device__ __forceinline__ void unpack(Raw& raw, u32 (&a)[16]) {
    // The empty statements hold the arithmetic between them: after the wait that frees the
    // registers of `a`, before the fence of the products that read them.
    asm volatile("" : "+r"(raw.words.x), "+r"(raw.words.y), "+r"(raw.words.z), "+r"(raw.words.w));
    u32 low0 = multiplier<0>(raw.scales), high0 = multiplier<1>(raw.scales);
    u32 low1 = multiplier<2>(raw.scales), high1 = multiplier<3>(raw.scales);
    unpack_word(raw.words.x, low0, high0, a);
    unpack_word(raw.words.y, low0, high0, a + 4);
    unpack_word(raw.words.z, low1, high1, a + 8);
    unpack_word(raw.words.w, low1, high1, a + 12);
#pragma unroll
    for (int i = 0; i < 16; i++) asm volatile("" : "+r"(a[i]));
}

// Where one warp's weights are: 16 rows, chunk after chunk.
struct Stream {
    const uint4* blocks;
    const u32* scales;
    Raw raw[DEPTH];

    // Point at the 16-row tile number `row_tile` of all experts and load the first chunks.
    template <int kChunks>
    __device__ __forceinline__ void open(const uint4* all_blocks, const u32* all_scales,
                                         long long row_tile, int lane) {
        blocks = all_blocks + row_tile * (kChunks * 32) + lane;
        scales = all_scales + row_tile * (kChunks * 8) + (lane >> 2);
#pragma unroll
        for (int i = 0; i < DEPTH && i < kChunks; i++) {
            raw[i] = load_raw(blocks + i * 32, scales + i * 8);
        }
        // The rest of the first 4 KB, and all scales, on their way to the L2.
        prefetch((const char*)(blocks - lane) + lane * 128);
        if (lane * 128 < kChunks * 32) prefetch((const char*)(scales - (lane >> 2)) + lane * 128);
    }
    // Unpack chunk `chunk` to `a`, and load the one that takes its place.
    template <int kChunks>
    __device__ __forceinline__ void next(int chunk, int place, u32 (&a)[16]) {
        unpack(raw[place], a);
        int c = chunk + DEPTH;
        if (c < kChunks) raw[place] = load_raw(blocks + c * 32, scales + c * 8);
    }
    // Bring the eight chunks from `chunk` on into the L2, a line a lane.
    template <int kChunks>
    __device__ __forceinline__ void ahead(int chunk, int lane) const {
        int line = chunk * 4 + lane;
        if (line < kChunks * 4) prefetch((const char*)(blocks - lane) + line * 128);
    }
    static __device__ __forceinline__ void prefetch(const char* address) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
    }
};

// ---------------------------------------------------------------- wgmma, weights in registers

#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define R48 R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define R64 R48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define R80 R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define R96 R80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define R112 R96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define R128 R112 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
#define D32 D16(0), D16(16)
#define D64 D32, D16(32), D16(48)
#define D48 D32, D16(32)
#define D96 D64, D16(64), D16(80)
#define D128 D96, D16(96), D16(112)

// d[64 weight rows, kN token rows] += a[64, 16] b[16, kN].
template <int kN>
struct Product;

#define DEFINE_PRODUCT(N, REGISTERS, OPERANDS, A0, A1, A2, A3, B)                                 \
    template <>                                                                                   \
    struct Product<N> {                                                                           \
        static __device__ __forceinline__ void run(float (&d)[N / 2], const u32* a, u64 b) {      \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS   \
                         "}, {" A0 "," A1 "," A2 "," A3 "}, " B ", 1, 1, 1, 0;"                   \
                         : OPERANDS                                                               \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                     \
                         : "memory");                                                             \
        }                                                                                         \
    };
DEFINE_PRODUCT(32, R16, D16(0), "%16", "%17", "%18", "%19", "%20")
DEFINE_PRODUCT(64, R32, D32, "%32", "%33", "%34", "%35", "%36")
DEFINE_PRODUCT(96, R48, D48, "%48", "%49", "%50", "%51", "%52")
DEFINE_PRODUCT(128, R64, D64, "%64", "%65", "%66", "%67", "%68")
DEFINE_PRODUCT(256, R128, D128, "%128", "%129", "%130", "%131", "%132")

__device__ __forceinline__ void products_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// wgmma's description of a slot: rows of 128 bytes, swizzled, eight of them 1,024 bytes.
__device__ __forceinline__ u64 describe(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}
