// Products with AVX-512 VNNI and VBMI: four 8-bit products and their sum in each lane at once.
//
// out[t, r] = sum over blocks b of (sum_k w[r, k] q[t, k]) * weight scale[r, b] * scale[t, b], with
// q = 256 high + low: two passes of vpdpbusd over the same unpacked weights, all in integers.
// Bytes: one read of the matrix. vpdpbusd wants one factor unsigned, so weights have an offset (12
// for twice an E2M1 value, 128 for INT8), and -offset * sum(q), known beforehand, takes it back.
// A call does 16 rows, one a lane; per 64 bytes of MXFP4 that is two lookups (vpermb) and one
// shift, and per token four vpdpbusd whose second factor is broadcast from memory.
#include <immintrin.h>

#include "cpu_words.h"

namespace ossia {
namespace {

constexpr int kScalesAhead = 512;  // bytes; the scales are a sixteenth of the values

struct Mxfp4Bytes {
  static constexpr int kValueBytes = 256, kScaleBytes = 16, kOffset = 12;
  __m512i table;

  Mxfp4Bytes()
      : table(_mm512_broadcast_i32x4(
            _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0))) {}

  // w[i]: inputs 4i .. 4i+3 of 16 rows. The lookup takes six bits; those above the nibble choose
  // among four copies of the table.
  inline void bytes(const uint8_t *values, __m512i *w) const {
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      const __m512i packed = _mm512_load_si512(values + t * 64);
      w[2 * t] = _mm512_permutexvar_epi8(packed, table);
      w[2 * t + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(packed, 4), table);
    }
  }
  static inline __m512 scale(const uint8_t *scales) {
    const __m128i codes = _mm_load_si128(reinterpret_cast<const __m128i *>(scales));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(codes), 23));
  }
  static constexpr float kFactor = 0.5f;  // the table has twice the values
};

struct Int8Bytes {
  static constexpr int kValueBytes = 512, kScaleBytes = 32, kOffset = 128;

  inline void bytes(const uint8_t *values, __m512i *w) const {
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) w[t] = _mm512_load_si512(values + t * 64);
  }
  static inline __m512 scale(const uint8_t *scales) {
    const __m256i halves = _mm256_load_si256(reinterpret_cast<const __m256i *>(scales));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static constexpr float kFactor = 1.0f;
};

// sum += w * x, x four bytes from memory broadcast to all rows. Written out because compilers split
// the intrinsic into a broadcast and a product.
inline __m512i multiply_four(__m512i sum, __m512i w, const uint8_t *x) {
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(sum)
      : "v"(w), "m"(*reinterpret_cast<const int32_t *>(x)));
  return sum;
}

template <typename W, int tokens>
inline void split_product(const uint8_t *values, const uint8_t *scales, int64_t blocks,
                          const uint8_t *const *rows, float *out, int64_t stride) {
  // With few tokens high and low parts have sums of their own, which gives the processor enough
  // independent chains; with many there are not enough registers, and no need.
  constexpr bool kTwoChains = tokens <= 4;
  const W unpack;
  __m512 sums[tokens];
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) sums[t] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t *block = values + b * W::kValueBytes;
#pragma GCC unroll 8
    for (int i = 0; i < W::kValueBytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char *>(block + i + kAhead), _MM_HINT_T0);
    }
    _mm_prefetch(reinterpret_cast<const char *>(scales + b * W::kScaleBytes + kScalesAhead),
                 _MM_HINT_T0);
    __m512i w[8], high[tokens], low[tokens];
    unpack.bytes(block, w);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      high[t] = _mm512_setzero_si512();
      low[t] = _mm512_set1_epi32(row_fixes(rows[t], blocks)[b]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) {
        const uint8_t *line = rows[t] + b * 64 + i * 4;
        high[t] = multiply_four(high[t], w[i], line);
        if constexpr (kTwoChains) low[t] = multiply_four(low[t], w[i], line + 32);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      high[t] = _mm512_add_epi32(_mm512_slli_epi32(high[t], 8), low[t]);
    }
    if constexpr (!kTwoChains) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) {
          high[t] = multiply_four(high[t], w[i], rows[t] + b * 64 + 32 + i * 4);
        }
      }
    }
    const __m512 scale = _mm512_mul_ps(W::scale(scales + b * W::kScaleBytes),
                                       _mm512_set1_ps(W::kFactor));
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(high[t]),
                                          _mm512_set1_ps(row_scales(rows[t], blocks)[b]));
      sums[t] = _mm512_fmadd_ps(scaled, scale, sums[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) _mm512_storeu_ps(out + t * stride, sums[t]);
}

template <typename W>
void few_split(const uint8_t *values, const uint8_t *scales, int64_t blocks,
               const uint8_t *const *rows, int tokens, float *out, int64_t stride) {
#define OSSIA_CALL(n) split_product<W, n>(values, scales, blocks, rows, out, stride)
  OSSIA_FOR_TOKENS(tokens, OSSIA_CALL)
#undef OSSIA_CALL
}

}  // namespace

const Products &products_vnni() {
  static const Products kProducts = [] {
    Products made = products_avx512();
    made.kinds[OSSIA_MXFP4] = {Form::kSplit, Mxfp4Bytes::kOffset, few_split<Mxfp4Bytes>,
                               Form::kSplit, nullptr,             0};
    made.kinds[OSSIA_INT8] = {Form::kSplit, Int8Bytes::kOffset, few_split<Int8Bytes>,
                              Form::kSplit, nullptr,            0};
    made.prepare = prepare;
    made.swiglu = swiglu;
    made.read = read;
    return made;
  }();
  return kProducts;
}

}  // namespace ossia
