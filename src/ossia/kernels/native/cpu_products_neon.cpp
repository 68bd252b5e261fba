// Products with NEON and its dot product extension (ARMv8.2 SDOT): four 8-bit products and their
// sum in each of four lanes at once. Checked against the portable level in emulation (QEMU), never
// timed on hardware: the order of work below is reasoned, not tuned.
//
// out[t, r] = sum over blocks b of (sum_k w[r, k] q[t, k]) * weight scale[r, b] * scale[t, b], with
// q = 256 high + low: two passes of SDOT over the same unpacked weights, all in integers. Both
// factors are signed, so weights need no offset. Bytes: one read of the matrix.
// A call does 16 rows, four a vector. SDOT takes its second factor, four inputs that all rows
// share, from a lane of a register: 32 inputs of a token are two registers high and two low, and
// four loads serve 16 products.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "cpu_activations.h"

namespace ossia {
namespace {

constexpr int kRows = 4;                // of a vector
constexpr int kParts = kGroup / kRows;  // vectors of a group

// Scales of 16 rows: E8M0 codes or bfloat16, which are the upper bits of a float either way.
inline void powers_of_two(const uint8_t *codes, float32x4_t (&out)[kParts]) {
  const uint8x16_t bytes = vld1q_u8(codes);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  out[0] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(low)), 23));
  out[1] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_high_u16(low), 23));
  out[2] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(high)), 23));
  out[3] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_high_u16(high), 23));
}
inline void bfloats(const uint8_t *halves, float32x4_t (&out)[kParts]) {
  for (int part = 0; part < kParts; ++part) {
    const uint16x4_t four = vreinterpret_u16_u8(vld1_u8(halves + part * 8));
    out[part] = vreinterpretq_f32_u32(vshll_n_u16(four, 16));
  }
}

struct Mxfp4Signed {
  static constexpr int kValueBytes = 256, kScaleBytes = 16;
  int8x16_t table;  // twice the values

  Mxfp4Signed() {
    static constexpr int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    table = vld1q_s8(kTwice);
  }
  // w[i]: inputs 4i .. 4i+3 of rows 4 part .. 4 part + 3.
  inline void bytes(const uint8_t *block, int part, int8x16_t (&w)[8]) const {
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      const uint8x16_t packed = vld1q_u8(block + t * 64 + part * 16);
      w[2 * t] = vqtbl1q_s8(table, vandq_u8(packed, vdupq_n_u8(15)));
      w[2 * t + 1] = vqtbl1q_s8(table, vshrq_n_u8(packed, 4));
    }
  }
  static inline void scales(const uint8_t *codes, float32x4_t (&out)[kParts]) {
    powers_of_two(codes, out);
    for (int part = 0; part < kParts; ++part) out[part] = vmulq_n_f32(out[part], 0.5f);
  }
};

struct Int8Signed {
  static constexpr int kValueBytes = 512, kScaleBytes = 32;

  // Stored bytes have 128 added: flipping the top bit makes them signed.
  inline void bytes(const uint8_t *block, int part, int8x16_t (&w)[8]) const {
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      const uint8x16_t stored = vld1q_u8(block + t * 64 + part * 16);
      w[t] = vreinterpretq_s8_u8(veorq_u8(stored, vdupq_n_u8(128)));
    }
  }
  static inline void scales(const uint8_t *halves, float32x4_t (&out)[kParts]) {
    bfloats(halves, out);
  }
};

// sum over 32 inputs of weights of four rows and one part, high or low, of a token. Written out
// because the lane must be a constant.
inline int32x4_t multiply_block(const int8x16_t (&w)[8], const uint8_t *x) {
  const int8x16_t first = vreinterpretq_s8_u8(vld1q_u8(x));
  const int8x16_t second = vreinterpretq_s8_u8(vld1q_u8(x + 16));
  int32x4_t sum = vdotq_laneq_s32(vdupq_n_s32(0), w[0], first, 0);
  sum = vdotq_laneq_s32(sum, w[1], first, 1);
  sum = vdotq_laneq_s32(sum, w[2], first, 2);
  sum = vdotq_laneq_s32(sum, w[3], first, 3);
  sum = vdotq_laneq_s32(sum, w[4], second, 0);
  sum = vdotq_laneq_s32(sum, w[5], second, 1);
  sum = vdotq_laneq_s32(sum, w[6], second, 2);
  return vdotq_laneq_s32(sum, w[7], second, 3);
}

// Four rows of one block with all tokens: eight registers of weights serve all of them.
template <typename W, int tokens>
inline void add_part(const W &unpack, const uint8_t *block, float32x4_t scale, int part, int64_t b,
                     int64_t blocks, const uint8_t *const *rows,
                     float32x4_t (&sums)[kParts][tokens]) {
  int8x16_t w[8];
  unpack.bytes(block, part, w);
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    const uint8_t *line = rows[t] + b * 64;
    // Loads stay here: fetched once for all parts, the inputs of some tokens fill all registers
    // and wait on the stack.
    if constexpr (tokens > 1) asm volatile("" : "+r"(line));
    const int32x4_t high = multiply_block(w, line), low = multiply_block(w, line + 32);
    const float32x4_t whole = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(high, 8), low));
    const float32x4_t scaled = vmulq_n_f32(whole, row_scales(rows[t], blocks)[b]);
    sums[part][t] = vfmaq_f32(sums[part][t], scaled, scale);
  }
}

