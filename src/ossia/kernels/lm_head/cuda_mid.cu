// Logits of 65 to 256 rows, in float32, by the products of linear/cuda_mid.cu.
//
// Bytes beside the product's: 4 a logit, 0.8 MB a row of gpt-oss.
//
// A unit is 16 neighbouring rows of the head. The last tile may reach past the vocabulary: the copy
// engine fills with zeros what it reads there, and nothing is stored.

struct StoreLogits {
    float* logits;
    int count, vocab;
    Place place;

    struct Extra {};

    static __device__ __forceinline__ constexpr int block_of(int unit, int half) {
        return unit * 2 + half;
    }

    __device__ __forceinline__ void begin(const Place& where) { place = where; }
    __device__ __forceinline__ Extra fetch(int) const { return {}; }

    __device__ __forceinline__ void store(int unit, const float (&v)[8], const Extra&) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = own_row(place, block_of(unit, half));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = own_token(place, i);
                float2 pair = {v[half * 4 + 2 * i], v[half * 4 + 2 * i + 1]};
                if (token < count && row < vocab) {
                    *(float2*)(logits + (long long)token * vocab + row) = pair;
                }
            }
        }
    }
};

extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(kThreads, BLOCKS)
    logits_mid(float* logits, int count, int vocab, const __grid_constant__ Maps maps) {
    StoreLogits epilogue = {logits, count, vocab};
    run(maps, epilogue);
}
