// Products with AVX2: vectors of 8 rows. INT8 as words (see cpu_words.h), MXFP4 as bytes.
#include <immintrin.h>

#include "cpu_bytes.h"
#include "cpu_words.h"

namespace ossia {
namespace {

struct Avx2 {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kRows = 8;

  static inline Int load(const uint8_t *p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
  }
  static inline void store(float *p, Float x) { _mm256_storeu_ps(p, x); }
  static inline Float broadcast(float x) { return _mm256_set1_ps(x); }
  static inline Int broadcast_pair(const uint8_t *p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  static inline Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static inline Int multiply_pairs(Int a, Int b) { return _mm256_madd_epi16(a, b); }
  static inline Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
  static inline Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static inline Float add_floats(Float a, Float b) { return _mm256_add_ps(a, b); }
  static inline Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }

  static inline Int even_bytes(Int w) {
    return _mm256_srai_epi16(_mm256_slli_epi16(centred(w), 8), 8);
  }
  static inline Int odd_bytes(Int w) { return _mm256_srai_epi16(centred(w), 8); }

  static inline Float power_of_two(const uint8_t *codes) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(codes));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23));
  }
  static inline Float bfloats(const uint8_t *p) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  static inline Float low_bfloat(Int w) { return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)); }
  static inline Float high_bfloat(Int w) {
    return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(-65536)));
  }

 private:
  // Stored bytes have 128 added: flipping the top bit makes them signed.
  static inline Int centred(Int w) { return _mm256_xor_si256(w, _mm256_set1_epi8(-128)); }
};

struct Avx2Bytes {
  // Pairs of products are summed in 16 bits: up to 2 * 24 * 128 each, so that four of them fit,
  // which those of INT8 weights would not.
  static inline __m256i sum_block(const __m256i (&w)[8], const uint8_t *x) {
    const auto four = [&](int first) {
      __m256i pairs = _mm256_maddubs_epi16(w[first], four_inputs(x + 4 * first));
#pragma GCC unroll 3
      for (int i = first + 1; i < first + 4; ++i) {
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[i], four_inputs(x + 4 * i)));
      }
      return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    };
    return _mm256_add_epi32(four(0), four(4));
  }
};

}  // namespace

const Products &products_avx2() {
  static constexpr Products kProducts = {
      {{},
       {Form::kSplit, Mxfp4Bytes::kOffset, few_bytes<Avx2Bytes, Mxfp4Bytes>, Form::kSplit, nullptr,
        0},
       {Form::kWords, 0, few_words<Avx2, Int8Words<Avx2>>, Form::kWords, nullptr, 0},
       {Form::kFloat, 0, few_bf16<Avx2>, Form::kFloat, nullptr, 0}},
      prepare,
      swiglu,
      read,
  };
  return kProducts;
}

}  // namespace ossia
