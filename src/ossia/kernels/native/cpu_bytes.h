// Products with 8-bit weights and activations in two 8-bit parts, on vectors of 256 bits.
//
// out[t, r] = sum over blocks b of (sum_k w[r, k] q[t, k]) * weight scale[r, b] * scale[t, b], with
// q = 256 high + low, all in integers, as in cpu_products_vnni.cpp: weights are unsigned with an
// offset (12 for twice an E2M1 value, 128 for INT8), and -offset * sum(q) takes it back.
// Bytes: one read of the matrix. A call does 16 rows in two vectors of 8, one a 32-bit lane. Per 32
// bytes of MXFP4 there are two lookups, a shift and two masks; words (cpu_words.h) take three times
// as many operations.
//
// V::sum_block(w, x) is sum_k w[r, k] x[k] over a block, exact, w as W::bytes gives it.
#pragma once

#include <immintrin.h>

#include "cpu_activations.h"

namespace ossia {
namespace {

constexpr int kHalf = 8;  // rows of a vector

// Four bytes of activations for all rows.
inline __m256i four_inputs(const uint8_t *x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}

struct Mxfp4Bytes {
  static constexpr int kValueBytes = 256, kScaleBytes = 16, kOffset = 12;

  // w[i]: inputs 4i .. 4i+3 of rows 8 half .. 8 half + 7.
  static inline void bytes(const uint8_t *block, int half, __m256i (&w)[8]) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      const __m256i packed =
          _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block + t * 64 + half * 32));
      const __m256i upper = _mm256_srli_epi16(packed, 4);
      w[2 * t] = _mm256_shuffle_epi8(table, _mm256_and_si256(packed, nibble));
      w[2 * t + 1] = _mm256_shuffle_epi8(table, _mm256_and_si256(upper, nibble));
    }
  }
  static inline __m256 scale(const uint8_t *scales, int half) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(scales + half * 8));
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(codes), 23);
    return _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0.5f));  // twice the values
  }
};

struct Int8Bytes {
  static constexpr int kValueBytes = 512, kScaleBytes = 32, kOffset = 128;

  static inline void bytes(const uint8_t *block, int half, __m256i (&w)[8]) {
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      w[t] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block + t * 64 + half * 32));
    }
  }
  static inline __m256 scale(const uint8_t *scales, int half) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(scales + half * 16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

// Eight rows of one block with all tokens: eight registers of weights serve all of them.
template <typename V, typename W, int tokens>
inline void add_half(const uint8_t *block, const uint8_t *scales, int half, int64_t b,
                     int64_t blocks, const uint8_t *const *rows, __m256 (&sums)[2][tokens]) {
  __m256i w[8];
  W::bytes(block, half, w);
  const __m256 scale = W::scale(scales, half);
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    const uint8_t *line = rows[t] + b * 64;
    const __m256i high = V::sum_block(w, line), low = V::sum_block(w, line + 32);
    const __m256i fix = _mm256_set1_epi32(row_fixes(rows[t], blocks)[b]);
    const __m256i whole =
        _mm256_add_epi32(_mm256_slli_epi32(high, 8), _mm256_add_epi32(low, fix));
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(whole),
                                        _mm256_set1_ps(row_scales(rows[t], blocks)[b]));
    sums[half][t] = _mm256_fmadd_ps(scaled, scale, sums[half][t]);
  }
}

template <typename V, typename W, int tokens>
inline void bytes_product(const uint8_t *values, const uint8_t *scales, int64_t blocks,
                          const uint8_t *const *rows, float *out, int64_t stride) {
  __m256 sums[2][tokens];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) sums[half][t] = _mm256_setzero_ps();
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t *block = values + b * W::kValueBytes, *codes = scales + b * W::kScaleBytes;
    for (int i = 0; i < W::kValueBytes; i += 64) __builtin_prefetch(block + i + kAhead);
    add_half<V, W, tokens>(block, codes, 0, b, blocks, rows, sums);
    add_half<V, W, tokens>(block, codes, 1, b, blocks, rows, sums);
  }
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    _mm256_storeu_ps(out + t * stride, sums[0][t]);
    _mm256_storeu_ps(out + t * stride + kHalf, sums[1][t]);
  }
}

template <typename V, typename W>
void few_bytes(const uint8_t *values, const uint8_t *scales, int64_t blocks,
               const uint8_t *const *rows, int tokens, float *out, int64_t stride) {
#define OSSIA_CALL(n) bytes_product<V, W, n>(values, scales, blocks, rows, out, stride)
  OSSIA_FOR_TOKENS(tokens, OSSIA_CALL)
#undef OSSIA_CALL
}

}  // namespace
}  // namespace ossia
