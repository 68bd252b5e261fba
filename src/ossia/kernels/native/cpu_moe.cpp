// Mixture of experts: out[t] = residual[t] + sum_j shares[t, j] * expert_{chosen[t, j]}(x[t]).
//
// Bytes: one read of each expert that any token chose. Pairs (token, j) are sorted by expert, so
// that all tokens of an expert share the read. Two rounds over the matrices: gate and up with
// SwiGLU at the end of each piece, whose 64 rows make one block of hidden units, prepared at once
// for the second round; then down. The weighted sums follow in the order of j.
#include <cstring>
#include <vector>

#include "cpu_context.h"
#include "cpu_matrix.h"

namespace ossia {
namespace {

struct Expert {
  int64_t number;
  int64_t first, count;  // its pairs, in sorted order
  int64_t many_first;    // its rows among those prepared for `many`, or -1
};

class Mixture {
 public:
  Mixture(ossia_context *context, int64_t tokens, int64_t per_token, const ossia_matrix *gate_up,
          const ossia_matrix *down)
      : context_(context),
        products_(products(context->level)),
        up_kind_(products_.kinds[gate_up->kind]),
        down_kind_(products_.kinds[down->kind]),
        gate_up_(*gate_up),
        down_(*down),
        tokens_(tokens),
        per_token_(per_token),
        hidden_(gate_up->inputs),
        units_(down->inputs) {}

  // False: an expert that does not exist.
  bool sort(const int32_t *chosen) {
    const int64_t pairs = tokens_ * per_token_;
    std::vector<int64_t> starts(static_cast<size_t>(gate_up_.count) + 1, 0);
    for (int64_t p = 0; p < pairs; ++p) {
      if (chosen[p] < 0 || chosen[p] >= gate_up_.count) return false;
      ++starts[static_cast<size_t>(chosen[p]) + 1];
    }
    for (int64_t e = 0; e < gate_up_.count; ++e) {
      const int64_t count = starts[e + 1], first = starts[e];
      starts[e + 1] += first;
      if (count == 0) continue;
      const bool many = uses_many(up_kind_, count);
      experts_.push_back({e, first, count, many ? many_rows_ : -1});
      if (many) many_rows_ += count;
      any_few_ |= !many;
      most_ = count > most_ ? count : most_;
    }
    token_of_.resize(static_cast<size_t>(pairs));
    place_of_.resize(static_cast<size_t>(pairs));
    for (int64_t p = 0; p < pairs; ++p) {
      const int64_t place = starts[chosen[p]]++;
      token_of_[place] = static_cast<int32_t>(p / per_token_);
      place_of_[p] = static_cast<int32_t>(place);
    }
    return true;
  }

  bool place() {
    const int64_t pairs = tokens_ * per_token_, threads = context_->pool.threads();
    const int64_t blocks = hidden_ / kBlock, h_blocks = units_ / kBlock;
    const int64_t longest = blocks > h_blocks ? blocks : h_blocks;
    few_bytes_ = row_bytes(up_kind_.form, blocks);
    many_bytes_ = row_bytes(up_kind_.many_form, blocks);
    h_bytes_ = row_bytes(down_kind_.form, h_blocks);
    if (down_kind_.many != nullptr) {
      const int64_t other = row_bytes(down_kind_.many_form, h_blocks);
      h_bytes_ = other > h_bytes_ ? other : h_bytes_;
    }
    const auto step = [&](const ossia_matrix &m, int64_t least) {
      return groups_a_piece(m.kind, m.inputs / kBlock, least,
                            groups_of(m.rows) * static_cast<int64_t>(experts_.size()), most_,
                            context_->pool.threads());
    };
    up_step_ = step(gate_up_, 4);
    down_step_ = step(down_, 2);
    const int64_t widest = (up_step_ > down_step_ ? up_step_ : down_step_) * kGroup;
    out_size_ = widest * most_;
    scratch_size_ = many_scratch(longest);
    few_at_ = arena_.add<uint8_t>(any_few_ ? few_bytes_ * tokens_ : 0);
    many_at_ = arena_.add<uint8_t>(many_bytes_ * many_rows_);
    h_at_ = arena_.add<uint8_t>(h_bytes_ * pairs);
    y_at_ = arena_.add<float>(pairs * down_.rows);
    out_at_ = arena_.add<float>(out_size_ * threads);
    scratch_at_ = arena_.add<uint8_t>(scratch_size_ * threads);
    return arena_.place(context_->scratch);
  }

