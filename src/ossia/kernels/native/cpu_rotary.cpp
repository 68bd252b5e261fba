// Rotary position embedding of queries and keys, and new keys and values on their way to the cache.
#include <algorithm>
#include <cstring>

#include "cpu_block_kernels.h"
#include "cpu_context.h"
#include "ossia_cpu_blocks.h"

namespace {

constexpr int64_t kTokens = 4;  // that a piece of work has
constexpr int64_t kMostDim = 512;

// To the nearest, ties to even; NaN stays NaN.
uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void put(const float *from, int64_t count, bool bf16, void *cache, int64_t at) {
  if (!bf16) {
    std::memcpy(static_cast<float *>(cache) + at, from, count * sizeof(float));
    return;
  }
  uint16_t *to = static_cast<uint16_t *>(cache) + at;
  for (int64_t i = 0; i < count; ++i) to[i] = to_bf16(from[i]);
}

}  // namespace

int ossia_rotate_and_write(ossia_context *context, float *qkv, const ossia_heads *heads,
                           const ossia_pages *pages, const ossia_cache *cache) {
  const int64_t dim = heads->head_dim, kv = heads->kv_heads, tokens = pages->tokens;
  if (dim <= 0 || dim % 16 != 0 || dim > kMostDim) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  const auto &kernels = ossia::block_kernels(context->level);
  const auto one = [&](int64_t t) {
    const float *cos = pages->cos + t * dim / 2, *sin = pages->sin + t * dim / 2;
    float *row = qkv + t * (heads->heads + 2 * kv) * dim;
    for (int64_t h = 0; h < heads->heads + kv; ++h) {
      kernels.turn(row + h * dim, cos, sin, dim / 2, row + h * dim);
    }
    const float *keys = row + heads->heads * dim;
    put(keys, kv * dim, cache->is_bf16, cache->keys, pages->slots[t] * kv * dim);
    put(keys + kv * dim, kv * dim, cache->is_bf16, cache->values, pages->slots[t] * kv * dim);
  };
  context->pool.run((tokens + kTokens - 1) / kTokens, [&](int64_t i, int) {
    for (int64_t t = i * kTokens; t < std::min(tokens, (i + 1) * kTokens); ++t) one(t);
  });
  return OSSIA_OK;
}
