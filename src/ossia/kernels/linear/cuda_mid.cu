// Products of 65 to 256 tokens with a weight, on Hopper (sm_90a): what qkv/, attention_out/ and
// lm_head/ share. Each puts its epilogue and its kernel behind this text.
//
//   y[t, r] = sum_k x[t, k] w[r, k], in float32
//
// Bytes: each weight once from memory, 2 a weight in bfloat16. From the L2 a block draws
// (ROWS + tokens) * INPUTS / SPLITS * 2 bytes, and all blocks together at most some 6 TB/s, so
// tiles are large: 128 rows x 256 tokens is what the registers of a multiprocessor hold well.
//
// Launch shape: a block has a tile of ROWS rows of the weight, 64 * GROUPS tokens and one of SPLITS
// ranges of the columns. The splits of a tile are a cluster: 5120 rows are 40 tiles of 128 with 3
// splits, 120 blocks for 132 multiprocessors; 2880 are 30 tiles of 96 with 4. One lane of the last
// warp has the tensor copy engine bring 64 columns at a time of both operands into a ring in shared
// memory; weights that no kernel writes already before the wait of dependent launch. Each of GROUPS
// warpgroups multiplies 64 tokens, the M side of wgmma, by all rows of the tile. Then the blocks of
// a cluster hand each other their sums: block s adds up, in order of the splits, and finishes part
// s of the tile. Nothing depends on which block is first, nor on how many tokens there are.
// With SHARE = 2 (and one split) a cluster is two tiles of rows, and each of the two blocks brings
// half of the tokens, for both.
//
// Macros: ROWS, GROUPS, INPUTS, STAGES (of the ring), SPLITS, SHARE, BLOCKS (of a multiprocessor),
// and, in tests, WAIT_LIMIT_NS (a wait that takes longer ends the kernel with an error).

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int kChunk = 64;  // columns of a slot of the ring: 128 bytes, a row of the swizzle
constexpr int kTokens = GROUPS * 64;
constexpr int kWorkers = GROUPS * 128;  // threads that multiply
constexpr int kThreads = kWorkers + 32;
constexpr int kCluster = SPLITS * SHARE;
constexpr int kWeightBytes = ROWS * 128;  // of a slot: weights first, then tokens
constexpr int kSlot = kWeightBytes + kTokens * 128;
constexpr int kChunks = (INPUTS + kChunk - 1) / kChunk;
// A thread's sums come in units of 16 rows, 8 values: one row for two tokens, four times two rows.
constexpr int kUnits = ROWS / 16;

static_assert(ROWS % 16 == 0 && ROWS * 128 % 1024 == 0, "slots begin at multiples of 1,024");
static_assert(SPLITS == 1 || SHARE == 1, "a cluster is of splits or of tiles");
static_assert(SPLITS <= 4 && kChunks >= SPLITS, "every split has columns");

// Descriptions of the operands for the tensor copy engine, made by cuda_mid.py.
struct alignas(64) Maps {
    u64 weight[16];  // boxes of ROWS x 64
    u64 x[16];       // boxes of (tokens / SHARE) x 64
};

// ---------------------------------------------------------------- shared memory and barriers

extern __shared__ unsigned char shared_memory[];

__device__ __forceinline__ u32 ring_begin() {
    return ((u32)__cvta_generic_to_shared(shared_memory) + 1023) & ~1023u;
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ u32 address_in(u32 address, u32 rank) {  // of another block's memory
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
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

// All threads of the cluster; what was written before, there too, is seen after.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// Slots that the copy engine fills. A slot is full when its bytes are there, and empty again when
// the multiplying warps of every block that its tokens went to are through with it.
struct Ring {
    u32 base;
    int slot;
    u32 parity;

    __device__ __forceinline__ u32 data() const { return base + slot * kSlot; }
    __device__ __forceinline__ u32 full_at(int s) const { return base + STAGES * kSlot + s * 8; }
    __device__ __forceinline__ u32 empty_at(int s) const { return full_at(s) + STAGES * 8; }
    __device__ __forceinline__ int previous() const { return (slot == 0 ? STAGES : slot) - 1; }
    __device__ __forceinline__ void advance() {
        if (++slot == STAGES) {
            slot = 0;
            parity ^= 1;
        }
    }
    // By whole warps whose lanes have all seen slot `s`. No scope is named: products that have
    // ended read nothing any more.
    __device__ __forceinline__ void release(int s) const {
        u32 lane = threadIdx.x & 31;
        if (SHARE == 1) {
            if (lane == 0) {
                asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(empty_at(s))
                             : "memory");
            }
        } else if (lane < SHARE) {
            asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                             address_in(empty_at(s), lane))
                         : "memory");
        }
    }
};

