// The inner loops of a transformer block that are not products with weights, one table a level.
//
// What holds for bits: a row's result depends on nothing but the row's own input, however many
// rows are given together.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ossia {

constexpr int kRangeKeys = 256;  // keys whose softmax is computed together; starts at multiples
constexpr int kBlockKeys = 64;   // keys that are brought into order together
constexpr int kTileRows = 64;    // most rows (query token x head of a group) of one tile

// The keys and values of one head at up to kRangeKeys positions.
struct KeyRange {
  const char *keys;        // of the layer's cache
  const char *values;      // the same
  const int64_t *offsets;  // bytes from there, by position in the range
  int begin, end;          // positions in the range that somebody sees
  bool bf16;
};

// Softmax and weighted sum over one range, not yet divided: out = sum e^(s - largest) v.
struct Partial {
  float *largest;  // [rows]; -infinity where a row sees no key
  float *sum;      // [rows]
  float *out;      // [rows, dim]
};

struct BlockKernels {
  // out = x / sqrt(mean(x^2) + eps) * weight; n is a multiple of 16.
  void (*norm)(const float *x, const float *weight, int64_t n, float eps, float *out);

  // out[t * stride + r] = x[t] . weight[r] + bias[r], x [tokens, n], weight [rows, n], n % 16 == 0.
  void (*dots)(const float *x, int64_t tokens, const float *weight, const float *bias,
               int64_t rows, int64_t n, float *out, int64_t stride);

  // The first half of a head turns with the second: (a c - b s, b c + a s). out may be x.
  void (*turn)(const float *x, const float *cos, const float *sin, int64_t half, float *out);

  // scores q . k of rows [rows, dim] (scaled) with a range of keys, then `partial`. Row r sees
  // positions low[r] .. high[r] - 1 of the range, clipped to begin .. end. `scratch` holds
  // attend_scratch(rows, dim) floats. dim is a multiple of 16.
  void (*attend)(const float *rows, int count, int dim, const int *low, const int *high,
                 const KeyRange &range, float *scratch, const Partial &partial);

  // Adds `more` to `state`; the order of ranges is part of the result.
  void (*merge)(int count, int dim, const Partial &state, const Partial &more);

  // out[r] = state.out[r] / (sum + e^(sink - largest)), rows of `out` dim apart.
  void (*finish)(int count, int dim, const Partial &state, const float *sinks, float *out);
};

inline int64_t attend_scratch(int rows, int dim) {
  return static_cast<int64_t>(rows) * kRangeKeys + 2 * static_cast<int64_t>(kBlockKeys) * dim;
}

const BlockKernels &block_kernels(Level level);

extern const BlockKernels kBlockKernelsPortable;
extern const BlockKernels kBlockKernelsAvx2;
extern const BlockKernels kBlockKernelsAvx512;
extern const BlockKernels kBlockKernelsNeon;

}  // namespace ossia
