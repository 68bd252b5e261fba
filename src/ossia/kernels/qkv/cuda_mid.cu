// Queries, keys and values of 65 to 256 tokens: bias, rotation and cache, behind the products of
// linear/cuda_mid.cu, which says how they are divided.
//
//   h = n W^T + b;  first' = first cos - second sin,  second' = second cos + first sin
//
// for rows i and i + HEAD_DIM / 2 of each query or key head. h is not rounded before it is turned.
//
// Bytes beside the product's: 10 KB a token of gpt-oss out, the angles in.
//
// A tile has whole heads. A unit is eight pairs of a head: rows i .. i + 7 of both halves, which
// the same threads have.
//
// Macros: HEADS, KV_HEADS, HEAD_DIM.

constexpr int kHalf = HEAD_DIM / 2;
static_assert(ROWS % HEAD_DIM == 0 && HEAD_DIM % 16 == 0, "tiles have whole heads");
static_assert((HEADS + 2 * KV_HEADS) * HEAD_DIM % (ROWS * SHARE) == 0, "tiles share the rows evenly");

struct PlaceHeads {
    const u16* bias;
    const long long* positions;
    const long long* slots;
    const float* cos_sin;  // [positions, HEAD_DIM], cosines first
    u16 *q, *keys, *values;
    int count;
    Place place;
    int position[2];  // of the thread's tokens
    long long slot[2];

    struct Extra {
        u32 first_bias, second_bias;
        float2 cos[2], sin[2];
    };

    static __device__ __forceinline__ constexpr int block_of(int unit, int half) {
        return unit / (kHalf / 8) * (HEAD_DIM / 8) + unit % (kHalf / 8) + half * (kHalf / 8);
    }
    __device__ __forceinline__ int head_of(int unit) const {
        return place.tile * (ROWS / HEAD_DIM) + unit / (kHalf / 8);
    }
    __device__ __forceinline__ int pair_of(int unit) const {
        return unit % (kHalf / 8) * 8 + threadIdx.x % 4 * 2;
    }

    __device__ __forceinline__ void begin(const Place& where) {
        place = where;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int token = own_token(place, i);
            position[i] = token < count ? (int)positions[token] : 0;
            slot[i] = token < count ? slots[token] : -1;
        }
    }

    __device__ __forceinline__ Extra fetch(int unit) const {
        Extra extra;
        const u16* own = bias + head_of(unit) * HEAD_DIM + pair_of(unit);
        extra.first_bias = *(const u32*)own;
        extra.second_bias = *(const u32*)(own + kHalf);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            extra.cos[i] = make_float2(1, 1);
            extra.sin[i] = make_float2(0, 0);
            if (head_of(unit) < HEADS + KV_HEADS) {
                const float* angle = cos_sin + (long long)position[i] * HEAD_DIM + pair_of(unit);
                extra.cos[i] = *(const float2*)angle;
                extra.sin[i] = *(const float2*)(angle + kHalf);
            }
        }
        return extra;
    }

    __device__ __forceinline__ void store(int unit, const float (&v)[8], const Extra& extra) const {
        const int head = head_of(unit);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = own_token(place, i);
            float2 first = {v[2 * i] + low_half(extra.first_bias),
                            v[2 * i + 1] + high_half(extra.first_bias)};
            float2 second = {v[4 + 2 * i] + low_half(extra.second_bias),
                             v[4 + 2 * i + 1] + high_half(extra.second_bias)};
            const float2 cos = extra.cos[i], sin = extra.sin[i];
            u32 low = pack(first.x * cos.x - second.x * sin.x, first.y * cos.y - second.y * sin.y);
            u32 high = pack(second.x * cos.x + first.x * sin.x, second.y * cos.y + first.y * sin.y);
            u16* to;
            bool written;
            if (head < HEADS) {
                to = q + ((long long)token * HEADS + head) * HEAD_DIM;
                written = token < count;
            } else {
                const bool is_key = head < HEADS + KV_HEADS;
                const int kv_head = head - (is_key ? HEADS : HEADS + KV_HEADS);
                to = (is_key ? keys : values) + (slot[i] * KV_HEADS + kv_head) * HEAD_DIM;
                written = slot[i] >= 0;
            }
            if (written) {
                *(u32*)(to + pair_of(unit)) = low;
                *(u32*)(to + pair_of(unit) + kHalf) = high;
            }
        }
    }
};

extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(kThreads, BLOCKS)
    project_qkv_mid(const u16* bias, const long long* positions, const long long* slots,
                    const float* cos_sin, u16* q, u16* keys, u16* values, int count,
                    const __grid_constant__ Maps maps) {
    PlaceHeads epilogue = {bias, positions, slots, cos_sin, q, keys, values, count};
    run(maps, epilogue);
}
