// Registers of floats of whatever width the including file is compiled for, and exp on them.
//
// Only for files of one level (cpu_*_LEVEL.cpp): everything is in an unnamed namespace, so each of
// them has a copy of its own and no other file can be linked to it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace ossia {
namespace {

#if defined(__AVX512F__)

constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;
using Vec = __m512;

inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec load_bf16(const uint16_t *p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Vec round_to_integer(Vec a) { return _mm512_roundscale_ps(a, 0); }
// a * 2^n for integral n in -126 .. 127
inline Vec scale_by_power(Vec a, Vec n) {
  const __m512i power = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return mul(a, _mm512_castsi512_ps(_mm512_slli_epi32(power, 23)));
}
// a where x >= least, else 0
inline Vec zero_below(Vec a, Vec x, Vec least) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, least, _CMP_GE_OQ), a);
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;
using Vec = __m256;

inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, Vec a) { _mm256_storeu_ps(p, a); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec load_bf16(const uint16_t *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Vec round_to_integer(Vec a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec scale_by_power(Vec a, Vec n) {
  const __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
}
inline Vec zero_below(Vec a, Vec x, Vec least) {
  return _mm256_and_ps(a, _mm256_cmp_ps(x, least, _CMP_GE_OQ));
}

#elif defined(__ARM_FEATURE_DOTPROD)
// Every 64-bit ARM processor has these instructions; the condition is that of the level, so that
// the portable level stays plain C++ where its file is compiled without the level's flags.

constexpr int kLanes = 4;
constexpr int kVectorRegisters = 32;
using Vec = float32x4_t;

inline Vec set1(float x) { return vdupq_n_f32(x); }
inline Vec load(const float *p) { return vld1q_f32(p); }
inline void store(float *p, Vec a) { vst1q_f32(p, a); }
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
// Not vmaxq_f32: where one is NaN the other levels give b.
inline Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline Vec load_bf16(const uint16_t *p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline Vec round_to_integer(Vec a) { return vrndnq_f32(a); }
inline Vec scale_by_power(Vec a, Vec n) {
  const int32x4_t power = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
  return mul(a, vreinterpretq_f32_s32(vshlq_n_s32(power, 23)));
}
inline Vec zero_below(Vec a, Vec x, Vec least) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vcgeq_f32(x, least)));
}

#else

constexpr int kLanes = 4;
constexpr int kVectorRegisters = 16;  // at least
struct Vec {
  float v[kLanes];
};

template <typename F>
inline Vec each(F f) {
  Vec out;
  for (int i = 0; i < kLanes; ++i) out.v[i] = f(i);
  return out;
}
inline Vec set1(float x) {
  return each([=](int) { return x; });
}
inline Vec load(const float *p) {
  return each([=](int i) { return p[i]; });
}
inline void store(float *p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
inline Vec add(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec sub(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec mul(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Vec max(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec load_bf16(const uint16_t *p) {
  return each([=](int i) {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  });
}
inline Vec round_to_integer(Vec a) {
  return each([&](int i) { return static_cast<float>(static_cast<int>(a.v[i] + (a.v[i] < 0 ? -0.5f : 0.5f))); });
}
inline Vec scale_by_power(Vec a, Vec n) {
  return each([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(static_cast<int>(n.v[i]) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return a.v[i] * power;
  });
}
inline Vec zero_below(Vec a, Vec x, Vec least) {
  return each([&](int i) { return x.v[i] >= least.v[i] ? a.v[i] : 0.0f; });
}

#endif

inline Vec zero() { return set1(0.0f); }

// The sum of all lanes, in pairs: the same order wherever it is called.
inline float sum(Vec a) {
  float lanes[kLanes];
  store(lanes, a);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

inline float largest(Vec a) {
  float lanes[kLanes];
  store(lanes, a);
  float found = lanes[0];
  for (int i = 1; i < kLanes; ++i) found = lanes[i] > found ? lanes[i] : found;
  return found;
}

// e^x for x <= 0, exactly 0 below -87: 2^n e^r with |r| <= ln 2 / 2 and e^r by the polynomial of
// the Cephes library's expf; relative error below 2e-7.
inline Vec exp(Vec x) {
  const Vec least = set1(-87.0f);
  const Vec n = round_to_integer(mul(max(x, least), set1(1.44269504088896341f)));
  Vec r = fma(n, set1(-0.693359375f), max(x, least));
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  return zero_below(scale_by_power(p, n), x, least);
}

}  // namespace
}  // namespace ossia
