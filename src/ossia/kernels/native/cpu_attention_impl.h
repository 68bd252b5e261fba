// Attention of a tile of rows over one range of keys; see cpu_block_kernels.h. For files of one
// level.
//
//   s[r, j] = rows[r] . k[j],  p = e^(s - max),  out[r] = sum_j p[r, j] v[j]
//
// Keys and values are read once for all rows of a tile: in blocks of 64 keys they are copied to
// float32 [dim, 64] (keys, turned over) and [64, dim] (values), 16 KB each for 64 dimensions, which
// stay in the first cache. Then both products are multiply-adds of a broadcast number and a
// register: no sum across a register. Every score and every output is added up in the order of
// dimensions or keys by one accumulator, so bits do not depend on the tile.
#pragma once

#include <limits>

#include "cpu_block_kernels.h"
#include "cpu_vector.h"

namespace ossia {
namespace {

constexpr int kRowsAtOnce = kVectorRegisters == 32 ? 4 : 2;  // times 4 registers of accumulators
constexpr int kRegisters = 4;

#if defined(__AVX512F__)
// Loops are unrolled by name here: only then do arrays stay in registers.
inline void turn_over(Vec (&a)[16]) {
  Vec b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + 2 + j]);
      a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  // a[4 i + j]: columns j, j + 4, j + 8, j + 12 of rows 4 i .. 4 i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    b[j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
    b[4 + j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
    b[8 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
    b[12 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm512_shuffle_f32x4(b[j], b[8 + j], 0x88);
    a[8 + j] = _mm512_shuffle_f32x4(b[j], b[8 + j], 0xdd);
    a[4 + j] = _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0x88);
    a[12 + j] = _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0xdd);
  }
}
#elif defined(__ARM_FEATURE_DOTPROD)
inline void turn_over(Vec (&a)[4]) {
  const float32x4x2_t b = vtrnq_f32(a[0], a[1]), c = vtrnq_f32(a[2], a[3]);
  a[0] = vcombine_f32(vget_low_f32(b.val[0]), vget_low_f32(c.val[0]));
  a[1] = vcombine_f32(vget_low_f32(b.val[1]), vget_low_f32(c.val[1]));
  a[2] = vcombine_f32(vget_high_f32(b.val[0]), vget_high_f32(c.val[0]));
  a[3] = vcombine_f32(vget_high_f32(b.val[1]), vget_high_f32(c.val[1]));
}
#else
inline void turn_over(Vec (&a)[kLanes]) {
  float lanes[kLanes][kLanes], turned[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) store(lanes[i], a[i]);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) turned[j][i] = lanes[i][j];
  }
  for (int i = 0; i < kLanes; ++i) a[i] = load(turned[i]);
}
#endif

template <bool bf16>
inline Vec load_stored(const char *p, int at) {
  if constexpr (bf16) {
    return load_bf16(reinterpret_cast<const uint16_t *>(p) + at);
  } else {
    return load(reinterpret_cast<const float *>(p) + at);
  }
}

// Keys first .. first + 63 -> turned [dim][64]; anything where the range has none. Asks for the values
// at the same places, which are needed next.
template <bool bf16>
void gather_keys(const KeyRange &range, int first, int dim, float *turned) {
  const int bytes = dim * (bf16 ? 2 : 4);
  for (int at = 0; at < kBlockKeys; at += kLanes) {
    const int from = first + at;
    if (from + kLanes <= range.begin || from >= range.end) {
      for (int d = 0; d < dim; ++d) store(turned + d * kBlockKeys + at, zero());
      continue;
    }
    // Places without a key repeat the nearest one: their scores are not looked at.
    const char *places[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int above = from + i > range.begin ? from + i : range.begin;
      const int j = above < range.end ? above : range.end - 1;
      places[i] = range.keys + range.offsets[j];
      const char *value = range.values + range.offsets[j];
      for (int b = 0; b < bytes; b += 64) __builtin_prefetch(value + b);
    }
    for (int d = 0; d < dim; d += kLanes) {
      Vec a[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) a[i] = load_stored<bf16>(places[i], d);
      turn_over(a);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(turned + (d + i) * kBlockKeys + at, a[i]);
    }
  }
}

// Values of positions first .. last - 1 -> copied [keys][dim].
template <bool bf16>
void gather_values(const KeyRange &range, int first, int last, int dim, float *copied) {
  for (int j = first; j < last; ++j, copied += dim) {
    const char *from = range.values + range.offsets[j];
    for (int d = 0; d < dim; d += kLanes) store(copied + d, load_stored<bf16>(from, d));
  }
}

// s[r, 0 .. 63] = rows[r] . turned, for R rows.
template <int R>
inline void score_rows(const float *rows, int dim, const float *turned, float *s) {
  for (int at = 0; at < kBlockKeys; at += kRegisters * kLanes) {
    Vec sums[R][kRegisters];
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kRegisters; ++c) sums[r][c] = zero();
    }
    for (int d = 0; d < dim; ++d) {
      Vec k[kRegisters];
      for (int c = 0; c < kRegisters; ++c) k[c] = load(turned + d * kBlockKeys + at + c * kLanes);
      for (int r = 0; r < R; ++r) {
        const Vec q = set1(rows[r * dim + d]);
        for (int c = 0; c < kRegisters; ++c) sums[r][c] = fma(q, k[c], sums[r][c]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kRegisters; ++c) store(s + r * kRangeKeys + at + c * kLanes, sums[r][c]);
    }
  }
}

