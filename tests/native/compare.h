// Random arrays, aligned memory and comparing for against_portable.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "ossia_cpu_blocks.h"

using Floats = std::vector<float>;

// Uniform in 0 .. 1. Not from <random>, whose distributions give other numbers in every standard
// library. The generator is xorshift64* of Marsaglia and Vigna.
inline float uniform() {
  static uint64_t state = 88172645463325252u;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return static_cast<float>(state * 2685821657736338717u >> 40) / 16777216.0f;
}

// Normal enough: twelve uniform numbers have variance 1.
inline Floats normal(int64_t count, float scale = 1.0f) {
  Floats out(static_cast<size_t>(count));
  for (float &x : out) {
    x = -6.0f;
    for (int i = 0; i < 12; ++i) x += uniform();
    x *= scale;
  }
  return out;
}

inline std::vector<uint8_t> bytes(int64_t count, int least, int most) {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  const auto choices = static_cast<float>(most - least + 1);
  for (uint8_t &x : out) x = static_cast<uint8_t>(least + static_cast<int>(uniform() * choices));
  return out;
}

inline uint16_t bfloat(float x) {  // towards zero
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}
inline double wide(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

// Memory as matrices want it, with as much behind it as kernels may ask for in advance.
inline std::shared_ptr<uint8_t> aligned(int64_t count) {
  const auto whole = static_cast<size_t>((count + 63) / 64 * 64 + 64);
  auto *memory = static_cast<uint8_t *>(std::aligned_alloc(64, whole));
  return {memory, [](uint8_t *p) { std::free(p); }};
}

inline int &failures() {
  static int count = 0;
  return count;
}
inline int &checks() {
  static int count = 0;
  return count;
}

inline void expect(bool good, const char *what) {
  ++checks();
  if (good) return;
  ++failures();
  std::printf("wrong: %s\n", what);
}

// ||found - wanted|| <= limit * ||wanted||, which no NaN fulfils.
template <typename T>
void expect_close(const Floats &found, const std::vector<T> &wanted, double limit,
                  const char *what) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double off = static_cast<double>(found[i]) - static_cast<double>(wanted[i]);
    difference += off * off;
    size += static_cast<double>(wanted[i]) * static_cast<double>(wanted[i]);
  }
  const double error = std::sqrt(difference / size);
  ++checks();
  if (found.size() == wanted.size() && error <= limit) return;
  ++failures();
  std::printf("wrong: %s is off by %.3g, %.3g is allowed\n", what, error, limit);
}

inline void must(int code, const char *what) { expect(code == OSSIA_OK, what); }