// ---------------------------------------------------------------- where a block is

struct Place {
    int tile;   // of the rows
    int rank;   // in the cluster: the split, or which half of the tokens it brings
    int first;  // token

    __device__ __forceinline__ int begin() const { return SPLITS == 1 ? 0 : kChunks * rank / SPLITS; }
    __device__ __forceinline__ int end() const {
        return SPLITS == 1 ? kChunks : kChunks * (rank + 1) / SPLITS;
    }
};

__device__ __forceinline__ Place find_place() {
    int x = blockIdx.x;
    return {SPLITS == 1 ? x : x / SPLITS, x % kCluster, (int)blockIdx.y * kTokens};
}

// ---------------------------------------------------------------- copies

__device__ __forceinline__ void copy_box(u32 to, const void* map, int column, int row, u32 full) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(map), "r"(column), "r"(row), "r"(full)
        : "memory");
}

__device__ __forceinline__ void copy_weights(const Ring& ring, int slot, const Maps& maps,
                                             const Place& place, int chunk) {
    u32 full = ring.full_at(slot);
    barrier_expect(full, kSlot);
    copy_box(ring.base + slot * kSlot, maps.weight, chunk * kChunk, place.tile * ROWS, full);
}

__device__ __forceinline__ void copy_tokens(const Ring& ring, int slot, const Maps& maps,
                                            const Place& place, int chunk) {
    constexpr int kOwn = kTokens / SHARE;
    u32 full = ring.full_at(slot), to = ring.base + slot * kSlot + kWeightBytes;
    if (SHARE == 1) {
        copy_box(to, maps.x, chunk * kChunk, place.first, full);
    } else {
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
            ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to +
                                                                         place.rank * kOwn * 128),
            "l"(maps.x), "r"(chunk * kChunk), "r"(place.first + place.rank * kOwn), "r"(full),
            "h"((u16)((1 << SHARE) - 1))
            : "memory");
    }
}

// One lane. Bytes that arrive from the other block before this one expects them count as well.
__device__ __forceinline__ void fetch(Ring ring, const Maps& maps, const Place& place) {
    int begin = place.begin(), end = place.end();
    int ahead = end - begin < STAGES ? end - begin : STAGES;
    for (int s = 0; s < ahead; s++) copy_weights(ring, s, maps, place, begin + s);
    asm volatile("griddepcontrol.wait;" ::: "memory");
    for (int s = 0; s < ahead; s++) copy_tokens(ring, s, maps, place, begin + s);
    for (int chunk = begin + ahead; chunk < end; chunk++, ring.advance()) {
        barrier_wait(ring.empty_at(ring.slot), ring.parity);
        copy_weights(ring, ring.slot, maps, place, chunk);
        copy_tokens(ring, ring.slot, maps, place, chunk);
    }
}

// ---------------------------------------------------------------- the product

#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R24 R16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define R32 R24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define R48 R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define R64 R48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define R80 R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define R96 R80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
#define D24 D16(0), D4(16), D4(20)
#define D32 D16(0), D16(16)
#define D48 D32, D16(32)
#define D64 D48, D16(48)
#define D96 D64, D16(64), D16(80)

// d[64 tokens, N rows] += a[64, 16] b[16, N], both in shared memory.
template <int N>
struct Product;