template <typename W, int tokens>
inline void split_product(const uint8_t *values, const uint8_t *scales, int64_t blocks,
                          const uint8_t *const *rows, float *out, int64_t stride) {
  const W unpack;
  float32x4_t sums[kParts][tokens];
  for (int part = 0; part < kParts; ++part) {
    for (int t = 0; t < tokens; ++t) sums[part][t] = vdupq_n_f32(0.0f);
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t *block = values + b * W::kValueBytes;
    for (int i = 0; i < W::kValueBytes; i += 64) __builtin_prefetch(block + i + kAhead);
    float32x4_t scale[kParts];
    W::scales(scales + b * W::kScaleBytes, scale);
    // With one token everything stays in registers, and the two chains of one part can run beside
    // those of the next. With more the sums are kept in memory, one load and one store for 16
    // products; unrolled, the compiler would keep all activations at hand, on the stack.
    if constexpr (tokens == 1) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        add_part<W, tokens>(unpack, block, scale[part], part, b, blocks, rows, sums);
      }
    } else {
#pragma GCC unroll 1
      for (int part = 0; part < kParts; ++part) {
        add_part<W, tokens>(unpack, block, scale[part], part, b, blocks, rows, sums);
      }
    }
  }
  for (int t = 0; t < tokens; ++t) {
    for (int part = 0; part < kParts; ++part) {
      vst1q_f32(out + t * stride + part * kRows, sums[part][t]);
    }
  }
}

template <typename W>
void few_split(const uint8_t *values, const uint8_t *scales, int64_t blocks,
               const uint8_t *const *rows, int tokens, float *out, int64_t stride) {
#define OSSIA_CALL(n) split_product<W, n>(values, scales, blocks, rows, out, stride)
  OSSIA_FOR_TOKENS(tokens, OSSIA_CALL)
#undef OSSIA_CALL
}

// BF16 matrices: float activations, because unpacking a pair is one shift and one mask. First and
// second inputs of pairs have sums of their own: 16 chains for two tokens, half of all registers.
template <int tokens>
inline void bf16_product(const uint8_t *values, int64_t blocks, const uint8_t *const *rows,
                         float *out, int64_t stride) {
  float32x4_t sums[tokens][2][kParts];
#pragma GCC unroll 2
  for (int t = 0; t < tokens; ++t) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      sums[t][0][part] = sums[t][1][part] = vdupq_n_f32(0.0f);
    }
  }
  for (int64_t p = 0; p < blocks * kBlock / 2; ++p) {
    const uint8_t *pair = values + p * 64;
    __builtin_prefetch(pair + kAhead);
    float32x2_t x[tokens];
#pragma GCC unroll 2
    for (int t = 0; t < tokens; ++t) {
      x[t] = vld1_f32(reinterpret_cast<const float *>(rows[t]) + 2 * p);
    }
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const uint32x4_t w = vreinterpretq_u32_u8(vld1q_u8(pair + part * 16));
      const float32x4_t first = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
      const float32x4_t second = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xffff0000u)));
#pragma GCC unroll 2
      for (int t = 0; t < tokens; ++t) {
        sums[t][0][part] = vfmaq_lane_f32(sums[t][0][part], first, x[t], 0);
        sums[t][1][part] = vfmaq_lane_f32(sums[t][1][part], second, x[t], 1);
      }
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < tokens; ++t) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      vst1q_f32(out + t * stride + part * kRows, vaddq_f32(sums[t][0][part], sums[t][1][part]));
    }
  }
}

// The group's weights come from memory for the first two tokens and from the cache for the rest.
void few_bf16(const uint8_t *values, const uint8_t *, int64_t blocks, const uint8_t *const *rows,
              int tokens, float *out, int64_t stride) {
  int t = 0;
  for (; t + 2 <= tokens; t += 2) {
    bf16_product<2>(values, blocks, rows + t, out + t * stride, stride);
  }
  if (t < tokens) bf16_product<1>(values, blocks, rows + t, out + t * stride, stride);
}

}  // namespace

const Products &products_neon() {
  static constexpr Products kProducts = {
      {{},
       {Form::kSplit, 0, few_split<Mxfp4Signed>, Form::kSplit, nullptr, 0},
       {Form::kSplit, 0, few_split<Int8Signed>, Form::kSplit, nullptr, 0},
       {Form::kFloat, 0, few_bf16, Form::kFloat, nullptr, 0}},
      prepare,
      swiglu,
      read,
  };
  return kProducts;
}

}  // namespace ossia
#endif
