// Products with activations as 16-bit integers, for AVX2 and AVX-512 without VNNI.
//
// out[t, r] = sum over blocks b of (sum_k w[r, k] q[t, k]) * weight scale[r, b] * scale[t, b],
// the inner sum in integers: pairs of 16-bit products by (v)pmaddwd. Bytes: one read of the
// matrix. A vector V holds one 32-bit lane a row, V::kRows rows; a group of 16 rows is one or two.
#pragma once

#include "cpu_activations.h"

namespace ossia {
namespace {

// Weights of one block as 16 vectors of pairs of int16, in the order of kWords.
template <typename V>
struct Mxfp4Words {
  static constexpr int kValueBytes = 256, kScaleBytes = 16;

  static inline void pairs(const uint8_t *values, typename V::Int *w) {
    for (int t = 0; t < 4; ++t) {
      const typename V::Int packed = V::load(values + t * 64);
      w[4 * t + 0] = V::template nibble<0>(packed);  // inputs 0, 2
      w[4 * t + 1] = V::template nibble<2>(packed);  // 1, 3
      w[4 * t + 2] = V::template nibble<1>(packed);  // 4, 6
      w[4 * t + 3] = V::template nibble<3>(packed);  // 5, 7
    }
  }
  // nibble gives twice the value.
  static inline typename V::Float scale(const uint8_t *scales) {
    return V::multiply(V::power_of_two(scales), V::broadcast(0.5f));
  }
};

template <typename V>
struct Int8Words {
  static constexpr int kValueBytes = 512, kScaleBytes = 32;

  static inline void pairs(const uint8_t *values, typename V::Int *w) {
    for (int t = 0; t < 8; ++t) {
      const typename V::Int packed = V::load(values + t * 64);
      w[2 * t] = V::even_bytes(packed);     // inputs 0, 2
      w[2 * t + 1] = V::odd_bytes(packed);  // 1, 3
    }
  }
  static inline typename V::Float scale(const uint8_t *scales) { return V::bfloats(scales); }
};

template <typename V, typename W, int tokens>
inline void words_product(const uint8_t *values, const uint8_t *scales, int64_t blocks,
                          const uint8_t *const *rows, int part, float *out, int64_t stride) {
  constexpr int kPart = V::kRows * 4;  // bytes of one load
  typename V::Float sums[tokens];
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) sums[t] = V::broadcast(0.0f);
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t *block = values + b * W::kValueBytes;
    for (int i = 0; i < W::kValueBytes; i += 64) __builtin_prefetch(block + i + kAhead);
    typename V::Int w[16];
    W::pairs(block + part * kPart, w);
    const typename V::Float scale =
        W::scale(scales + b * W::kScaleBytes + part * (W::kScaleBytes / 16) * V::kRows);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      const uint8_t *line = rows[t] + b * 64;
      typename V::Int even = V::multiply_pairs(w[0], V::broadcast_pair(line));
      typename V::Int odd = V::multiply_pairs(w[1], V::broadcast_pair(line + 4));
#pragma GCC unroll 8
      for (int p = 2; p < 16; p += 2) {
        even = V::add(even, V::multiply_pairs(w[p], V::broadcast_pair(line + 4 * p)));
        odd = V::add(odd, V::multiply_pairs(w[p + 1], V::broadcast_pair(line + 4 * p + 4)));
      }
      const typename V::Float x_scale = V::broadcast(row_scales(rows[t], blocks)[b]);
      sums[t] = V::multiply_add(V::multiply(V::to_float(V::add(even, odd)), x_scale), scale,
                                sums[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) V::store(out + t * stride + part * V::kRows, sums[t]);
}

// BF16 matrices: float activations, because unpacking a pair is one shift and one mask.
template <typename V, int tokens>
inline void bf16_product(const uint8_t *values, int64_t blocks, const uint8_t *const *rows,
                         int part, float *out, int64_t stride) {
  typename V::Float low[tokens], high[tokens];
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) low[t] = high[t] = V::broadcast(0.0f);
  for (int64_t p = 0; p < blocks * 16; ++p) {
    const uint8_t *pair = values + p * 64 + part * V::kRows * 4;
    __builtin_prefetch(pair + kAhead);
    const typename V::Int w = V::load(pair);
    const typename V::Float first = V::low_bfloat(w), second = V::high_bfloat(w);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      const float *x = reinterpret_cast<const float *>(rows[t]) + 2 * p;
      low[t] = V::multiply_add(first, V::broadcast(x[0]), low[t]);
      high[t] = V::multiply_add(second, V::broadcast(x[1]), high[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    V::store(out + t * stride + part * V::kRows, V::add_floats(low[t], high[t]));
  }
}

template <typename V, typename W>
void few_words(const uint8_t *values, const uint8_t *scales, int64_t blocks,
               const uint8_t *const *rows, int tokens, float *out, int64_t stride) {
  for (int part = 0; part < kGroup / V::kRows; ++part) {
#define OSSIA_CALL(n) words_product<V, W, n>(values, scales, blocks, rows, part, out, stride)
    OSSIA_FOR_TOKENS(tokens, OSSIA_CALL)
#undef OSSIA_CALL
  }
}

template <typename V>
void few_bf16(const uint8_t *values, const uint8_t *, int64_t blocks, const uint8_t *const *rows,
              int tokens, float *out, int64_t stride) {
  for (int part = 0; part < kGroup / V::kRows; ++part) {
#define OSSIA_CALL(n) bf16_product<V, n>(values, blocks, rows, part, out, stride)
    OSSIA_FOR_TOKENS(tokens, OSSIA_CALL)
#undef OSSIA_CALL
  }
}

}  // namespace
}  // namespace ossia
