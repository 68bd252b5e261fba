// What an operation gets: the level of instructions, the threads, and memory to work in.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "cpu_level.h"
#include "cpu_pool.h"
#include "ossia_cpu.h"

namespace ossia {

// Memory that grows and is kept between operations; aligned to 64 bytes.
class Scratch {
 public:
  ~Scratch();
  // At least `bytes` bytes, not initialised; what was there before is lost. nullptr: none left.
  void *get(size_t bytes);

 private:
  void *memory_ = nullptr;
  size_t bytes_ = 0;
};

// Lays arrays into one Scratch: first add() all sizes, then place() and at() each.
class Arena {
 public:
  // The place of an array of `count` T, aligned to 64 bytes.
  template <typename T>
  size_t add(int64_t count) {
    const size_t at = size_;
    size_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  bool place(Scratch &scratch) {
    base_ = static_cast<char *>(scratch.get(size_));
    return base_ != nullptr;
  }
  template <typename T>
  T *at(size_t place) const {
    return reinterpret_cast<T *>(base_ + place);
  }

 private:
  size_t size_ = 0;
  char *base_ = nullptr;
};

}  // namespace ossia

struct ossia_context {
  ossia_context(ossia::Level chosen, int threads) : level(chosen), pool(threads) {}

  const ossia::Level level;
  ossia::Pool pool;
  ossia::Scratch scratch;  // of the running operation
  std::mutex busy;         // held by the running operation
  ossia::Scratch between;  // of a block that runs several operations
  std::mutex block;        // held by that block
};
