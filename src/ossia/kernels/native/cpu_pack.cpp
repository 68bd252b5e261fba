// Brings matrices into the order of ossia_cpu.h. Bound by memory: each weight is read and written
// once, groups of 16 rows shared out among the threads.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "cpu_context.h"
#include "cpu_matrix.h"

namespace ossia {
namespace {

bool shape_ok(int64_t rows, int64_t inputs) {
  return rows > 0 && inputs > 0 && inputs % kBlock == 0;
}

float to_float(uint16_t bfloat) {
  const uint32_t bits = static_cast<uint32_t>(bfloat) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Least bfloat16 that is not below x >= 0.
uint16_t bfloat_up(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0xffffu) >> 16);
}

typedef uint32_t Words __attribute__((vector_size(16)));  // a block of one row; four words of one

// Words of a checkpoint's block (4 bytes: inputs 0 1, 2 3, 4 5, 6 7 of eight, the first of two in
// the low nibble) -> byte j has input j low and input 4 + j high.
inline Words reorder_nibbles(Words w) {
  const auto spread = [](Words four) {  // nibbles to the low halves of four bytes
    four = (four | four << 8) & 0x00ff00ffu;
    return (four | four << 4) & 0x0f0f0f0fu;
  };
  return spread(w & 0xffffu) | spread(w >> 16) << 4;  // inputs 0..3, inputs 4..7
}

// Elements of two vectors by number; gcc has the name of clang from version 12 on.
#if defined(__clang__)
#define OSSIA_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define OSSIA_PICK(a, b, ...) __builtin_shuffle(a, b, Words{__VA_ARGS__})
#endif

// Blocks of four rows, [row][part] -> [part][row].
inline void turn_over(Words (&a)[4]) {
  const Words b0 = OSSIA_PICK(a[0], a[1], 0, 4, 1, 5);
  const Words b1 = OSSIA_PICK(a[0], a[1], 2, 6, 3, 7);
  const Words c0 = OSSIA_PICK(a[2], a[3], 0, 4, 1, 5);
  const Words c1 = OSSIA_PICK(a[2], a[3], 2, 6, 3, 7);
  a[0] = OSSIA_PICK(b0, c0, 0, 1, 4, 5);
  a[1] = OSSIA_PICK(b0, c0, 2, 3, 6, 7);
  a[2] = OSSIA_PICK(b1, c1, 0, 1, 4, 5);
  a[3] = OSSIA_PICK(b1, c1, 2, 3, 6, 7);
}

// The block of 16 rows whose first is at `row`, 16 bytes each, `stride` bytes apart; zeros beyond
// `there` rows.
inline void pack_block(const uint8_t *row, int64_t stride, int64_t there, uint8_t *out) {
  for (int r = 0; r < kGroup; r += 4) {
    Words a[4] = {};
    for (int i = 0; i < 4; ++i) {
      if (r + i < there) std::memcpy(&a[i], row + (r + i) * stride, sizeof a[i]);
      a[i] = reorder_nibbles(a[i]);
    }
    turn_over(a);
    for (int t = 0; t < 4; ++t) std::memcpy(out + t * 64 + r * 4, &a[t], sizeof a[t]);
  }
}

// 32 bfloat16 -> value + 128 in bytes and the scale. Rounds to the nearest by adding 1.5 * 2^23,
// whose last bit is worth 1.
inline uint16_t quantise(const uint16_t *weights, uint8_t *bytes) {
  int16_t most = 0;
  for (int k = 0; k < kBlock; ++k) {
    const auto magnitude = static_cast<int16_t>(weights[k] & 0x7fffu);  // grows with the number
    most = magnitude > most ? magnitude : most;
  }
  const uint16_t scale = bfloat_up(to_float(static_cast<uint16_t>(most)) / 127.0f);
  const float inverse = scale == 0 ? 0.0f : 1.0f / to_float(scale);
  constexpr float kShift = 12582912.0f;
  constexpr uint32_t kShiftBits = 0x4b400000u;
  for (int k = 0; k < kBlock; ++k) {
    const float moved = to_float(weights[k]) * inverse + kShift;
    uint32_t bits;
    std::memcpy(&bits, &moved, sizeof bits);
    bytes[k] = static_cast<uint8_t>(bits - kShiftBits + 128u);
  }
  return scale;
}

// 16 rows x 32 inputs of bfloat16 (rows beyond the matrix: zeros).
void load_block(const uint16_t *weight, int64_t rows, int64_t inputs, int64_t group, int64_t block,
                uint16_t (*out)[kBlock]) {
  for (int r = 0; r < kGroup; ++r) {
    const int64_t row = group * kGroup + r;
    if (row < rows) {
      std::memcpy(out[r], weight + row * inputs + block * kBlock, sizeof out[r]);
    } else {
      std::memset(out[r], 0, sizeof out[r]);
    }
  }
}

}  // namespace
}  // namespace ossia

