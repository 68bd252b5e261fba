// Brings matrices into the order of ossia_cpu.h. Bound by memory: each weight is read and written
// once, groups of 16 rows shared out among the threads.
#include <sys/mman.h>

#include <cmath>
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

// Two words of a checkpoint's block (4 bytes: inputs 0 1, 2 3, 4 5, 6 7 of eight, the first of two
// in the low nibble) -> byte j has input j low and input 4 + j high.
uint32_t reorder_nibbles(uint32_t w) {
  const uint32_t low = w & 0xffffu, high = w >> 16;  // inputs 0..3, inputs 4..7
  const auto spread = [](uint32_t four) {            // nibbles to the low halves of four bytes
    four = (four | four << 8) & 0x00ff00ffu;
    return (four | four << 4) & 0x0f0f0f0fu;
  };
  return spread(low) | spread(high) << 4;
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
    for (int r = 0; r < kGroup; ++r) {
      const int64_t row = group * kGroup + r;
      for (int64_t b = 0; b < per_row; ++b) {
        uint32_t words[4] = {};
        uint8_t code = 127;
        if (row < rows) {
          std::memcpy(words, blocks + (row * per_row + b) * 16, sizeof words);
          code = codes[row * per_row + b];
        }
        const int64_t at = group * per_row + b;
        for (int t = 0; t < 4; ++t) {
          const uint32_t word = reorder_nibbles(words[t]);
          std::memcpy(values + at * 256 + t * 64 + r * 4, &word, sizeof word);
        }
        scales[at * kGroup + r] = code;
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
        float most = 0;
        for (uint16_t w : block[r]) most = std::fmax(most, std::fabs(to_float(w)));
        const uint16_t scale = bfloat_up(most / 127.0f);
        const float inverse = scale == 0 ? 0.0f : 1.0f / to_float(scale);
        for (int k = 0; k < kBlock; ++k) {
          const long q = std::lrint(to_float(block[r][k]) * inverse);
          values[at * 512 + k / 4 * 64 + r * 4 + k % 4] = static_cast<uint8_t>(q + 128);
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
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kPage * kPage;
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