  void prepare(const float *x) {
    const int64_t blocks = hidden_ / kBlock;
    if (any_few_) {
      auto *rows = arena_.at<uint8_t>(few_at_);
      context_->pool.run(tokens_, [&](int64_t t, int) {
        products_.prepare(up_kind_.form, up_kind_.offset, x + t * hidden_, rows + t * few_bytes_,
                          blocks, 0, blocks);
      });
    }
    if (many_rows_ == 0) return;
    auto *rows = arena_.at<uint8_t>(many_at_);
    context_->pool.run(static_cast<int64_t>(experts_.size()), [&](int64_t i, int) {
      const Expert &e = experts_[i];
      if (e.many_first < 0) return;
      for (int64_t p = 0; p < e.count; ++p) {
        products_.prepare(up_kind_.many_form, up_kind_.offset,
                          x + token_of_[e.first + p] * hidden_,
                          rows + (e.many_first + p) * many_bytes_, blocks, 0, blocks);
      }
    });
  }

  void run_gate_up(float alpha, float limit) {
    const int64_t groups = groups_of(gate_up_.rows), h_blocks = units_ / kBlock;
    const int64_t pieces = (groups + up_step_ - 1) / up_step_;
    const int64_t width = up_step_ * kGroup;
    context_->pool.run(pieces * static_cast<int64_t>(experts_.size()), [&](int64_t i, int thread) {
      const Expert &e = experts_[i / pieces];
      const int64_t first = i % pieces * up_step_;
      const int64_t count = groups - first < up_step_ ? groups - first : up_step_;
      const MatrixView w(gate_up_, e.number);
      const Rows x = e.many_first < 0
                         ? Rows{arena_.at<uint8_t>(few_at_), few_bytes_, &token_of_[e.first], e.count}
                         : Rows{arena_.at<uint8_t>(many_at_) + e.many_first * many_bytes_,
                                many_bytes_, nullptr, e.count};
      float *out = arena_.at<float>(out_at_) + out_size_ * thread;
      multiply_groups(up_kind_, w, first, count, x, out, width, scratch(thread));
      const Form form = form_for(down_kind_, e.count);
      const int64_t stride = row_bytes(form, h_blocks), first_block = first / 4;
      uint8_t *h = arena_.at<uint8_t>(h_at_) + e.first * h_bytes_;
      for (int64_t t = 0; t < e.count; ++t) {
        for (int64_t b = 0; b < count / 4; ++b) {
          float units[kBlock];
          const float *bias = w.bias == nullptr ? nullptr : w.bias + first * kGroup + b * 64;
          products_.swiglu(out + t * width + b * 64, bias, alpha, limit, units);
          products_.prepare(form, down_kind_.offset, units, h + t * stride, h_blocks,
                            first_block + b, 1);
        }
      }
    });
  }