// out[r, d ..] += sum_j p[r, j] v[j, d ..], C registers wide, for R rows.
template <int R, int C>
inline void add_columns(const float *p, int keys, const float *v, int dim, float *out) {
  Vec sums[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) sums[r][c] = load(out + r * dim + c * kLanes);
  }
  for (int j = 0; j < keys; ++j) {
    Vec value[C];
    for (int c = 0; c < C; ++c) value[c] = load(v + j * dim + c * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec share = set1(p[r * kRangeKeys + j]);
      for (int c = 0; c < C; ++c) sums[r][c] = fma(share, value[c], sums[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store(out + r * dim + c * kLanes, sums[r][c]);
  }
}

template <int R>
inline void add_values(const float *p, int keys, const float *v, int dim, float *out) {
  int d = 0;
  for (; d + kRegisters * kLanes <= dim; d += kRegisters * kLanes) {
    add_columns<R, kRegisters>(p, keys, v + d, dim, out + d);
  }
  for (; d < dim; d += kLanes) add_columns<R, 1>(p, keys, v + d, dim, out + d);
}

// Scores of one row -> e^(s - max) in place, over whole blocks first .. last - 1.
inline void soften(float *s, int first, int last, int low, int high, float *most, float *total) {
  const float nothing = -std::numeric_limits<float>::infinity();
  for (int j = first; j < low && j < last; ++j) s[j] = nothing;
  for (int j = high > first ? high : first; j < last; ++j) s[j] = nothing;
  Vec top = set1(nothing);
  for (int j = first; j < last; j += kLanes) top = max(top, load(s + j));
  *most = largest(top);
  Vec sums = zero();
  const Vec shift = set1(*most == nothing ? 0.0f : *most);
  for (int j = first; j < last; j += kLanes) {
    const Vec e = exp(sub(load(s + j), shift));
    store(s + j, e);
    sums = add(sums, e);
  }
  *total = sum(sums);
}

void attend(const float *rows, int count, int dim, const int *low, const int *high,
            const KeyRange &range, float *scratch, const Partial &partial) {
  float *turned = scratch, *values = turned + kBlockKeys * dim, *s = values + kBlockKeys * dim;
  const int first = range.begin / kBlockKeys * kBlockKeys;
  const int last = (range.end + kBlockKeys - 1) / kBlockKeys * kBlockKeys;
  for (int block = first; block < last; block += kBlockKeys) {
    (range.bf16 ? gather_keys<true> : gather_keys<false>)(range, block, dim, turned);
    int r = 0;
    for (; r + kRowsAtOnce <= count; r += kRowsAtOnce) {
      score_rows<kRowsAtOnce>(rows + r * dim, dim, turned, s + r * kRangeKeys + block);
    }
    for (; r < count; ++r) score_rows<1>(rows + r * dim, dim, turned, s + r * kRangeKeys + block);
  }
  for (int r = 0; r < count; ++r) {
    soften(s + r * kRangeKeys, first, last, low[r], high[r], partial.largest + r, partial.sum + r);
    for (int d = 0; d < dim; d += kLanes) store(partial.out + r * dim + d, zero());
  }
  for (int block = first; block < last; block += kBlockKeys) {
    const int begin = block > range.begin ? block : range.begin;
    const int end = block + kBlockKeys < range.end ? block + kBlockKeys : range.end;
    (range.bf16 ? gather_values<true> : gather_values<false>)(range, begin, end, dim, values);
    int r = 0;
    for (; r + kRowsAtOnce <= count; r += kRowsAtOnce) {
      add_values<kRowsAtOnce>(s + r * kRangeKeys + begin, end - begin, values, dim,
                              partial.out + r * dim);
    }
    for (; r < count; ++r) {
      add_values<1>(s + r * kRangeKeys + begin, end - begin, values, dim, partial.out + r * dim);
    }
  }
}

inline float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

void merge(int count, int dim, const Partial &state, const Partial &more) {
  const float nothing = -std::numeric_limits<float>::infinity();
  for (int r = 0; r < count; ++r) {
    if (more.largest[r] == nothing) continue;
    float *out = state.out + r * dim;
    const float *other = more.out + r * dim;
    if (state.largest[r] == nothing) {
      state.largest[r] = more.largest[r];
      state.sum[r] = more.sum[r];
      for (int d = 0; d < dim; d += kLanes) store(out + d, load(other + d));
      continue;
    }
    const float most = state.largest[r] > more.largest[r] ? state.largest[r] : more.largest[r];
    const float keep = exp_of(state.largest[r] - most), take = exp_of(more.largest[r] - most);
    state.largest[r] = most;
    state.sum[r] = state.sum[r] * keep + more.sum[r] * take;
    for (int d = 0; d < dim; d += kLanes) {
      store(out + d, fma(load(other + d), set1(take), mul(load(out + d), set1(keep))));
    }
  }
}

void finish(int count, int dim, const Partial &state, const float *sinks, float *out) {
  for (int r = 0; r < count; ++r) {
    const float most = state.largest[r] > sinks[r] ? state.largest[r] : sinks[r];
    const float keep = exp_of(state.largest[r] - most);
    const Vec factor = set1(keep / (state.sum[r] * keep + exp_of(sinks[r] - most)));
    for (int d = 0; d < dim; d += kLanes) {
      store(out + r * dim + d, mul(load(state.out + r * dim + d), factor));
    }
  }
}

}  // namespace
}  // namespace ossia
