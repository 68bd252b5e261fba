// Where the parts of a packed matrix are, and products of a range of its rows.
#pragma once

#include <cstdint>

#include "cpu_products.h"
#include "ossia_cpu.h"

namespace ossia {

inline int64_t value_bytes_of_block(int64_t kind) {
  return kind == OSSIA_MXFP4 ? 256 : kind == OSSIA_INT8 ? 512 : 1024;
}
inline int64_t scale_bytes_of_block(int64_t kind) {
  return kind == OSSIA_MXFP4 ? 16 : kind == OSSIA_INT8 ? 32 : 0;
}
inline int64_t groups_of(int64_t rows) { return (rows + kGroup - 1) / kGroup; }

// A matrix of ossia_matrix and its parts.
struct MatrixView {
  int64_t kind, rows, blocks, groups;
  const uint8_t *values, *scales;
  const float *bias;  // or null

  MatrixView(const ossia_matrix &m, int64_t number)
      : kind(m.kind), rows(m.rows), blocks(m.inputs / kBlock), groups(groups_of(m.rows)) {
    const int64_t all = groups * blocks * number;
    values = static_cast<const uint8_t *>(m.values) + all * value_bytes_of_block(kind);
    scales = static_cast<const uint8_t *>(m.scales) + all * scale_bytes_of_block(kind);
    bias = m.bias == nullptr ? nullptr : m.bias + number * rows;
  }
  const uint8_t *group_values(int64_t group) const {
    return values + group * blocks * value_bytes_of_block(kind);
  }
  const uint8_t *group_scales(int64_t group) const {
    return scales + group * blocks * scale_bytes_of_block(kind);
  }
};

// Whether shape, kind and alignment are possible.
inline bool valid(const ossia_matrix *m) {
  return m != nullptr && m->kind >= OSSIA_MXFP4 && m->kind <= OSSIA_BF16 && m->count > 0 &&
         m->rows > 0 && m->inputs > 0 && m->inputs % kBlock == 0 && m->values != nullptr &&
         reinterpret_cast<uintptr_t>(m->values) % 64 == 0 &&
         (m->kind == OSSIA_BF16 || m->scales != nullptr) &&
         reinterpret_cast<uintptr_t>(m->scales) % 32 == 0;
}

// Groups that make one piece of work, a multiple of `step`. Large pieces let the memory's own
// look-ahead run (400 KB are 3 % faster than 100 KB), but all threads wait for the last one: there
// are 64 pieces a thread or more, unless they were smaller than 100 KB. With many tokens a piece's
// sums should stay in the cache, and weights are not what takes the time.
inline int64_t groups_a_piece(int64_t kind, int64_t blocks, int64_t step, int64_t all_groups,
                              int64_t tokens, int threads) {
  constexpr int64_t kLeast = 100'000, kMost = 400'000, kPieces = 64, kManyTokens = 16;
  const int64_t bytes = blocks * (value_bytes_of_block(kind) + scale_bytes_of_block(kind));
  int64_t target = tokens > kManyTokens ? kLeast : bytes * all_groups / (kPieces * threads);
  target = target < kLeast ? kLeast : target > kMost ? kMost : target;
  const int64_t wanted = target / bytes;
  return wanted < step ? step : wanted / step * step;
}

// Tokens whose prepared rows stand at base + index[t] * bytes (index null: t * bytes).
struct Rows {
  const uint8_t *base;
  int64_t bytes;
  const int32_t *index;
  int64_t count;

  const uint8_t *row(int64_t t) const {
    return base + (index == nullptr ? t : static_cast<int64_t>(index[t])) * bytes;
  }
};

inline bool uses_many(const KindProducts &kind, int64_t tokens) {
  return kind.many != nullptr && tokens >= kind.many_from;
}
inline Form form_for(const KindProducts &kind, int64_t tokens) {
  return uses_many(kind, tokens) ? kind.many_form : kind.form;
}

// out[t * stride + r]: groups [first, first + groups) with all tokens, without bias. `scratch`:
// many_scratch(blocks) bytes, aligned to 64.
inline void multiply_groups(const KindProducts &kind, const MatrixView &w, int64_t first,
                            int64_t groups, const Rows &x, float *out, int64_t stride,
                            uint8_t *scratch) {
  if (uses_many(kind, x.count)) {
    kind.many(w.group_values(first), w.group_scales(first), w.blocks, groups, x.base, x.count, out,
              stride, scratch);
    return;
  }
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t t = 0; t < x.count; t += kTokens) {
      const int tokens = static_cast<int>(x.count - t < kTokens ? x.count - t : kTokens);
      const uint8_t *rows[kTokens];
      for (int i = 0; i < tokens; ++i) rows[i] = x.row(t + i);
      kind.few(w.group_values(first + g), w.group_scales(first + g), w.blocks, rows, tokens,
               out + t * stride + g * kGroup, stride);
    }
  }
}

}  // namespace ossia