  void run_down() {
    const int64_t groups = groups_of(down_.rows), rows = down_.rows, h_blocks = units_ / kBlock;
    const int64_t pieces = (groups + down_step_ - 1) / down_step_;
    const int64_t width = down_step_ * kGroup;
    context_->pool.run(pieces * static_cast<int64_t>(experts_.size()), [&](int64_t i, int thread) {
      const Expert &e = experts_[i / pieces];
      const int64_t first = i % pieces * down_step_;
      const int64_t count = groups - first < down_step_ ? groups - first : down_step_;
      const MatrixView w(down_, e.number);
      const Form form = form_for(down_kind_, e.count);
      const Rows h{arena_.at<uint8_t>(h_at_) + e.first * h_bytes_, row_bytes(form, h_blocks),
                   nullptr, e.count};
      float *out = arena_.at<float>(out_at_) + out_size_ * thread;
      multiply_groups(down_kind_, w, first, count, h, out, width, scratch(thread));
      const int64_t row = first * kGroup;
      const int64_t real = rows - row < count * kGroup ? rows - row : count * kGroup;
      for (int64_t t = 0; t < e.count; ++t) {
        float *y = arena_.at<float>(y_at_) + (e.first + t) * rows + row;
        for (int64_t r = 0; r < real; ++r) {
          y[r] = out[t * width + r] + (w.bias == nullptr ? 0.0f : w.bias[row + r]);
        }
      }
    });
  }

  void add_up(const float *shares, const float *residual, float *out) {
    const int64_t rows = down_.rows;
    const float *y = arena_.at<float>(y_at_);
    context_->pool.run(tokens_, [&](int64_t t, int) {
      float *to = out + t * rows;
      if (residual == nullptr) {
        std::memset(to, 0, static_cast<size_t>(rows) * sizeof(float));
      } else if (residual != out) {
        std::memcpy(to, residual + t * rows, static_cast<size_t>(rows) * sizeof(float));
      }
      for (int64_t j = 0; j < per_token_; ++j) {
        const int64_t pair = t * per_token_ + j;
        const float share = shares[pair];
        const float *from = y + place_of_[pair] * rows;
        for (int64_t r = 0; r < rows; ++r) to[r] += share * from[r];
      }
    });
  }

 private:
  uint8_t *scratch(int thread) const {
    return arena_.at<uint8_t>(scratch_at_) + scratch_size_ * thread;
  }

  ossia_context *context_;
  const Products &products_;
  const KindProducts &up_kind_, &down_kind_;
  const ossia_matrix &gate_up_, &down_;
  const int64_t tokens_, per_token_, hidden_, units_;
  std::vector<Expert> experts_;    // those that some token chose
  std::vector<int32_t> token_of_;  // [pairs] in sorted order
  std::vector<int32_t> place_of_;  // [pairs] in order of tokens -> sorted order
  int64_t many_rows_ = 0, most_ = 0;
  bool any_few_ = false;
  Arena arena_;
  int64_t few_bytes_ = 0, many_bytes_ = 0, h_bytes_ = 0, up_step_ = 0, down_step_ = 0;
  int64_t out_size_ = 0, scratch_size_ = 0;
  size_t few_at_ = 0, many_at_ = 0, h_at_ = 0, y_at_ = 0, out_at_ = 0, scratch_at_ = 0;
};

}  // namespace
}  // namespace ossia

int ossia_moe(ossia_context *context, const float *x, int64_t tokens, const int32_t *chosen,
              const float *shares, int64_t chosen_per_token, const ossia_matrix *gate_up,
              const ossia_matrix *down, float alpha, float limit, const float *residual,
              float *out) {
  using namespace ossia;
  if (!valid(gate_up) || !valid(down) || tokens < 0 || chosen_per_token < 1 ||
      gate_up->count != down->count || gate_up->rows != 2 * down->inputs ||
      gate_up->inputs != down->rows) {
    return OSSIA_BAD_ARGUMENT;
  }
  if (tokens == 0) return OSSIA_OK;
  const std::lock_guard<std::mutex> lock(context->busy);
  try {
    Mixture mixture(context, tokens, chosen_per_token, gate_up, down);
    if (!mixture.sort(chosen)) return OSSIA_BAD_ARGUMENT;
    if (!mixture.place()) return OSSIA_NO_MEMORY;
    mixture.prepare(x);
    mixture.run_gate_up(alpha, limit);
    mixture.run_down();
    mixture.add_up(shares, residual, out);
  } catch (const std::bad_alloc &) {
    return OSSIA_NO_MEMORY;
  }
  return OSSIA_OK;
}
