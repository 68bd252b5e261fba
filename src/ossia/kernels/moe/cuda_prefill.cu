// Experts over many rows (prefill), weights in MXFP4, activations in bf16, on Hopper (sm_90a):
//
//   gate_up_many:  h[row] = swiglu(G[e] x[token of row] + bias)      e = expert of the row
//   down_many:     y[pair of row] = D[e] h[row] + bias
//
// Bytes: at 1,000 rows an expert the arithmetic dominates (2 * rows * R * K operations at about
// 800 TFLOP/s); weights (0.53 bytes a value) and activations come once from memory and then some
// tens of times from the L2, 37 KB for each 2.1 million multiply-adds of a tile and chunk.
//
// Launch: one block an SM, persistent, 384 threads. A tile is 128 weight rows x up to 256 token
// rows of one expert. Warpgroup 0 brings activations, 64 k ("chunk") at a time, into a ring in
// shared memory; warpgroups 1 and 2 each multiply 64 weight rows by them with wgmma. Weights are
// the operand in registers: the fragment layout (see hopper_layout.py) gives a lane its 32 values
// of a chunk with one 16-byte load; it makes bf16 of them while the tensor cores work on the chunk
// before. One launch bound by arithmetic, so no split over k, no atomics: results do not depend on
// timing.
//
// Compiled without headers, behind cuda_prefill_parts.cu (barriers, ring, tiles, weights, wgmma).
// Defined from outside: HIDDEN, INTERMEDIATE, TOP_K (numbers of the model), STAGES (slots of the
// ring), LAG (chunks that the gather keeps in flight), STAGGER (chunks by which the second
// warpgroup starts late, so that one's epilogue runs under the other's products), and, in tests,
// WAIT_LIMIT_NS (a wait that takes longer stops the kernel with an error).

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
    if (chunk > 0 && first_lane()) barrier_arrive(ring.empty_at(ring.previous()));
    ring.advance();
}

// d[64 weight rows, kN token rows] over all k. Chunk c + 1 is unpacked while the tensor cores
// multiply chunk c, chunks c + 2 and c + 3 are on their way from memory.
template <int kN, int kChunks>
__device__ __forceinline__ void multiply(float (&d)[kN / 2], Ring& ring, Stream& stream) {
    u32 even[16], odd[16];
    // Written here and not left to the first product: registers without a first value would be
    // kept for the whole kernel, those of every size of tile.
#pragma unroll
    for (int i = 0; i < kN / 2; i++) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(d[i]));
    unpack(stream.raw[0], even);
    stream.raw[0] = stream.load<kChunks>(2);
#pragma unroll 1
    for (int c = 0; c + 1 < kChunks; c += 2) {
        multiply_chunk<kN>(d, even, ring, c);
        unpack(stream.raw[1], odd);
        stream.raw[1] = stream.load<kChunks>(c + 3);
        multiply_chunk<kN>(d, odd, ring, c + 1);
        unpack(stream.raw[0], even);
        stream.raw[0] = stream.load<kChunks>(c + 4);
        if (c % 8 == 0) stream.ahead<kChunks>(c + 8, fresh_thread() & 31);
    }
    if (kChunks % 2) multiply_chunk<kN>(d, even, ring, kChunks - 1);
    products_wait<0>();
#pragma unroll
    for (int i = 0; i < kN / 2; i++) asm volatile("" : "+f"(d[i])::"memory");
    if (first_lane()) barrier_arrive(ring.empty_at(ring.previous()));
}

// ---------------------------------------------------------------- epilogues

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Four 8 x 8 pieces [weight row][token row] -> shared memory as [token row][weight row].
__device__ __forceinline__ void store_turned(u32 address, const u32 (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     address),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

__device__ __forceinline__ uint4 load_shared(u32 address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

__device__ __forceinline__ float swiglu(float gate, float up, float alpha, float limit) {
    float e, r;
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(gate) : "f"(limit));
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(up) : "f"(limit));
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(up) : "f"(-limit));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(gate * alpha * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    return gate * r * (up + 1.0f);
}

