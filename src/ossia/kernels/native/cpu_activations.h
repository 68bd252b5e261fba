// Preparing activations and SwiGLU, in plain loops that the compiler turns into vectors.
//
// Every level's file includes this and compiles it with its own flags. All of it is in an unnamed
// namespace: a function with a name that the linker shares could end up with instructions that
// another processor lacks. For the same reason nothing of the standard library is used here.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu_products.h"

// Calls `call` with the number of tokens as a constant.
#define OSSIA_FOR_TOKENS(tokens, call) \
  switch (tokens) {                    \
    case 1: call(1); break;            \
    case 2: call(2); break;            \
    case 3: call(3); break;            \
    case 4: call(4); break;            \
    case 5: call(5); break;            \
    case 6: call(6); break;            \
    case 7: call(7); break;            \
    default: call(8); break;           \
  }

namespace ossia {
namespace {

// Bytes between what is used and what is fetched. Without it two cores read a fifth less; 2048 and
// 8192 are 3 to 5 % worse (Zen 5).
constexpr int kAhead = 4096;
constexpr float kSteps = 127.0f * 256.0f;  // so that high parts stay within int8
constexpr float kTiny = 1e-30f;            // blocks with nothing larger count as zero
// Where each of eight inputs stands (cpu_products.h, kWords).
constexpr int kOrder[8] = {0, 2, 1, 3, 4, 6, 5, 7};

inline float largest_magnitude(const float *x) {
  // Compared as integers, so that NaN counts as largest and comes out as a NaN scale.
  int32_t bits[kBlock], most = 0;
  std::memcpy(bits, x, sizeof bits);
  for (int i = 0; i < kBlock; ++i) {
    const int32_t magnitude = bits[i] & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  float found;
  std::memcpy(&found, &most, sizeof found);
  return found;
}

inline int32_t round_to_int(float x) { return static_cast<int32_t>(x + (x < 0 ? -0.5f : 0.5f)); }

// Nearest bfloat16, ties to even; not for NaN, which comes out as some NaN or infinity.
inline uint16_t to_bfloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline void prepare_integers(bool split, int offset, const float *x, uint8_t *line, float *scale,
                             int32_t *fix) {
  const float largest = largest_magnitude(x);
  const float inverse = largest < kTiny ? 0.0f : kSteps / largest;
  int32_t q[kBlock], sum = 0;
  for (int i = 0; i < kBlock; ++i) q[i] = round_to_int(x[i] * inverse);
  for (int i = 0; i < kBlock; ++i) sum += q[i];
  if (split) {
    int8_t high[kBlock], low[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      const int32_t h = (q[i] + 128) >> 8;
      high[i] = static_cast<int8_t>(h);
      low[i] = static_cast<int8_t>(q[i] - h * 256);
    }
    std::memcpy(line, high, sizeof high);
    std::memcpy(line + sizeof high, low, sizeof low);
  } else {
    int16_t words[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      words[i] = static_cast<int16_t>(q[(i & ~7) + kOrder[i & 7]]);
    }
    std::memcpy(line, words, sizeof words);
  }
  *scale = largest / kSteps;
  *fix = -offset * sum;
}

[[maybe_unused]] void prepare(Form form, int offset, const float *x, uint8_t *row, int64_t blocks, int64_t first,
             int64_t count) {
  if (form == Form::kFloat) {
    std::memcpy(row + first * 128, x, static_cast<size_t>(count) * 128);
    return;
  }
  if (form == Form::kBfloat || form == Form::kBfloatPlain) {
    const bool plain = form == Form::kBfloatPlain;
    for (int64_t b = 0; b < count; ++b) {
      uint16_t line[kBlock];
      for (int i = 0; i < kBlock; ++i) {
        line[i] = to_bfloat(x[b * kBlock + (plain ? i : (i & ~7) + kOrder[i & 7])]);
      }
      std::memcpy(row + (first + b) * 64, line, sizeof line);
    }
    return;
  }
  auto *scales = reinterpret_cast<float *>(row + blocks * 64);
  auto *fixes = reinterpret_cast<int32_t *>(row + blocks * 68);
  for (int64_t b = 0; b < count; ++b) {
    prepare_integers(form == Form::kSplit, offset, x + b * kBlock, row + (first + b) * 64,
                     scales + first + b, fixes + first + b);
  }
}

// out = e^x within 2e-7 of itself, for x in [-87, 87]; beyond, the value at the end. 2^n by its
// bits, 2^f, |f| <= 1/2, by the Taylor series of e^(f ln 2) up to the seventh power.
inline void exponentials(const float *x, float *out) {
  float f[kBlock], power[kBlock];
  int32_t bits[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    float t = x[i] * 1.44269504f;
    t = t > 126.0f ? 126.0f : t;
    t = t < -126.0f ? -126.0f : t;
    const int32_t n = round_to_int(t);
    f[i] = (t - static_cast<float>(n)) * 0.693147181f;
    bits[i] = (n + 127) << 23;
  }
  std::memcpy(power, bits, sizeof power);
  for (int i = 0; i < kBlock; ++i) {
    float p = 1.0f / 5040.0f;
    p = p * f[i] + 1.0f / 720.0f;
    p = p * f[i] + 1.0f / 120.0f;
    p = p * f[i] + 1.0f / 24.0f;
    p = p * f[i] + 1.0f / 6.0f;
    p = p * f[i] + 0.5f;
    p = p * f[i] + 1.0f;
    p = p * f[i] + 1.0f;
    out[i] = p * power[i];
  }
}

// One block of 32 units: short loops over arrays of fixed size, which compilers do turn into
// vectors; the same in one loop they do not.
[[maybe_unused]] void swiglu(const float *gate_up, const float *bias, float alpha, float limit,
                             float *h) {
  float y[2 * kBlock], g[kBlock], u[kBlock], z[kBlock], e[kBlock];
  std::memcpy(y, gate_up, sizeof y);
  if (bias != nullptr) {
    for (int i = 0; i < 2 * kBlock; ++i) y[i] += bias[i];
  }
  for (int i = 0; i < kBlock; ++i) {
    g[i] = y[2 * i];
    u[i] = y[2 * i + 1];
  }
  for (int i = 0; i < kBlock; ++i) {
    g[i] = g[i] > limit ? limit : g[i];
    u[i] = u[i] > limit ? limit : u[i];
    u[i] = u[i] < -limit ? -limit : u[i];
    z[i] = -alpha * g[i];
  }
  exponentials(z, e);
  for (int i = 0; i < kBlock; ++i) h[i] = g[i] / (1.0f + e[i]) * (u[i] + 1.0f);
}

[[maybe_unused]] uint64_t read(const uint8_t *memory, int64_t bytes) {
  uint64_t sums[32] = {};
  int64_t at = 0;
  for (; at + 256 <= bytes; at += 256) {
    uint64_t words[32];
    // As far ahead as in the products, which read faster than a loop without it.
    for (int i = 0; i < 256; i += 64) __builtin_prefetch(memory + at + i + kAhead);
    std::memcpy(words, memory + at, sizeof words);
    for (int i = 0; i < 32; ++i) sums[i] ^= words[i];
  }
  for (; at < bytes; ++at) sums[0] ^= memory[at];
  uint64_t all = 0;
  for (int i = 0; i < 32; ++i) all ^= sums[i];
  return all;
}

}  // namespace
}  // namespace ossia
