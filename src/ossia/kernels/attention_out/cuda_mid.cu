// The output projection of attention for 65 to 256 tokens: bias and residual, behind the products
// of linear/cuda_mid.cu, which says how they are divided.
//
//   out = x + b + mixed W^T, in float32, rounded once
//
// Bytes beside the product's: 11.5 KB a token of gpt-oss, the residual in and out.
//
// A unit is 16 neighbouring rows of the weight.
//
// Macro: HIDDEN, the rows of the weight.

static_assert(HIDDEN % (ROWS * SHARE) == 0, "tiles share the rows evenly");

struct AddResidual {
    const u16 *bias, *x;
    u16* out;
    int count;
    Place place;

    struct Extra {
        u32 bias[2];  // of both blocks of eight rows
        u32 x[2][2];  // [block][token]
    };

    static __device__ __forceinline__ constexpr int block_of(int unit, int half) {
        return unit * 2 + half;
    }

    __device__ __forceinline__ void begin(const Place& where) { place = where; }

    __device__ __forceinline__ Extra fetch(int unit) const {
        Extra extra;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = own_row(place, block_of(unit, half));
            extra.bias[half] = *(const u32*)(bias + row);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = own_token(place, i);
                extra.x[half][i] = token < count ? *(const u32*)(x + token * HIDDEN + row) : 0;
            }
        }
        return extra;
    }

    __device__ __forceinline__ void store(int unit, const float (&v)[8], const Extra& extra) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = own_row(place, block_of(unit, half));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = own_token(place, i);
                float first = v[half * 4 + 2 * i] + low_half(extra.bias[half]);
                float second = v[half * 4 + 2 * i + 1] + high_half(extra.bias[half]);
                first += low_half(extra.x[half][i]);
                second += high_half(extra.x[half][i]);
                if (token < count) *(u32*)(out + token * HIDDEN + row) = pack(first, second);
            }
        }
    }
};

extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(kThreads, BLOCKS)
    project_out_mid(const u16* bias, const u16* x, u16* out, int count,
                    const __grid_constant__ Maps maps) {
    AddResidual epilogue = {bias, x, out, count};
    run(maps, epilogue);
}