using namespace ossia;

int64_t ossia_value_bytes(int64_t kind, int64_t rows, int64_t inputs) {
  if (kind < OSSIA_MXFP4 || kind > OSSIA_BF16 || !shape_ok(rows, inputs)) return 0;
  return groups_of(rows) * (inputs / kBlock) * value_bytes_of_block(kind);
}

int64_t ossia_scale_bytes(int64_t kind, int64_t rows, int64_t inputs) {
  if (kind < OSSIA_MXFP4 || kind > OSSIA_BF16 || !shape_ok(rows, inputs)) return 0;
  return groups_of(rows) * (inputs / kBlock) * scale_bytes_of_block(kind);
}

int ossia_pack_mxfp4(ossia_context *context, const uint8_t *blocks, const uint8_t *codes,
                     int64_t rows, int64_t inputs, uint8_t *values, uint8_t *scales) {
  if (!shape_ok(rows, inputs)) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  const int64_t per_row = inputs / kBlock;
  context->pool.run(groups_of(rows), [&](int64_t group, int) {
    const int64_t first = group * kGroup, there = std::min<int64_t>(kGroup, rows - first);
    for (int64_t b = 0; b < per_row; ++b) {
      const int64_t from = first * per_row + b, at = group * per_row + b;
      pack_block(blocks + from * 16, per_row * 16, there, values + at * 256);
      for (int r = 0; r < kGroup; ++r) {
        scales[at * kGroup + r] = r < there ? codes[from + r * per_row] : 127;
      }
    }
  });
  return OSSIA_OK;
}

int ossia_pack_int8(ossia_context *context, const uint16_t *weight, int64_t rows, int64_t inputs,
                    uint8_t *values, uint16_t *scales) {
  if (!shape_ok(rows, inputs)) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  const int64_t per_row = inputs / kBlock;
  context->pool.run(groups_of(rows), [&](int64_t group, int) {
    for (int64_t b = 0; b < per_row; ++b) {
      uint16_t block[kGroup][kBlock];
      load_block(weight, rows, inputs, group, b, block);
      const int64_t at = group * per_row + b;
      for (int r = 0; r < kGroup; ++r) {
        uint8_t bytes[kBlock];
        const uint16_t scale = quantise(block[r], bytes);
        for (int t = 0; t < kBlock / 4; ++t) {
          std::memcpy(values + at * 512 + t * 64 + r * 4, bytes + t * 4, 4);
        }
        scales[at * kGroup + r] = scale;
      }
    }
  });
  return OSSIA_OK;
}

int ossia_pack_bf16(ossia_context *context, const uint16_t *weight, int64_t rows, int64_t inputs,
                    uint16_t *values) {
  if (!shape_ok(rows, inputs)) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  const int64_t per_row = inputs / kBlock;
  context->pool.run(groups_of(rows), [&](int64_t group, int) {
    for (int64_t b = 0; b < per_row; ++b) {
      uint16_t block[kGroup][kBlock];
      load_block(weight, rows, inputs, group, b, block);
      uint16_t *out = values + (group * per_row + b) * 512;
      for (int r = 0; r < kGroup; ++r) {
        for (int k = 0; k < kBlock; ++k) out[k / 2 * 32 + r * 2 + k % 2] = block[r][k];
      }
    }
  });
  return OSSIA_OK;
}

int ossia_advise_huge(void *memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));  // up to 64 KB on ARM
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (begin >= end) return OSSIA_BAD_ARGUMENT;
  return madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE) == 0
             ? OSSIA_OK
             : OSSIA_BAD_ARGUMENT;
#else
  (void)memory;
  (void)bytes;
  return OSSIA_BAD_ARGUMENT;
#endif
}
