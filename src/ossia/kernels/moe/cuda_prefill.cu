// Experts over many rows (prefill), weights in MXFP4, activations in bf16, on Hopper (sm_90a):
//
//   gate_up_many:  h[row] = swiglu(G[e] x[token of row] + bias)      e = expert of the row
//   down_many:     y[pair of row] = D[e] h[row] + bias
//
// Bytes: at 1,000 rows an expert the arithmetic dominates (2 * rows * R * K operations at about
// 800 TFLOP/s); below about 80 rows the weights do (0.53 bytes a value). Both come once from memory
// and then again and again from the L2: for each tile and chunk 4 KB of weights and 128 bytes a
// token row, up to 37 KB for 2.1 million multiply-adds, about all that the L2 can give. Hence
// clusters of two blocks that work on the same token rows: each brings half of them, for both.
//
// Launch: one block an SM, persistent, 384 threads. A tile is 128 weight rows x up to MAX_ROWS
// token rows of one expert. Warpgroup 0 brings activations, 64 k ("chunk") at a time, into a ring
// in shared memory; warpgroups 1 and 2 each multiply 64 weight rows by them with wgmma. Weights are
// the operand in registers: the fragment layout (see hopper_layout.py) gives a lane its 32 values
// of a chunk with one 16-byte load; it makes bf16 of them while the tensor cores work on the chunk
// before. No split over k, no atomics: results do not depend on timing. One copy a slot needs
// activations that lie in the order of the ring: gate_up_many leaves h so, and place_many copies
// rows of x, 2 * HIDDEN bytes a pair written once and read once more.
//
// Compiled without headers, behind cuda_prefill_parts.cu (barriers, ring, tiles),
// cuda_prefill_products.cu (weights, wgmma) and cuda_prefill_epilogues.cu. Defined from outside:
// HIDDEN, INTERMEDIATE, TOP_K (numbers of the model), MAX_ROWS (128 or 256, of a tile; tiles of 128
// leave registers for more sizes of tiles and for weights), STAGES (slots of the ring), CLUSTER
// (blocks that share token rows, 1 or 2), DEPTH (chunks of weights in flight to registers, 2 or 4),
// PLACED (1: x comes from place_many; 0: threads gather its rows, without a cluster), LAG (chunks
// that this gather keeps in flight), STAGGER (chunks by which the second warpgroup starts late, so
// that one's epilogue runs under the other's products), and, in tests, WAIT_LIMIT_NS (a wait that
// takes longer stops the kernel with an error).

// ---------------------------------------------------------------- the product

// The four steps of one chunk. When the chunk before is done its slot goes back to the producer.
template <int kN>
__device__ __forceinline__ void multiply_chunk(float (&d)[kN / 2], const u32 (&a)[16], Ring& ring,
                                               int chunk) {
    barrier_wait(ring.full_at(ring.slot), ring.parity);
    u64 b = describe(ring.data());
    products_fence();
    Product<kN>::run(d, a, b);
    Product<kN>::run(d, a + 4, b + 2);  // 16 k are 32 bytes, in units of 16
    Product<kN>::run(d, a + 8, b + 4);
    Product<kN>::run(d, a + 12, b + 6);
    products_commit();
    products_wait<1>();
    if (chunk > 0) ring.release(ring.previous());
    ring.advance();
}

// d[64 weight rows, kN token rows] over all k. Chunk c + 1 is unpacked while the tensor cores
// multiply chunk c, the DEPTH chunks behind it are on their way from memory.
template <int kN, int kChunks>
__device__ __forceinline__ void multiply(float (&d)[kN / 2], Ring& ring, Stream& stream) {
    u32 a[2][16];
    // Written here and not left to the first product: registers without a first value would be
    // kept for the whole kernel, those of every size of tile.
#pragma unroll
    for (int i = 0; i < kN / 2; i++) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(d[i]));
    stream.next<kChunks>(0, 0, a[0]);
