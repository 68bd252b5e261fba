// See cpu_pool.h.
#include "cpu_pool.h"

#include <sched.h>

#include <chrono>

namespace ossia {
namespace {

constexpr int kPauses = 400;  // looks before the first offer of the core, a few microseconds
// How long a thread looks for work before it sleeps. Waking one up costs 5 to 50 microseconds, and
// the gaps between the operations of a step are shorter than this.
constexpr std::chrono::microseconds kPatience{60};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Looks until ready() or patience is over.
template <typename Ready>
bool look(Ready ready) {
  for (int i = 0; i < kPauses; ++i) {
    if (ready()) return true;
    pause();
  }
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause();
    }
    sched_yield();
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

constexpr uint64_t kLeft = 0xffffffffu;

}  // namespace

Pool::Pool(int threads) {
  workers_.reserve(threads > 1 ? threads - 1 : 0);
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {
    // Fewer threads than wanted: threads() says how many there are.
  }
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto &thread : workers_) thread.join();
}

void Pool::run_shared(int64_t pieces, Call call, void *body) {
  const uint64_t job = (ticket_.load() >> 32) + 1;
  call_.store(call, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  pieces_.store(pieces, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  ticket_.store(job << 32 | static_cast<uint64_t>(pieces));  // sequentially consistent
  if (sleeping_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  work(0);
  const auto over = [&] { return finished_.load(std::memory_order_acquire) == pieces; };
  if (look(over)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_ = true;
  done_.wait(lock, [&] { return finished_.load() == pieces; });
  caller_sleeps_ = false;
}

bool Pool::work(int thread) {
  bool any = false;
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (ticket & kLeft) {
    const Call call = call_.load(std::memory_order_relaxed);
    void *body = body_.load(std::memory_order_relaxed);
    const int64_t pieces = pieces_.load(std::memory_order_relaxed);
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1)) continue;
    any = true;
    call(body, pieces - static_cast<int64_t>(ticket & kLeft), thread);
    if (finished_.fetch_add(1) + 1 == pieces && caller_sleeps_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
    ticket = ticket_.load(std::memory_order_acquire);
  }
  return any;
}

void Pool::worker(int thread) {
  const auto ready = [this] { return (ticket_.load() & kLeft) != 0 || stop_.load(); };
  while (!stop_.load()) {
    if (work(thread)) continue;
    if (look(ready)) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    // Counted before the last look: run_shared changes the ticket first and then counts sleepers.
    sleeping_.fetch_add(1);
    wake_.wait(lock, ready);
    sleeping_.fetch_sub(1);
  }
}

}  // namespace ossia
