// Products for processors without any of the levels' instructions: plain float arithmetic.
//
// out[t, r] = sum_k W[r, k] x[t, k]. Weights of a group are unpacked 16 rows at a time, and each
// is used for all tokens; speed is that of the table lookups, a tenth of what memory could feed.
#include "cpu_activations.h"

namespace ossia {
namespace {

constexpr float kValues[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// weights[32][16]: the block's inputs of 16 rows, scales included.
void unpack_mxfp4(const uint8_t *values, const uint8_t *scales, float (*weights)[kGroup]) {
  for (int t = 0; t < 4; ++t) {
    for (int r = 0; r < kGroup; ++r) {
      const float scale = from_bits(static_cast<uint32_t>(scales[r]) << 23);
      for (int j = 0; j < 4; ++j) {
        const uint8_t both = values[t * 64 + r * 4 + j];
        weights[8 * t + j][r] = kValues[both & 15] * scale;
        weights[8 * t + 4 + j][r] = kValues[both >> 4] * scale;
      }
    }
  }
}

void unpack_int8(const uint8_t *values, const uint8_t *scales, float (*weights)[kGroup]) {
  uint16_t halves[kGroup];
  std::memcpy(halves, scales, sizeof halves);
  for (int t = 0; t < 8; ++t) {
    for (int r = 0; r < kGroup; ++r) {
      const float scale = from_bits(static_cast<uint32_t>(halves[r]) << 16);
      for (int j = 0; j < 4; ++j) {
        weights[4 * t + j][r] = static_cast<float>(values[t * 64 + r * 4 + j] - 128) * scale;
      }
    }
  }
}

void unpack_bf16(const uint8_t *values, const uint8_t *, float (*weights)[kGroup]) {
  for (int p = 0; p < kBlock / 2; ++p) {
    uint32_t pairs[kGroup];
    std::memcpy(pairs, values + p * 64, sizeof pairs);
    for (int r = 0; r < kGroup; ++r) {
      weights[2 * p][r] = from_bits(pairs[r] << 16);
      weights[2 * p + 1][r] = from_bits(pairs[r] & 0xffff0000u);
    }
  }
}

using Unpack = void (*)(const uint8_t *, const uint8_t *, float (*)[kGroup]);

template <Unpack unpack, int value_bytes, int scale_bytes>
void few(const uint8_t *values, const uint8_t *scales, int64_t blocks, const uint8_t *const *rows,
         int tokens, float *out, int64_t stride) {
  float sums[kTokens][kGroup] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    float weights[kBlock][kGroup];
    unpack(values + b * value_bytes, scales + b * scale_bytes, weights);
    for (int t = 0; t < tokens; ++t) {
      float x[kBlock], sum[kGroup] = {};
      std::memcpy(x, rows[t] + b * sizeof x, sizeof x);
      for (int k = 0; k < kBlock; ++k) {
        for (int r = 0; r < kGroup; ++r) sum[r] += weights[k][r] * x[k];
      }
      for (int r = 0; r < kGroup; ++r) sums[t][r] += sum[r];
    }
  }
  for (int t = 0; t < tokens; ++t) std::memcpy(out + t * stride, sums[t], sizeof sums[t]);
}

}  // namespace

const Products &products_portable() {
  static constexpr Products kProducts = {
      {{},
       {Form::kFloat, 0, few<unpack_mxfp4, 256, 16>, Form::kFloat, nullptr, 0},
       {Form::kFloat, 0, few<unpack_int8, 512, 32>, Form::kFloat, nullptr, 0},
       {Form::kFloat, 0, few<unpack_bf16, 1024, 0>, Form::kFloat, nullptr, 0}},
      prepare,
      swiglu,
      read,
  };
  return kProducts;
}

}  // namespace ossia
