// What a level offers: products of a few rows of a matrix with a few tokens.
//
// Activations are first brought into a "prepared row" a token, in the form that the kernel wants:
// for each block of 32 inputs one line, then (kSplit, kWords) a float scale and an int32 a block.
//   kFloat   line of 128 bytes: the inputs as they are.
//   kSplit   line of 64 bytes: q = round(x / scale) as 256 high + low, 32 int8 high, then 32 low.
//   kWords   line of 64 bytes: q as int16; eight inputs stand as 0 2 1 3 4 6 5 7, because even and
//            odd places of packed weights come apart by one shift.
//   kBfloat  line of 64 bytes: bfloat16, in that same order for MXFP4 and INT8, plain for BF16.
// With scale = largest magnitude / 32512 an input is off by at most 1.6e-5 of the largest of its
// block. Sums over a block are exact integers; they are turned into floats once a block.
#pragma once

#include <cstdint>

#include "cpu_level.h"
#include "ossia_cpu.h"

namespace ossia {

constexpr int kGroup = 16;  // rows
constexpr int kBlock = 32;  // inputs
constexpr int kTokens = 8;  // that one call of Few takes

enum class Form { kFloat, kSplit, kWords, kBfloat, kBfloatPlain };

// Bytes from one prepared row to the next: an odd number of cache lines, so that the rows of
// several tokens do not fall into the same set of the cache.
inline int64_t row_bytes(Form form, int64_t blocks) {
  const int64_t line = form == Form::kFloat ? 128 : 64;
  return ((blocks * (line + 8) + 63) / 64 | 1) * 64;
}
inline const float *row_scales(const uint8_t *row, int64_t blocks) {
  return reinterpret_cast<const float *>(row + blocks * 64);
}
// -sum(q) * kOffset of a block, where weights are stored with kOffset added (kSplit only).
inline const int32_t *row_fixes(const uint8_t *row, int64_t blocks) {
  return reinterpret_cast<const int32_t *>(row + blocks * 68);
}

// One group of 16 rows, all inputs, with 1..kTokens tokens: out[t * stride + r], r = 0..15.
using Few = void (*)(const uint8_t *values, const uint8_t *scales, int64_t blocks,
                     const uint8_t *const *rows, int tokens, float *out, int64_t stride);

// `groups` groups with any number of tokens, whose prepared rows follow each other: out[t * stride
// + r], r = 0 .. 16 * groups - 1. `scratch` has many_scratch(blocks) bytes, aligned to 64.
using Many = void (*)(const uint8_t *values, const uint8_t *scales, int64_t blocks, int64_t groups,
                      const uint8_t *rows, int64_t tokens, float *out, int64_t stride,
                      uint8_t *scratch);
inline int64_t many_scratch(int64_t blocks) { return blocks * 2048 + 4096; }

struct KindProducts {
  Form form;   // of prepared rows for `few`
  int offset;  // added to stored weights (what row_fixes are multiplied with)
  Few few;
  Form many_form;
  Many many;      // null: there is only `few`
  int many_from;  // tokens from which `many` is faster
};

struct Products {
  KindProducts kinds[4];  // by OSSIA_MXFP4 .. OSSIA_BF16; [0] is not used

  // Blocks [first, first + count) of a prepared row of `blocks`, from their count * 32 inputs.
  void (*prepare)(Form form, int offset, const float *x, uint8_t *row, int64_t blocks,
                  int64_t first, int64_t count);
  // 32 hidden units: h[i] = g sigmoid(alpha g) (u + 1), g = min(y[2i], limit), u = y[2i+1] held to
  // -limit .. limit, y = gate_up + bias (null: none).
  void (*swiglu)(const float *gate_up, const float *bias, float alpha, float limit, float *h);
  // Sums up all 64-byte lines of a piece of memory: the plain read.
  uint64_t (*read)(const uint8_t *memory, int64_t bytes);
};

const Products &products_portable();
const Products &products_avx2();
const Products &products_avxvnni();
const Products &products_avx512();
const Products &products_vnni();
const Products &products_amx();
const Products &products_neon();

const Products &products(Level level);

}  // namespace ossia
