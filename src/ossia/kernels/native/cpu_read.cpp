// Reads memory and nothing else: the ceiling for everything that is bound by memory.
#include <atomic>

#include "cpu_context.h"
#include "cpu_products.h"

uint64_t ossia_read(ossia_context *context, const void *memory, int64_t bytes) {
  constexpr int64_t kPiece = 98'304;  // as large as the pieces of products
  const auto read = ossia::products(context->level).read;
  const auto *from = static_cast<const uint8_t *>(memory);
  std::atomic<uint64_t> sum{0};
  const std::lock_guard<std::mutex> lock(context->busy);
  context->pool.run((bytes + kPiece - 1) / kPiece, [&](int64_t piece, int) {
    const int64_t first = piece * kPiece;
    sum.fetch_xor(read(from + first, bytes - first < kPiece ? bytes - first : kPiece));
  });
  return sum.load();
}
