// out = x W^T + bias (+ residual), and the same with only the largest rows kept.
//
// Bytes: one read of the matrix, whatever the number of tokens. Activations are prepared first
// (cpu_products.h); then threads take pieces of 100 to 400 KB of consecutive rows.
#include <cstring>
#include <limits>

#include "cpu_context.h"
#include "cpu_matrix.h"

namespace ossia {
namespace {

// Products of one matrix with prepared tokens, piece by piece.
class DenseProduct {
 public:
  DenseProduct(ossia_context *context, const ossia_matrix *matrix, int64_t tokens)
      : context_(context),
        products_(products(context->level)),
        kind_(products_.kinds[matrix->kind]),
        w_(*matrix, 0),
        tokens_(tokens),
        form_(form_for(kind_, tokens)),
        row_bytes_(row_bytes(form_, w_.blocks)),
        step_(groups_a_piece(w_.kind, w_.blocks, uses_many(kind_, tokens) ? 2 : 1, w_.groups,
                             tokens, context->pool.threads())),
        width_(step_ * kGroup) {
    x_at_ = arena_.add<uint8_t>(row_bytes_ * tokens);
    out_at_ = arena_.add<float>(width_ * tokens * context->pool.threads());
    scratch_at_ = arena_.add<uint8_t>(many_scratch(w_.blocks) * context->pool.threads());
  }
  Arena &arena() { return arena_; }
  int64_t width() const { return width_; }
  const MatrixView &matrix() const { return w_; }

  // After arena().place(): prepares x and calls done(first_row, rows, out, thread) for every piece,
  // out[t * width() + r], bias included.
  template <typename Done>
  void run(const float *x, Done done) {
    auto *rows = arena_.at<uint8_t>(x_at_);
    const int64_t inputs = w_.blocks * kBlock;
    context_->pool.run(tokens_, [&](int64_t t, int) {
      products_.prepare(form_, kind_.offset, x + t * inputs, rows + t * row_bytes_, w_.blocks, 0,
                        w_.blocks);
    });
    const Rows prepared{rows, row_bytes_, nullptr, tokens_};
    context_->pool.run((w_.groups + step_ - 1) / step_, [&](int64_t piece, int thread) {
      const int64_t first = piece * step_;
      const int64_t groups = w_.groups - first < step_ ? w_.groups - first : step_;
      float *out = arena_.at<float>(out_at_) + width_ * tokens_ * thread;
      multiply_groups(kind_, w_, first, groups, prepared, out, width_,
                      arena_.at<uint8_t>(scratch_at_) + many_scratch(w_.blocks) * thread);
      const int64_t row = first * kGroup;
      const int64_t count = w_.rows - row < groups * kGroup ? w_.rows - row : groups * kGroup;
      if (w_.bias != nullptr) {
        for (int64_t t = 0; t < tokens_; ++t) {
          for (int64_t r = 0; r < count; ++r) out[t * width_ + r] += w_.bias[row + r];
        }
      }
      done(row, count, out, thread);
    });
  }

 private:
  ossia_context *context_;
  const Products &products_;
  const KindProducts &kind_;
  const MatrixView w_;
  const int64_t tokens_;
  const Form form_;
  const int64_t row_bytes_, step_, width_;
  Arena arena_;
  size_t x_at_ = 0, out_at_ = 0, scratch_at_ = 0;
};

// The largest values seen, largest first; equal ones in the order of their rows.
struct TopList {
  float *values;
  int32_t *rows;
  int64_t size, count;

  static bool before(float a, int32_t row_a, float b, int32_t row_b) {
    return a > b || (a == b && row_a < row_b);
  }
  void offer(float value, int32_t row) {
    if (value != value) value = -std::numeric_limits<float>::infinity();
    if (count == size && !before(value, row, values[size - 1], rows[size - 1])) return;
    int64_t at = count < size ? count++ : size - 1;
    for (; at > 0 && before(value, row, values[at - 1], rows[at - 1]); --at) {
      values[at] = values[at - 1];
      rows[at] = rows[at - 1];
    }
    values[at] = value;
    rows[at] = row;
  }
};

}  // namespace
}  // namespace ossia

using namespace ossia;

int ossia_linear(ossia_context *context, const float *x, int64_t tokens,
                 const ossia_matrix *matrix, const float *residual, float *out) {
  if (!valid(matrix) || tokens < 0) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  DenseProduct product(context, matrix, tokens);
  if (!product.arena().place(context->scratch)) return OSSIA_NO_MEMORY;
  const int64_t rows = matrix->rows, width = product.width();
  product.run(x, [&](int64_t first, int64_t count, const float *sums, int) {
    for (int64_t t = 0; t < tokens; ++t) {
      float *to = out + t * rows + first;
      if (residual == nullptr) {
        std::memcpy(to, sums + t * width, static_cast<size_t>(count) * sizeof(float));
      } else {
        const float *from = residual + t * rows + first;
        for (int64_t r = 0; r < count; ++r) to[r] = from[r] + sums[t * width + r];
      }
    }
  });
  return OSSIA_OK;
}

int ossia_linear_top(ossia_context *context, const float *x, int64_t tokens,
                     const ossia_matrix *matrix, int64_t top, float *values, int32_t *rows) {
  if (!valid(matrix) || tokens < 0 || top < 1 || top > matrix->rows) return OSSIA_BAD_ARGUMENT;
  const std::lock_guard<std::mutex> lock(context->busy);
  const int threads = context->pool.threads();
  DenseProduct product(context, matrix, tokens);
  const size_t lists_at = product.arena().add<TopList>(threads * tokens);
  const size_t values_at = product.arena().add<float>(threads * tokens * top);
  const size_t rows_at = product.arena().add<int32_t>(threads * tokens * top);
  if (!product.arena().place(context->scratch)) return OSSIA_NO_MEMORY;
  auto *lists = product.arena().at<TopList>(lists_at);
  for (int64_t i = 0; i < threads * tokens; ++i) {
    lists[i] = {product.arena().at<float>(values_at) + i * top,
                product.arena().at<int32_t>(rows_at) + i * top, top, 0};
  }
  const int64_t width = product.width();
  product.run(x, [&](int64_t first, int64_t count, const float *sums, int thread) {
    for (int64_t t = 0; t < tokens; ++t) {
      TopList list = lists[thread * tokens + t];
      for (int64_t r = 0; r < count; ++r) {
        list.offer(sums[t * width + r], static_cast<int32_t>(first + r));
      }
      lists[thread * tokens + t] = list;
    }
  });
  for (int64_t t = 0; t < tokens; ++t) {
    TopList best{values + t * top, rows + t * top, top, 0};
    for (int thread = 0; thread < threads; ++thread) {
      const TopList &list = lists[thread * tokens + t];
      for (int64_t i = 0; i < list.count; ++i) best.offer(list.values[i], list.rows[i]);
    }
  }
  return OSSIA_OK;
}
