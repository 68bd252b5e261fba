// Products with AVX-VNNI, which Intel's processors for laptops and desktops have from the twelfth
// generation on, without AVX-512: four 8-bit products and their sum in each lane at once.
#include "cpu_bytes.h"

namespace ossia {
namespace {

struct AvxVnni {
  static inline __m256i sum_block(const __m256i (&w)[8], const uint8_t *x) {
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum = _mm256_dpbusd_avx_epi32(sum, w[i], four_inputs(x + 4 * i));
    return sum;
  }
};

constexpr int kTile = 4;  // tokens

// Sixteen rows of one block with kTile tokens, inputs x of each token: what is broadcast serves two
// vectors of rows, and eight sums do not wait for each other.
inline void add_products(const __m256i (&w)[2][8], const uint8_t *const (&x)[kTile],
                         __m256i (&sums)[2][kTile]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m256i first = w[0][i], second = w[1][i];
#pragma GCC unroll 4
    for (int t = 0; t < kTile; ++t) {
      const __m256i four = four_inputs(x[t] + 4 * i);
      sums[0][t] = _mm256_dpbusd_avx_epi32(sums[0][t], first, four);
      sums[1][t] = _mm256_dpbusd_avx_epi32(sums[1][t], second, four);
    }
  }
}

template <typename W>
void tile_product(const uint8_t *values, const uint8_t *scales, int64_t blocks,
                  const uint8_t *const *rows, float *out, int64_t stride) {
  __m256 totals[2][kTile] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t *block = values + b * W::kValueBytes, *codes = scales + b * W::kScaleBytes;
    for (int i = 0; i < W::kValueBytes; i += 64) __builtin_prefetch(block + i + kAhead);
    __m256i w[2][8], sums[2][kTile] = {};
    W::bytes(block, 0, w[0]);
    W::bytes(block, 1, w[1]);
    const uint8_t *high[kTile], *low[kTile];
#pragma GCC unroll 4
    for (int t = 0; t < kTile; ++t) {
      high[t] = rows[t] + b * 64;
      low[t] = high[t] + 32;
    }
    add_products(w, high, sums);
#pragma GCC unroll 4
    for (int t = 0; t < kTile; ++t) {
      const __m256i fix = _mm256_set1_epi32(row_fixes(rows[t], blocks)[b]);
      sums[0][t] = _mm256_add_epi32(_mm256_slli_epi32(sums[0][t], 8), fix);
      sums[1][t] = _mm256_add_epi32(_mm256_slli_epi32(sums[1][t], 8), fix);
    }
    add_products(w, low, sums);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256 scale = W::scale(codes, half);
#pragma GCC unroll 4
      for (int t = 0; t < kTile; ++t) {
        const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[half][t]),
                                            _mm256_set1_ps(row_scales(rows[t], blocks)[b]));
        totals[half][t] = _mm256_fmadd_ps(scaled, scale, totals[half][t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTile; ++t) {
    _mm256_storeu_ps(out + t * stride, totals[0][t]);
    _mm256_storeu_ps(out + t * stride + kHalf, totals[1][t]);
  }
}

// The group's weights come from memory for the first tile and from the cache for the next.
template <typename W>
void few_tiles(const uint8_t *values, const uint8_t *scales, int64_t blocks,
               const uint8_t *const *rows, int tokens, float *out, int64_t stride) {
  int t = 0;
  for (; t + kTile <= tokens; t += kTile) {
    tile_product<W>(values, scales, blocks, rows + t, out + t * stride, stride);
  }
  const uint8_t *const *left = rows + t;
  float *to = out + t * stride;
  switch (tokens - t) {
    case 1: bytes_product<AvxVnni, W, 1>(values, scales, blocks, left, to, stride); break;
    case 2: bytes_product<AvxVnni, W, 2>(values, scales, blocks, left, to, stride); break;
    case 3: bytes_product<AvxVnni, W, 3>(values, scales, blocks, left, to, stride); break;
    default: break;
  }
}

}  // namespace

const Products &products_avxvnni() {
  static const Products kProducts = [] {
    Products made = products_avx2();
    made.kinds[OSSIA_MXFP4] = {Form::kSplit, Mxfp4Bytes::kOffset, few_tiles<Mxfp4Bytes>,
                               Form::kSplit, nullptr,             0};
    made.kinds[OSSIA_INT8] = {Form::kSplit, Int8Bytes::kOffset, few_tiles<Int8Bytes>,
                              Form::kSplit, nullptr,            0};
    return made;
  }();
  return kProducts;
}

}  // namespace ossia
