// RMSNorm and routing: short operations, which one thread does alone for a few tokens.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu_block_kernels.h"
#include "cpu_context.h"
#include "ossia_cpu_blocks.h"

namespace {

constexpr int64_t kNormTokens = 4;  // that a piece of work has
constexpr int64_t kMostChosen = 16;

// The k largest of `logits`, the lower number first where two are equal; their softmax.
void choose(const float *logits, int64_t experts, int64_t k, int32_t *chosen, float *shares) {
  for (int64_t j = 0; j < k; ++j) {
    float best = -std::numeric_limits<float>::infinity();
    int32_t found = -1;
    for (int64_t e = 0; e < experts; ++e) {
      bool taken = false;
      for (int64_t i = 0; i < j; ++i) taken = taken || chosen[i] == e;
      // Numbers that are not comparable (NaN) are taken only where nothing else is left.
      if (!taken && (found < 0 || logits[e] > best)) {
        best = logits[e];
        found = static_cast<int32_t>(e);
      }
    }
    chosen[j] = found;
    shares[j] = best;
  }
  float total = 0;
  const float most = shares[0];
  for (int64_t j = 0; j < k; ++j) total += shares[j] = std::exp(shares[j] - most);
  for (int64_t j = 0; j < k; ++j) shares[j] /= total;
}

}  // namespace

int ossia_rms_norm(ossia_context *context, const float *x, int64_t tokens, int64_t n,
                   const float *weight, float eps, float *out) {
  if (tokens < 0 || n <= 0 || n % 16 != 0) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  const auto &kernels = ossia::block_kernels(context->level);
  const auto piece = [&](int64_t i, int) {
    const int64_t end = std::min(tokens, (i + 1) * kNormTokens);
    for (int64_t t = i * kNormTokens; t < end; ++t) {
      kernels.norm(x + t * n, weight, n, eps, out + t * n);
    }
  };
  context->pool.run((tokens + kNormTokens - 1) / kNormTokens, piece);
  return OSSIA_OK;
}

int ossia_route(ossia_context *context, const float *x, int64_t tokens, int64_t hidden,
                const float *router, const float *bias, int64_t experts, int64_t k, int32_t *chosen,
                float *shares) {
  if (tokens < 0 || hidden <= 0 || hidden % 16 != 0 || k < 1 || k > experts || k > kMostChosen) {
    return OSSIA_BAD_ARGUMENT;
  }
  const std::lock_guard<std::mutex> lock(context->busy);
  const auto &kernels = ossia::block_kernels(context->level);
  ossia::Arena arena;
  const size_t logits_at = arena.add<float>(tokens * experts);
  if (!arena.place(context->scratch)) return OSSIA_NO_MEMORY;
  float *logits = arena.at<float>(logits_at);
  // A piece: 8 tokens with 16 rows of the router, or all rows of a router that fits into a cache.
  const bool small = experts * hidden <= 8192;
  const int64_t rows = small ? experts : 16, row_pieces = (experts + rows - 1) / rows;
  constexpr int64_t kTokens = 8;
  const auto piece = [&](int64_t i, int) {
    const int64_t t = i / row_pieces * kTokens, r = i % row_pieces * rows;
    kernels.dots(x + t * hidden, std::min(kTokens, tokens - t), router + r * hidden, bias + r,
                 std::min(rows, experts - r), hidden, logits + t * experts + r, experts);
  };
  context->pool.run((tokens + kTokens - 1) / kTokens * row_pieces, piece);
  for (int64_t t = 0; t < tokens; ++t) {
    choose(logits + t * experts, experts, k, chosen + t * k, shares + t * k);
  }
  return OSSIA_OK;
}
