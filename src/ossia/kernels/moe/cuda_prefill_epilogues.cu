// What happens to the products of a tile, for cuda_prefill.cu, which explains shapes and macros:
// SwiGLU and h, or bias and y; both turn [weight row][token row] in shared memory.

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
        int group = consumer_group(), thread = fresh_thread() & 127;
        int lane = thread & 31, warp = thread >> 5;
        int place = tile.group + group, half = place & 1;  // 32 of 64 columns of h
        float gate_bias = __uint_as_float(pair << 16), up_bias = __uint_as_float(pair & 0xFFFF0000);
        // Both warpgroups' halves of one image of [kN][64] in shared and global memory.
        u32 to = staging + lane * 128 + (((half * 4 + warp) ^ (lane & 7)) << 4);
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
        char* block = h + tile_begin(tile.expert, tile.first_row, INTERMEDIATE) +
                      (u64)(place >> 1) * (kN * 128);
        int row = thread >> 2;
        // 64 of the 128 bytes of a row are this warpgroup's; the swizzle swaps halves.
        int offset = row * 128 + ((half ^ ((row >> 2) & 1)) << 6) + ((thread & 3) << 4);
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
        constexpr int kPass = kN % 64 ? 32 : 64;  // token rows turned at a time
        int group = consumer_group(), thread = fresh_thread() & 127;
        int lane = thread & 31, warp = thread >> 5;
        float low = __uint_as_float(biases << 16), high = __uint_as_float(biases & 0xFFFF0000);
        u32 own = staging + group * kStaging;  // two halves of 64 token rows x 128 bytes
        // Lane l of a store points at row l % 8 of piece l / 8: (token rows j..j+7, rows g),
        // (the same, rows g + 8), (token rows j+8.., rows g), (the same, rows g + 8).
        u32 to = own + ((lane >> 4) * 8 + (lane & 7)) * 128 +
                 (((warp * 2 + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
        int piece = (thread & 7) ^ ((thread >> 3) & 7);
        char* column = y + (tile.group + group) * 128 + piece * 16;
        warpgroup_sync(group);
#pragma unroll
        for (int pass = 0; pass < kN / kPass; pass++) {
            u32 half = (pass & 1) * 8192;
            int pairs[kPass / 16];
#pragma unroll
            for (int i = 0; i < kPass / 16; i++) {
                int row = pass * kPass + i * 16 + (thread >> 3);
                pairs[i] = row < tile.rows ? __ldg(pair_of_row + tile.first_row + row) : -1;
            }
#pragma unroll
            for (int j = 0; j < kPass / 8; j += 2) {
                const float* v = d + 4 * (pass * (kPass / 8) + j);
                u32 r[4] = {pack(v[0] * gain + low, v[1] * gain + low),
                            pack(v[2] * gain + high, v[3] * gain + high),
                            pack(v[4] * gain + low, v[5] * gain + low),
                            pack(v[6] * gain + high, v[7] * gain + high)};
                store_turned(to + half + j * 1024, r);
            }
            warpgroup_sync(group);
#pragma unroll
            for (int i = 0; i < kPass / 16; i++) {
                uint4 v = load_shared(own + half + i * 2048 + thread * 16);
                if (pairs[i] >= 0) *(uint4*)(column + (u64)pairs[i] * (HIDDEN * 2)) = v;
            }
        }
    }
};