struct GateUpEpilogue {
    const u32* bias;  // [experts, INTERMEDIATE], a pair (gate, up) of bf16 each
    char* h;
    float gain, alpha, limit;

    __device__ __forceinline__ u32 biases(long long row_tile, int lane) const {
        return __ldg(bias + row_tile * 8 + (lane >> 2));
    }
    // A thread has gate (row g) and up (row g + 8) of unit g of its warp's eight.
    template <int kN>
    __device__ __forceinline__ void run(const float (&d)[kN / 2], const Tile& tile, u32 pair,
                                        u32 staging) const {
        int group = fresh_thread() / 128 - 1, thread = fresh_thread() & 127;
        int lane = thread & 31, warp = thread >> 5;
        float gate_bias = __uint_as_float(pair << 16), up_bias = __uint_as_float(pair & 0xFFFF0000);
        // Both warpgroups' halves of one image of [kN][64] in shared and global memory.
        u32 to = staging + lane * 128 + (((group * 4 + warp) ^ (lane & 7)) << 4);
        warpgroup_sync(group);  // the tile before is copied out
#pragma unroll
        for (int j = 0; j < kN / 8; j += 4) {
            u32 r[4];
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const float* v = d + 4 * (j + q);
                float first = swiglu(v[0] * gain + gate_bias, v[2] * gain + up_bias, alpha, limit);
                float second = swiglu(v[1] * gain + gate_bias, v[3] * gain + up_bias, alpha, limit);
                r[q] = pack(first, second);
            }
            store_turned(to + j * 1024, r);
        }
        warpgroup_sync(group);
        char* block = h + h_begin(tile) + (u64)tile.m * (kN * 128);
        int row = thread >> 2;
        // 64 of the 128 bytes of a row are this warpgroup's; the swizzle swaps halves.
        int offset = row * 128 + ((group ^ ((row >> 2) & 1)) << 6) + ((thread & 3) << 4);
#pragma unroll
        for (int i = 0; i < kN / 32; i++) {
            *(uint4*)(block + offset + i * 4096) = load_shared(staging + offset + i * 4096);
        }
    }
};

struct DownEpilogue {
    const unsigned short* bias;
    const int* pair_of_row;
    char* y;
    float gain;

    __device__ __forceinline__ u32 biases(long long row_tile, int lane) const {  // rows g, g + 8
        const unsigned short* b = bias + row_tile * 16 + (lane >> 2);
        return (u32)__ldg(b) | (u32)__ldg(b + 8) << 16;
    }

    template <int kN>
    __device__ __forceinline__ void run(const float (&d)[kN / 2], const Tile& tile, u32 biases,
                                        u32 staging) const {
        int group = fresh_thread() / 128 - 1, thread = fresh_thread() & 127;
        int lane = thread & 31, warp = thread >> 5;
        float low = __uint_as_float(biases << 16), high = __uint_as_float(biases & 0xFFFF0000);
        u32 own = staging + group * kStaging;  // two halves of 64 token rows x 128 bytes
        // Lane l of a store points at row l % 8 of piece l / 8: (token rows j..j+7, rows g),
        // (the same, rows g + 8), (token rows j+8.., rows g), (the same, rows g + 8).
        u32 to = own + ((lane >> 4) * 8 + (lane & 7)) * 128 +
                 (((warp * 2 + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
        int piece = (thread & 7) ^ ((thread >> 3) & 7);
        char* column = y + tile.m * 256 + group * 128 + piece * 16;
        warpgroup_sync(group);
#pragma unroll
        for (int pass = 0; pass < kN / 64; pass++) {
            u32 half = (pass & 1) * 8192;
            int pairs[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = pass * 64 + i * 16 + (thread >> 3);
                pairs[i] = row < tile.rows ? __ldg(pair_of_row + tile.first_row + row) : -1;
            }
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                const float* v = d + 4 * (pass * 8 + j);
                u32 r[4] = {pack(v[0] * gain + low, v[1] * gain + low),
                            pack(v[2] * gain + high, v[3] * gain + high),
                            pack(v[4] * gain + low, v[5] * gain + low),
                            pack(v[6] * gain + high, v[7] * gain + high)};
                store_turned(to + half + j * 1024, r);
            }
            warpgroup_sync(group);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint4 v = load_shared(own + half + i * 2048 + thread * 16);
                if (pairs[i] >= 0) *(uint4*)(column + (u64)pairs[i] * (HIDDEN * 2)) = v;
            }
        }
    }
};

// ---------------------------------------------------------------- roles

// Both consumer warpgroups: `kRows` weight rows an expert in tiles of 128, the last maybe half.
// Tiles are looked up again where they are needed: the registers of the main loop are all taken.
template <int kRows, int kChunks, typename Epilogue>
struct Consumer {
    static constexpr int kTilesM = (kRows + 127) / 128;
    static_assert(kChunks > 2 && kChunks > STAGGER, "at least 192 columns");
    const uint4* blocks;
    const u32* scales;
    const int4* work;
    int num_work;
    Epilogue epilogue;
    Ring ring;
    Stream stream;