#pragma unroll 1
    for (int c = 0; c + DEPTH <= kChunks; c += DEPTH) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            multiply_chunk<kN>(d, a[i % 2], ring, c + i);
            stream.next<kChunks>(c + i + 1, (i + 1) % DEPTH, a[(i + 1) % 2]);
        }
        if (c % 8 == 0) stream.ahead<kChunks>(c + 8, fresh_thread() & 31);
    }
#pragma unroll
    for (int i = 0; i < kChunks % DEPTH; i++) {
        multiply_chunk<kN>(d, a[i % 2], ring, kChunks - kChunks % DEPTH + i);
        if (i + 1 < kChunks % DEPTH) unpack(stream.raw[i + 1], a[(i + 1) % 2]);
    }
    products_wait<0>();
#pragma unroll
    for (int i = 0; i < kN / 2; i++) asm volatile("" : "+f"(d[i])::"memory");
    ring.release(ring.previous());
}

// ---------------------------------------------------------------- roles

// Both consumer warpgroups. Tiles are looked up again where they are needed: the registers of the
// main loop are all taken.
template <int kRows, int kChunks, typename Epilogue>
struct Consumer {
    static_assert(kChunks > 1 && kChunks > STAGGER, "too few columns");
    const uint4* blocks;
    const u32* scales;
    const int4* work;
    int num_work;
    Epilogue epilogue;
    Ring ring;
    Stream stream;

    __device__ __forceinline__ Tile tile(int index) const {
        return tile_at<kRows / 64>(index, work, num_work);
    }
    // The number of this warp's 16 rows among those of all experts.
    __device__ __forceinline__ long long row_tile(const Tile& tile) const {
        return (long long)tile.expert * (kRows / 16) + tile.group * 4 + (fresh_thread() >> 5) - 4;
    }
    __device__ __forceinline__ void open(int index) {
        Tile next = tile(index);
        if (consumer_group() >= next.groups) return;
        stream.template open<kChunks>(blocks, scales, row_tile(next), fresh_thread() & 31);
    }
    // The next tile's first weights are on their way before the epilogue.
    template <int kN>
    __device__ __forceinline__ void work_on(int index) {
        u32 bias = epilogue.biases(row_tile(tile(index)), fresh_thread() & 31);
        float d[kN / 2];
        multiply<kN, kChunks>(d, ring, stream);
        open(index + index_step());
        epilogue.template run<kN>(d, tile(index), bias, ring.staging());
    }
    __device__ __forceinline__ void idle(int index) {
        for (int c = 0; c < kChunks; c++, ring.advance()) {
            barrier_wait(ring.full_at(ring.slot), ring.parity);
            __syncwarp();  // every lane has seen this phase before it can end
            ring.release(ring.slot);
        }
        open(index + index_step());
    }
    __device__ __forceinline__ void run() {
        int index = first_index();
        open(index);
        if (STAGGER > 0 && consumer_group() == 1 && tile(index).rows > 0) {
            barrier_wait(ring.full_at(STAGGER), 0);
        }
        for (;; index += index_step()) {
            Tile now = tile(index);
            if (now.rows == 0) break;
            int n = padded(now.rows);
            if (consumer_group() >= now.groups) {
                idle(index);
            } else if (n == MAX_ROWS) {
                work_on<MAX_ROWS>(index);
            } else if (n == MAX_ROWS / 2) {
                work_on<MAX_ROWS / 2>(index);
#if MAX_ROWS == 128
            } else if (n == 96) {
                work_on<96>(index);
#endif
            } else {
                work_on<MAX_ROWS / 4>(index);
            }
        }
    }
};

