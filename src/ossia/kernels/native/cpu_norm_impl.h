// RMSNorm, products of a few rows in float32 (the router) and rotary turning; see
// cpu_block_kernels.h. For files of one level.
#pragma once

#include "cpu_vector.h"

namespace ossia {
namespace {

void norm(const float *x, const float *weight, int64_t n, float eps, float *out) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const Vec a = load(x + i + j * kLanes);
      sums[j] = fma(a, a, sums[j]);
    }
  }
  for (; i < n; i += kLanes) {
    const Vec a = load(x + i);
    sums[0] = fma(a, a, sums[0]);
  }
  const float square = sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  const Vec scale = set1(1.0f / std::sqrt(square / static_cast<float>(n) + eps));
  for (i = 0; i < n; i += kLanes) {
    store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
  }
}

// T tokens with R rows: T + R loads for T * R multiplications. Two sums for each, so that the
// chain of additions is not what takes the time; the order does not depend on T and R.
template <int T, int R>
void dot_tile(const float *x, const float *weight, const float *bias, int64_t n, float *out,
              int64_t stride) {
  Vec even[T][R], odd[T][R];
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) even[t][r] = odd[t][r] = zero();
  }
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (int r = 0; r < R; ++r) {
      const Vec w0 = load(weight + r * n + i), w1 = load(weight + r * n + i + kLanes);
      for (int t = 0; t < T; ++t) {
        even[t][r] = fma(load(x + t * n + i), w0, even[t][r]);
        odd[t][r] = fma(load(x + t * n + i + kLanes), w1, odd[t][r]);
      }
    }
  }
  for (; i < n; i += kLanes) {
    for (int r = 0; r < R; ++r) {
      const Vec w = load(weight + r * n + i);
      for (int t = 0; t < T; ++t) even[t][r] = fma(load(x + t * n + i), w, even[t][r]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) out[t * stride + r] = sum(add(even[t][r], odd[t][r])) + bias[r];
  }
}

template <int T>
void dot_rows(const float *x, const float *weight, const float *bias, int64_t rows, int64_t n,
              float *out, int64_t stride) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) dot_tile<T, 4>(x, weight + r * n, bias + r, n, out + r, stride);
  for (; r < rows; ++r) dot_tile<T, 1>(x, weight + r * n, bias + r, n, out + r, stride);
}

void dots(const float *x, int64_t tokens, const float *weight, const float *bias, int64_t rows,
          int64_t n, float *out, int64_t stride) {
  int64_t t = 0;
  for (; t + 2 <= tokens; t += 2) {
    dot_rows<2>(x + t * n, weight, bias, rows, n, out + t * stride, stride);
  }
  if (t < tokens) dot_rows<1>(x + t * n, weight, bias, rows, n, out + t * stride, stride);
}

void turn(const float *x, const float *cos, const float *sin, int64_t half, float *out) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(out + i, sub(mul(a, c), mul(b, s)));
    store(out + half + i, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = a * cos[i] - b * sin[i];
    out[half + i] = b * cos[i] + a * sin[i];
  }
}

}  // namespace
}  // namespace ossia