#define DEFINE_PRODUCT(N, REGISTERS, OPERANDS, A, B)                                            \
    template <>                                                                                 \
    struct Product<N> {                                                                         \
        static __device__ __forceinline__ void run(float (&d)[N / 2], u64 a, u64 b) {           \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS \
                         "}, " A ", " B ", 1, 1, 1, 0, 0;"                                      \
                         : OPERANDS                                                             \
                         : "l"(a), "l"(b)                                                       \
                         : "memory");                                                           \
        }                                                                                       \
    };
DEFINE_PRODUCT(48, R24, D24, "%24", "%25")
DEFINE_PRODUCT(64, R32, D32, "%32", "%33")
DEFINE_PRODUCT(96, R48, D48, "%48", "%49")
DEFINE_PRODUCT(128, R64, D64, "%64", "%65")
DEFINE_PRODUCT(192, R96, D96, "%96", "%97")

template <int kPending>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// wgmma's description of rows of 128 bytes, swizzled, eight of them 1,024 bytes.
__device__ __forceinline__ u64 describe(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ __forceinline__ void multiply(float (&d)[ROWS / 2], Ring& ring, int chunks) {
    const u32 own = kWeightBytes + threadIdx.x / 128 * 8192;  // the warpgroup's 64 tokens
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(d[i]));
#pragma unroll 1
    for (int c = 0; c < chunks; c++) {
        barrier_wait(ring.full_at(ring.slot), ring.parity);
        u64 a = describe(ring.data() + own), b = describe(ring.data());
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        Product<ROWS>::run(d, a, b);
        Product<ROWS>::run(d, a + 2, b + 2);  // 16 columns are 32 bytes, in units of 16
        Product<ROWS>::run(d, a + 4, b + 4);
        Product<ROWS>::run(d, a + 6, b + 6);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        products_wait<1>();
        if (c > 0) ring.release(ring.previous());
        ring.advance();
    }
    products_wait<0>();
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// ---------------------------------------------------------------- the sum over the splits

__device__ constexpr int first_unit(int rank) { return kUnits * rank / SPLITS; }
__device__ constexpr int owner_of(int unit) {
    int rank = 0;
    while (first_unit(rank + 1) <= unit) rank++;
    return rank;
}
constexpr int kMostUnits = (kUnits + SPLITS - 1) / SPLITS;  // of a block
// Sums on their way: [from split][unit of the block][two of them][thread] x 16 bytes.
constexpr int kExchangeBytes = SPLITS == 1 ? 0 : SPLITS * kMostUnits * 2 * kWorkers * 16;
static_assert(kExchangeBytes <= STAGES * kSlot, "the sums go where the ring was");

__device__ __forceinline__ u32 exchange_at(u32 base, int split, int unit_of_block, int half) {
    return base + ((split * kMostUnits + unit_of_block) * 2 + half) * (kWorkers * 16) +
           threadIdx.x * 16;
}

// The numbers of d that make a unit: column blocks `first` and `second` of eight rows each.
template <typename Epilogue>
__device__ __forceinline__ void take(const float (&d)[ROWS / 2], int unit, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = d[Epilogue::block_of(unit, 0) * 4 + i];
        v[4 + i] = d[Epilogue::block_of(unit, 1) * 4 + i];
    }
}

// v is this block's part of the sum, then the sum.
template <int kRank>
__device__ __forceinline__ void add_up(float (&v)[8], u32 base, int unit_of_block) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total[4] = {0, 0, 0, 0};
#pragma unroll
        for (int split = 0; split < SPLITS; split++) {
            float part[4];
            if (split != kRank) {
                asm volatile("ld.shared::cta.v4.f32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(part[0]), "=f"(part[1]), "=f"(part[2]), "=f"(part[3])
                             : "r"(exchange_at(base, split, unit_of_block, half))
                             : "memory");
            }
#pragma unroll
            for (int i = 0; i < 4; i++) total[i] += split == kRank ? v[half * 4 + i] : part[i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) v[half * 4 + i] = total[i];
    }
}