// 128 threads copy rows of x: eight threads a row of 128 bytes, 16 rows at a time.
__device__ __forceinline__ void gather(Ring ring, const char* x, const int* pair_of_row,
                                       const int4* work, int num_work) {
    constexpr int kGroups = INTERMEDIATE / 32, kChunks = HIDDEN / 64;
    int thread = threadIdx.x, row = thread >> 3, piece = thread & 7;
    u32 to = row * 128 + ((piece ^ (row & 7)) << 4);
    int issued = 0, behind = 0;  // chunks; the slot to be announced next
    int index = first_index();
    Tile tile = tile_at<kGroups>(index, work, num_work);
    while (tile.rows > 0) {
        u32 from[MAX_ROWS / 16];
#pragma unroll
        for (int i = 0; i < MAX_ROWS / 16; i++) {
            int r = i * 16 + row;
            int pair = __ldg(pair_of_row + tile.first_row + (r < tile.rows ? r : 0));
            from[i] = (u32)pair / TOP_K * (HIDDEN * 2) + piece * 16;
        }
        int n = padded(tile.rows);
        index += index_step();
        tile = tile_at<kGroups>(index, work, num_work);
#pragma unroll 1
        for (int c = 0; c < kChunks; c++) {
            barrier_wait(ring.empty_at(ring.slot), ring.parity ^ 1);
            u32 slot = ring.data() + to;
#pragma unroll
            for (int i = 0; i < MAX_ROWS / 16; i++) {
                if (i * 16 < n) {
                    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(slot + i * 2048),
                                 "l"(x + from[i] + c * 128)
                                 : "memory");
                }
            }
            asm volatile("cp.async.commit_group;" ::: "memory");
            ring.advance();
            if (++issued > LAG) {
                // Copies of this kind are ordinary writes; the tensor cores read otherwise, so
                // each writer makes its own visible to them before it arrives.
                asm volatile("cp.async.wait_group %0;" ::"n"(LAG) : "memory");
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                barrier_arrive(ring.full_at(behind));
                behind = behind + 1 == STAGES ? 0 : behind + 1;
            }
        }
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    for (int left = issued < LAG ? issued : LAG; left > 0; left--) {
        barrier_arrive(ring.full_at(behind));
        behind = behind + 1 == STAGES ? 0 : behind + 1;
    }
}

// One thread copies whole slots, of h or of what place_many made of x: they lie there in the right
// order. Each block of a cluster brings its share of the rows, to all of them.
template <int kRows, int kChunks>
__device__ __forceinline__ void fetch(Ring ring, const char* tiles, const int4* work,
                                      int num_work) {
    int index = first_index();
    Tile tile = tile_at<kRows / 64>(index, work, num_work);
    while (tile.rows > 0) {
        u32 bytes = padded(tile.rows) * 128, share = bytes / CLUSTER;
        u32 own = cluster_rank() * share;
        const char* from = tiles + tile_begin(tile.expert, tile.first_row, kChunks * 64) + own;
        index += index_step();
        tile = tile_at<kRows / 64>(index, work, num_work);
        for (int c = 0; c < kChunks; c++, from += bytes, ring.advance()) {
            u32 full = ring.full_at(ring.slot);
            barrier_wait(ring.empty_at(ring.slot), ring.parity ^ 1);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full),
                         "r"(bytes)
                         : "memory");
            copy_bulk(ring.data() + own, from, share, full);
        }
    }
}

// ---------------------------------------------------------------- kernels

extern __shared__ unsigned char shared_memory[];

__device__ __forceinline__ Ring make_ring(int producers) {
    Ring ring = {(shared_address(shared_memory) + 1023) & ~1023u, 0, 0};
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_init(ring.full_at(s), producers);
            barrier_init(ring.empty_at(s), kConsumerWarps * CLUSTER);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    if (CLUSTER == 1) {
        __syncthreads();
    } else {
        cluster_sync();  // before anything arrives from the other block
    }
    return ring;
}

// The other block may still arrive at barriers of this one, so none leaves before the other.
__device__ __forceinline__ void leave() {
    __syncwarp();  // one lane alone may have been at work
    if (CLUSTER > 1) cluster_sync();
}

#if CLUSTER > 1
#define CLUSTER_DIMS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_DIMS
#endif

