// Opening and closing a context.
#include "cpu_context.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

namespace ossia {

Scratch::~Scratch() { std::free(memory_); }

void *Scratch::get(size_t bytes) {
  if (bytes <= bytes_) return memory_;
  std::free(memory_);
  bytes_ = 0;
  // Some room to grow, so that steps of slowly growing size do not allocate each time.
  const size_t wanted = (bytes + bytes / 4 + 4095) / 4096 * 4096;
  memory_ = std::aligned_alloc(4096, wanted);
  if (memory_ != nullptr) bytes_ = wanted;
  return memory_;
}

}  // namespace ossia

using ossia::Level;

int ossia_abi(void) { return OSSIA_ABI; }

const char *ossia_levels(void) {
  static const std::string names = [] {
    std::string text;
    for (int i = ossia::kLevels - 1; i >= 0; --i) {
      if (!ossia::level_available(static_cast<Level>(i))) continue;
      if (!text.empty()) text += ',';
      text += ossia::level_name(static_cast<Level>(i));
    }
    return text;
  }();
  return names.c_str();
}

ossia_context *ossia_open(const char *level, int threads) {
  const bool best = level == nullptr || *level == '\0';
  for (int i = ossia::kLevels - 1; i >= 0; --i) {
    const auto candidate = static_cast<Level>(i);
    if (!ossia::level_available(candidate)) continue;
    if (best || std::strcmp(level, ossia::level_name(candidate)) == 0) {
      return new (std::nothrow) ossia_context(candidate, threads < 1 ? 1 : threads);
    }
  }
  return nullptr;
}

void ossia_close(ossia_context *context) { delete context; }

const char *ossia_level(const ossia_context *context) {
  return ossia::level_name(context->level);
}

int ossia_threads(const ossia_context *context) { return context->pool.threads(); }