// What is left to do for block kRank of a cluster of splits. Its number is known to the compiler,
// which then knows what each register is good for.
template <int kRank, typename Epilogue>
__device__ __forceinline__ void finish(const float (&d)[ROWS / 2], u32 base,
                                       const Epilogue& epilogue) {
    constexpr int kFirst = first_unit(kRank), kOwn = first_unit(kRank + 1) - kFirst;
#pragma unroll
    for (int unit = 0; unit < kUnits; unit++) {
        const int owner = owner_of(unit);
        if (owner == kRank) continue;
        float v[8];
        take<Epilogue>(d, unit, v);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 to = address_in(exchange_at(base, kRank, unit - first_unit(owner), half), owner);
            asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to),
                         "f"(v[half * 4]), "f"(v[half * 4 + 1]), "f"(v[half * 4 + 2]),
                         "f"(v[half * 4 + 3])
                         : "memory");
        }
    }
    cluster_arrive();
    typename Epilogue::Extra extra[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; i++) extra[i] = epilogue.fetch(kFirst + i);
    cluster_wait();
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
        float v[8];
        take<Epilogue>(d, kFirst + i, v);
        add_up<kRank>(v, base, i);
        epilogue.store(kFirst + i, v, extra[i]);
    }
}

// ---------------------------------------------------------------- the kernel

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
__device__ __forceinline__ float low_half(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// What a thread has of a unit: two neighbouring rows of each of two blocks of eight, for two
// tokens. v[0], v[1]: the rows of the first block for the first token; v[2], v[3]: for the second
// token; v[4] to v[7]: the second block.
__device__ __forceinline__ int own_token(const Place& place, int which) {
    return place.first + threadIdx.x / 32 * 16 + which * 8 + threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int own_row(const Place& place, int block) {
    return place.tile * ROWS + block * 8 + threadIdx.x % 4 * 2;
}

// An epilogue has: block_of(unit, half); begin(place), called after the kernel before has ended;
// Extra fetch(unit), what it wants to read while sums are under way; store(unit, v, extra).
template <typename Epilogue>
__device__ __forceinline__ void run(const Maps& maps, Epilogue& epilogue) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    const Place place = find_place();
    Ring ring = {ring_begin(), 0, 0};
    if (threadIdx.x == kWorkers) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(maps.weight) : "memory");
        asm volatile("prefetch.tensormap [%0];" ::"l"(maps.x) : "memory");
        for (int s = 0; s < STAGES; s++) {
            barrier_init(ring.full_at(s), 1);
            barrier_init(ring.empty_at(s), GROUPS * 4 * SHARE);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (SHARE > 1) {  // before anything arrives from the other block
        cluster_arrive();
        cluster_wait();
    }
    if (threadIdx.x >= kWorkers) {
        if (threadIdx.x == kWorkers) fetch(ring, maps, place);
        __syncwarp();
        if (SPLITS > 1) {
            cluster_arrive();
            cluster_wait();
        }
        if (kCluster > 1) {
            cluster_arrive();
            cluster_wait();
        }
        return;
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
    epilogue.begin(place);
    float d[ROWS / 2];
    multiply(d, ring, place.end() - place.begin());
    if (SPLITS == 1) {
        if (SHARE > 1) cluster_arrive();
#pragma unroll
        for (int unit = 0; unit < kUnits; unit++) {
            float v[8];
            take<Epilogue>(d, unit, v);
            epilogue.store(unit, v, epilogue.fetch(unit));
        }
        if (SHARE > 1) cluster_wait();  // the other block may arrive at barriers of this one
    } else {
        cluster_arrive();
        cluster_wait();  // nobody reads its ring any more
        switch (place.rank) {
            case 0: return finish<0>(d, ring.base, epilogue);
#if SPLITS > 1
            case 1: return finish<1>(d, ring.base, epilogue);
#endif
#if SPLITS > 2
            case 2: return finish<2>(d, ring.base, epilogue);
#endif
#if SPLITS > 3
            case 3: return finish<3>(d, ring.base, epilogue);
#endif
        }
    }
}

#if SPLITS * SHARE > 1
#define CLUSTER_DIMS __cluster_dims__(SPLITS *SHARE, 1, 1)
#else
#define CLUSTER_DIMS
#endif
