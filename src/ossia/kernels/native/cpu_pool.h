// A pool of threads that shares out the pieces of one job after the other.
//
// A job is `pieces` calls f(piece, thread). Threads take pieces one by one from a counter, so one
// that lost its core to another process holds up nobody: the others do its share. The caller works
// too, and a job finishes even if no other thread ever wakes up. Threads that find nothing to do
// look again for some tens of microseconds, giving their core to whoever wants it, and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace ossia {

class Pool {
 public:
  explicit Pool(int threads);  // the caller's included; at least 1
  ~Pool();
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(int64_t piece, int thread) for every piece, 0 <= thread < threads(); returns when all
  // are done. f must not throw. Only one caller at a time.
  template <typename F>
  void run(int64_t pieces, F &&f) {
    if (pieces <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < pieces; ++i) f(i, 0);
      return;
    }
    auto call = [](void *body, int64_t piece, int thread) {
      (*static_cast<std::remove_reference_t<F> *>(body))(piece, thread);
    };
    run_shared(pieces, call, const_cast<void *>(static_cast<const void *>(&f)));
  }

 private:
  using Call = void (*)(void *body, int64_t piece, int thread);

  void run_shared(int64_t pieces, Call call, void *body);
  bool work(int thread);  // does pieces until there are none; whether it did any
  void worker(int thread);

  // High half: number of the job; low half: pieces not yet taken. Taking a piece is one
  // compare-and-swap on both, so nobody can take a piece of a job that is over.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> finished_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  // The job; written only while no piece is left to take, read before taking one.
  std::atomic<Call> call_{nullptr};
  std::atomic<void *> body_{nullptr};
  std::atomic<int64_t> pieces_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
};

}  // namespace ossia
