// Products with AVX-512 F and BW: vectors of 16 rows (see cpu_words.h).
#include <immintrin.h>

#include "cpu_words.h"

namespace ossia {
namespace {

struct Avx512 {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kRows = 16;

  static inline Int load(const uint8_t *p) { return _mm512_loadu_si512(p); }
  static inline void store(float *p, Float x) { _mm512_storeu_ps(p, x); }
  static inline Float broadcast(float x) { return _mm512_set1_ps(x); }
  static inline Int broadcast_pair(const uint8_t *p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static inline Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static inline Int multiply_pairs(Int a, Int b) { return _mm512_madd_epi16(a, b); }
  static inline Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
  static inline Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static inline Float add_floats(Float a, Float b) { return _mm512_add_ps(a, b); }
  static inline Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }

  // Nibble `place` of each 16-bit half, as twice its value: a lookup by the low five bits, of
  // which the fifth belongs to the next nibble, so the table is there twice.
  template <int place>
  static inline Int nibble(Int w) {
    const Int half = _mm512_castsi256_si512(
        _mm256_setr_epi16(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    const Int table = _mm512_inserti64x4(half, _mm512_castsi512_si256(half), 1);
    return _mm512_permutexvar_epi16(place ? _mm512_srli_epi16(w, 4 * place) : w, table);
  }
  static inline Int even_bytes(Int w) {
    return _mm512_srai_epi16(_mm512_slli_epi16(centred(w), 8), 8);
  }
  static inline Int odd_bytes(Int w) { return _mm512_srai_epi16(centred(w), 8); }

  static inline Float power_of_two(const uint8_t *codes) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 23));
  }
  static inline Float bfloats(const uint8_t *p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static inline Float low_bfloat(Int w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)); }
  static inline Float high_bfloat(Int w) {
    return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(-65536)));
  }

 private:
  // Stored bytes have 128 added: flipping the top bit makes them signed.
  static inline Int centred(Int w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
};

}  // namespace

const Products &products_avx512() {
  static constexpr Products kProducts = {
      {{},
       {Form::kWords, 0, few_words<Avx512, Mxfp4Words<Avx512>>, Form::kWords, nullptr, 0},
       {Form::kWords, 0, few_words<Avx512, Int8Words<Avx512>>, Form::kWords, nullptr, 0},
       {Form::kFloat, 0, few_bf16<Avx512>, Form::kFloat, nullptr, 0}},
      prepare,
      swiglu,
      read,
  };
  return kProducts;
}

}  // namespace ossia
