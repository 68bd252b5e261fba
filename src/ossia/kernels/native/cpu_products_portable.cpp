// Products for processors without any of the levels' instructions, in vectors of four floats, which
// every 64-bit processor has and compilers know by themselves (SSE2, NEON).
//
// out[t, r] = sum_k W[r, k] x[t, k]. Weights of a block are unpacked to floats, 16 rows at a time,
// and each is used for all tokens; unpacking takes most of the time of a single token.
#include "cpu_activations.h"

namespace ossia {
namespace {

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kParts = kGroup / kLanes;  // of a group of rows

inline Floats as_floats(Ints bits) { return reinterpret_cast<Floats>(bits); }
inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// weights[32][part]: the block's inputs of 16 rows, scales included.
using Weights = Floats[kBlock][kParts];

// Twice the value of the low nibble of each lane: 0 1 2 3 4 6 8 12 by comparisons, which are -1
// where they hold.
inline Ints twice_value(Ints code) {
  const Ints m = code & 7;
  const Ints value = m - (m > 4) - (m > 5) - 3 * (m > 6);
  const Ints sign = -(code >> 3 & 1);
  return (value ^ sign) - sign;
}

void unpack_mxfp4(const uint8_t *values, const uint8_t *scales, Weights &weights) {
  for (int part = 0; part < kParts; ++part) {
    const uint8_t *codes = scales + part * kLanes;
    const Ints bits = Ints{codes[0], codes[1], codes[2], codes[3]} << 23;
    const Floats scale = as_floats(bits) * 0.5f;
    for (int t = 0; t < 4; ++t) {
      Ints packed;
      std::memcpy(&packed, values + t * 64 + part * 16, sizeof packed);
      for (int i = 0; i < 8; ++i) {
        weights[8 * t + (i & 1 ? 4 : 0) + i / 2][part] =
            to_floats(twice_value(packed >> 4 * i)) * scale;
      }
    }
  }
}

void unpack_int8(const uint8_t *values, const uint8_t *scales, Weights &weights) {
  uint16_t halves[kGroup];
  std::memcpy(halves, scales, sizeof halves);
  for (int part = 0; part < kParts; ++part) {
    const uint16_t *half = halves + part * kLanes;
    const Floats scale = as_floats(Ints{half[0], half[1], half[2], half[3]} << 16);
    for (int t = 0; t < 8; ++t) {
      Ints packed;
      std::memcpy(&packed, values + t * 64 + part * 16, sizeof packed);
      for (int j = 0; j < 4; ++j) {
        weights[4 * t + j][part] = to_floats((packed >> 8 * j & 255) - 128) * scale;
      }
    }
  }
}

void unpack_bf16(const uint8_t *values, const uint8_t *, Weights &weights) {
  for (int p = 0; p < kBlock / 2; ++p) {
    for (int part = 0; part < kParts; ++part) {
      Ints pair;
      std::memcpy(&pair, values + p * 64 + part * 16, sizeof pair);
      weights[2 * p][part] = as_floats(pair << 16);
      weights[2 * p + 1][part] = as_floats(pair & -65536);
    }
  }
}

using Unpack = void (*)(const uint8_t *, const uint8_t *, Weights &);

template <Unpack unpack, int value_bytes, int scale_bytes>
void few(const uint8_t *values, const uint8_t *scales, int64_t blocks, const uint8_t *const *rows,
         int tokens, float *out, int64_t stride) {
  Floats sums[kTokens][kParts] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    Weights weights;
    unpack(values + b * value_bytes, scales + b * scale_bytes, weights);
    for (int t = 0; t < tokens; ++t) {
      float x[kBlock];
      std::memcpy(x, rows[t] + b * sizeof x, sizeof x);
      // The sum of a block on its own keeps rounding small.
      Floats a = {}, c = {}, d = {}, e = {};
      for (int k = 0; k < kBlock; ++k) {
        a += weights[k][0] * x[k];
        c += weights[k][1] * x[k];
        d += weights[k][2] * x[k];
        e += weights[k][3] * x[k];
      }
      sums[t][0] += a;
      sums[t][1] += c;
      sums[t][2] += d;
      sums[t][3] += e;
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