#if PLACED
#define PRODUCER_REGISTERS "24"
#define CONSUMER_REGISTERS "240"
#else
#define PRODUCER_REGISTERS "40"
#define CONSUMER_REGISTERS "232"
#endif

// x bf16 [tokens, HIDDEN] -> the rows of each tile as the ring wants them (see tile_begin). A block
// copies 64 columns of a work item's rows; launched as [HIDDEN / 64, work items], 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    place_many(const char* x, const int* pair_of_row, const int4* work, const int* num_work,
               char* placed) {
    if (blockIdx.y >= __ldg(num_work)) return;
    int4 item = __ldg(work + blockIdx.y);
    int rows = item.z, row = threadIdx.x >> 3, piece = threadIdx.x & 7;
    const char* from = x + blockIdx.x * 128 + piece * 16;
    char* to = placed + tile_begin(item.x, item.y, HIDDEN) +
               (u64)blockIdx.x * (padded(rows) * 128) + row * 128 + ((piece ^ (row & 7)) << 4);
    uint4 values[MAX_ROWS / 32];
#pragma unroll
    for (int i = 0; i < MAX_ROWS / 32; i++) {
        int r = i * 32 + row;
        if (r < rows) {
            u32 token = (u32)__ldg(pair_of_row + item.y + r) / TOP_K;
            values[i] = __ldg((const uint4*)(from + (u64)token * (HIDDEN * 2)));
        }
    }
#pragma unroll
    for (int i = 0; i < MAX_ROWS / 32; i++) {
        if (i * 32 + row < rows) *(uint4*)(to + i * 4096) = values[i];
    }
}

// blocks [E, 2I/16, HIDDEN/64, 32] x 16 bytes, scales [E, 2I/16, HIDDEN/64, 8] x 4 bytes, x what
// place_many made, or bf16 [tokens, HIDDEN] if not PLACED, h bytes [(pairs + 127 E) * I * 2];
// alpha, limit: of the SwiGLU.
extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(384, 1)
    gate_up_many(const uint4* blocks, const u32* scales, const u32* bias, const char* x,
                 const int* pair_of_row, const int4* work, const int* num_work, char* h,
                 float gain, float alpha, float limit) {
    Ring ring = make_ring(PLACED ? 1 : kGather);
    int count = __ldg(num_work);
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 " PRODUCER_REGISTERS ";");
#if PLACED
        if (threadIdx.x == 0) fetch<2 * INTERMEDIATE, HIDDEN / 64>(ring, x, work, count);
#else
        gather(ring, x, pair_of_row, work, count);
#endif
        leave();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 " CONSUMER_REGISTERS ";");
        GateUpEpilogue epilogue = {bias, h, gain, alpha, limit};
        Consumer<2 * INTERMEDIATE, HIDDEN / 64, GateUpEpilogue> consumer = {
            blocks, scales, work, count, epilogue, ring};
        consumer.run();
        leave();
    }
}

// blocks [E, HIDDEN/16, I/64, 32] x 16 bytes, scales [E, HIDDEN/16, I/64, 8] x 4 bytes, bias bf16
// [E, HIDDEN], y bf16 [pairs, HIDDEN].
extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(384, 1)
    down_many(const uint4* blocks, const u32* scales, const unsigned short* bias, const char* h,
              const int* pair_of_row, const int4* work, const int* num_work, char* y, float gain) {
    Ring ring = make_ring(1);
    int count = __ldg(num_work);
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 " PRODUCER_REGISTERS ";");
        if (threadIdx.x == 0) fetch<HIDDEN, INTERMEDIATE / 64>(ring, h, work, count);
        leave();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 " CONSUMER_REGISTERS ";");
        DownEpilogue epilogue = {bias, pair_of_row, y, gain};
        Consumer<HIDDEN, INTERMEDIATE / 64, DownEpilogue> consumer = {
            blocks, scales, work, count, epilogue, ring};
        consumer.run();
        leave();
    }
}