    __device__ __forceinline__ Tile tile(int index) const {
        return tile_at<kTilesM>(index, work, num_work);
    }
    // The number of this warp's 16 rows among those of all experts.
    __device__ __forceinline__ long long row_tile(const Tile& tile) const {
        int inside = tile.m * 8 + (fresh_thread() >> 5) - 4;
        if (kRows % 128 && inside >= kRows / 16) inside = kRows / 16 - 1;  // idle; loads in bounds
        return (long long)tile.expert * (kRows / 16) + inside;
    }
    __device__ __forceinline__ void open(int index) {
        stream.template open<kChunks>(blocks, scales, row_tile(tile(index)), fresh_thread() & 31);
    }
    // The next tile's first weights are on their way before the epilogue.
    template <int kN>
    __device__ __forceinline__ void work_on(int index) {
        u32 bias = epilogue.biases(row_tile(tile(index)), fresh_thread() & 31);
        float d[kN / 2];
        multiply<kN, kChunks>(d, ring, stream);
        open(index + gridDim.x);
        epilogue.template run<kN>(d, tile(index), bias, ring.staging());
    }
    __device__ __forceinline__ void idle(int index) {
        for (int c = 0; c < kChunks; c++, ring.advance()) {
            barrier_wait(ring.full_at(ring.slot), ring.parity);
            __syncwarp();  // every lane has seen this phase before it can end
            if (first_lane()) barrier_arrive(ring.empty_at(ring.slot));
        }
        open(index + gridDim.x);
    }
    __device__ __forceinline__ void run() {
        int index = blockIdx.x;
        if (tile(index).rows > 0) open(index);
        if (STAGGER > 0 && second_group() && tile(index).rows > 0) {
            barrier_wait(ring.full_at(STAGGER), 0);
        }
        for (;; index += gridDim.x) {
            Tile now = tile(index);
            if (now.rows == 0) break;
            int n = padded(now.rows);
            if (kRows % 128 && second_group() && now.m * 128 + 64 >= kRows) {
                idle(index);
            } else if (n == 256) {
                work_on<256>(index);
            } else if (n == 128) {
                work_on<128>(index);
            } else {
                work_on<64>(index);
            }
        }
    }
};

// 128 threads copy rows of x: eight threads a row of 128 bytes, 16 rows at a time.
__device__ __forceinline__ void gather(Ring ring, const char* x, const int* pair_of_row,
                                       const int4* work, int num_work) {
    constexpr int kTilesM = INTERMEDIATE / 64, kChunks = HIDDEN / 64;
    int thread = threadIdx.x, row = thread >> 3, piece = thread & 7;
    u32 to = row * 128 + ((piece ^ (row & 7)) << 4);
    int issued = 0, behind = 0;  // chunks; the slot to be announced next
    int index = blockIdx.x;
    Tile tile = tile_at<kTilesM>(index, work, num_work);
    while (tile.rows > 0) {
        u32 from[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int r = i * 16 + row;
            int pair = __ldg(pair_of_row + tile.first_row + (r < tile.rows ? r : 0));
            from[i] = (u32)pair / TOP_K * (HIDDEN * 2) + piece * 16;
        }
        int n = padded(tile.rows);
        index += gridDim.x;
        tile = tile_at<kTilesM>(index, work, num_work);
#pragma unroll 1
        for (int c = 0; c < kChunks; c++) {
            barrier_wait(ring.empty_at(ring.slot), ring.parity ^ 1);
            u32 slot = ring.data() + to;
#pragma unroll
            for (int i = 0; i < 16; i++) {
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

// One thread copies whole slots of h: gate_up_many left them in the right order.
__device__ __forceinline__ void fetch(Ring ring, const char* h, const int4* work, int num_work) {
    constexpr int kTilesM = (HIDDEN + 127) / 128, kChunks = INTERMEDIATE / 64;
    int index = blockIdx.x;
    Tile tile = tile_at<kTilesM>(index, work, num_work);
    while (tile.rows > 0) {
        const char* from = h + h_begin(tile);
        u32 bytes = padded(tile.rows) * 128;
        index += gridDim.x;
        tile = tile_at<kTilesM>(index, work, num_work);
        for (int c = 0; c < kChunks; c++, from += bytes, ring.advance()) {
            u32 full = ring.full_at(ring.slot);
            barrier_wait(ring.empty_at(ring.slot), ring.parity ^ 1);
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full),
                         "r"(bytes)
                         : "memory");
            asm volatile(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                "[%0], [%1], %2, [%3];" ::"r"(ring.data()),
                "l"(from), "r"(bytes), "r"(full)
                : "memory");
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
            barrier_init(ring.empty_at(s), kConsumerWarps);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    return ring;
}

// blocks [E, 2I/16, HIDDEN/64, 32] x 16 bytes, scales [E, 2I/16, HIDDEN/64, 8] x 4 bytes, x bf16
// [tokens, HIDDEN], h bytes [(pairs + 127 E) * I * 2]; alpha, limit: of the SwiGLU.
extern "C" __global__ void __launch_bounds__(384, 1)
    gate_up_many(const uint4* blocks, const u32* scales, const u32* bias, const char* x,
                 const int* pair_of_row, const int4* work, const int* num_work, char* h,
                 float gain, float alpha, float limit) {
    Ring ring = make_ring(kGather);
    int count = __ldg(num_work);
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        gather(ring, x, pair_of_row, work, count);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        GateUpEpilogue epilogue = {bias, h, gain, alpha, limit};
        Consumer<2 * INTERMEDIATE, HIDDEN / 64, GateUpEpilogue> consumer = {
            blocks, scales, work, count, epilogue, ring};
        consumer.run();
    }
}

// blocks [E, HIDDEN/16, I/64, 32] x 16 bytes, scales [E, HIDDEN/16, I/64, 8] x 4 bytes, bias bf16
// [E, HIDDEN], y bf16 [pairs, HIDDEN].
extern "C" __global__ void __launch_bounds__(384, 1)
    down_many(const uint4* blocks, const u32* scales, const unsigned short* bias, const char* h,
              const int* pair_of_row, const int4* work, const int* num_work, char* y, float gain) {
    Ring ring = make_ring(1);
    int count = __ldg(num_work);
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) fetch(ring, h, work, count);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        DownEpilogue epilogue = {bias, pair_of_row, y, gain};
        Consumer<HIDDEN, INTERMEDIATE / 64, DownEpilogue> consumer = {
            blocks, scales, work, count, epilogue, ring};
        consumer.run();
    }
}
