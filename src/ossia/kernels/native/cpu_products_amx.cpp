// Products of many tokens with AMX tiles; few tokens go to the VNNI kernels.
//
// out[t, r] = sum_k W[r, k] x[t, k], both in bfloat16, sums in float32. MXFP4 weights with their
// scales are bfloat16 numbers, so unpacking them is exact; INT8 weights times their scale are
// rounded once (2^-9). 32 rows are unpacked into 2 KB a block of 32 inputs, which stays in the
// second-level cache (180 KB for 2880 inputs), and multiplied with all tokens, 32 x 32 sums in four
// tiles at a time: four tile loads for four products of 16 x 16 x 32.
#include <immintrin.h>

#include "cpu_activations.h"
#include "cpu_tiles.h"

namespace ossia {
namespace {

constexpr int kBlockBytes = 1024;  // one block of 16 rows in bfloat16: [16 pairs][16 rows][2]

inline void fetch_ahead(const uint8_t *p, int bytes) {
  for (int i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char *>(p + i + kAhead), _MM_HINT_T0);
  }
}

// The scale 2^(code - 127) is added to the exponents. Codes are held to 3 .. 252, where no exponent
// leaves its field; weights below 2^-121 are as good as zero.
void unpack_mxfp4(const uint8_t *values, const uint8_t *scales, int64_t blocks, uint8_t *out) {
  const __m256i half = _mm256_setr_epi16(
      0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,  // 0 .5 1 1.5 2 3 4 6
      0x0000, static_cast<int16_t>(0xbf00), static_cast<int16_t>(0xbf80),
      static_cast<int16_t>(0xbfc0), static_cast<int16_t>(0xc000), static_cast<int16_t>(0xc040),
      static_cast<int16_t>(0xc080), static_cast<int16_t>(0xc0c0));
  const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
  constexpr int kShift[4] = {0, 8, 4, 12};  // pairs (0, 2), (1, 3), (4, 6), (5, 7): kBfloat's order
  for (int64_t b = 0; b < blocks; ++b) {
    fetch_ahead(values + b * 256, 256);
    __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(scales + b * 16));
    codes = _mm_min_epu8(_mm_max_epu8(codes, _mm_set1_epi8(3)), _mm_set1_epi8(static_cast<char>(252)));
    const __m512i exponent = _mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32(127));
    const __m512i low = _mm512_and_si512(_mm512_slli_epi32(exponent, 7), _mm512_set1_epi32(0xffff));
    const __m512i add = _mm512_or_si512(low, _mm512_slli_epi32(low, 16));
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      const __m512i packed = _mm512_loadu_si512(values + b * 256 + t * 64);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        const __m512i w = _mm512_permutexvar_epi16(_mm512_srli_epi16(packed, kShift[p]), table);
        const __m512i scaled = _mm512_mask_add_epi16(w, _mm512_test_epi16_mask(w, w), w, add);
        _mm512_store_si512(out + b * 2 * kBlockBytes + (t * 4 + p) * 64, scaled);
      }
    }
  }
}

void unpack_int8(const uint8_t *values, const uint8_t *scales, int64_t blocks, uint8_t *out) {
  const auto rounded = [](__m512i weights, __m512 scale) {
    const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(weights), scale);
    return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  };
  for (int64_t b = 0; b < blocks; ++b) {
    fetch_ahead(values + b * 512, 512);
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(scales + b * 32));
    const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(values + b * 512 + t * 64),
                                         _mm512_set1_epi8(-128));
      __m512i input[4];  // sign-extended byte i of each row
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        input[i] = rounded(_mm512_srai_epi32(_mm512_slli_epi32(w, 24 - 8 * i), 24), scale);
      }
      uint8_t *to = out + b * 2 * kBlockBytes + t * 128;
      _mm512_store_si512(to, _mm512_or_si512(input[0], _mm512_slli_epi32(input[2], 16)));
      _mm512_store_si512(to + 64, _mm512_or_si512(input[1], _mm512_slli_epi32(input[3], 16)));
    }
  }
}

// token_tiles x group_tiles tiles of sums. A block of 16 unpacked rows stands every `step` bytes,
// those of the second group `second` bytes further on.
template <int token_tiles, int group_tiles>
void multiply(const uint8_t *weights, int64_t step, int64_t second, const uint8_t *x,
              int64_t x_stride, int64_t blocks, float *out, int64_t stride) {
  tile_zero<0>();
  if constexpr (group_tiles == 2) tile_zero<1>();
  if constexpr (token_tiles == 2) tile_zero<2>();
  if constexpr (token_tiles == 2 && group_tiles == 2) tile_zero<3>();
  for (int64_t b = 0; b < blocks; ++b) {
    tile_load<4>(x + b * 64, x_stride);
    tile_load<6>(weights + b * step, 64);
    tile_multiply<0, 4, 6>();
    if constexpr (group_tiles == 2) {
      tile_load<7>(weights + second + b * step, 64);
      tile_multiply<1, 4, 7>();
    }
    if constexpr (token_tiles == 2) {
      tile_load<5>(x + 16 * x_stride + b * 64, x_stride);
      tile_multiply<2, 5, 6>();
      if constexpr (group_tiles == 2) tile_multiply<3, 5, 7>();
    }
  }
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
  tile_store<0>(out, bytes);
  if constexpr (group_tiles == 2) tile_store<1>(out + kGroup, bytes);
  if constexpr (token_tiles == 2) tile_store<2>(out + 16 * stride, bytes);
  if constexpr (token_tiles == 2 && group_tiles == 2) {
    tile_store<3>(out + 16 * stride + kGroup, bytes);
  }
}

template <int group_tiles>
void multiply_all(const uint8_t *weights, int64_t step, int64_t second, const uint8_t *x,
                  int64_t x_stride, int64_t tokens, int64_t blocks, float *out, int64_t stride) {
  for (int64_t t = 0; t < tokens; t += 32) {
    const int left = static_cast<int>(tokens - t < 32 ? tokens - t : 32);
    // Only the last tokens have tiles of fewer rows; equal configurations need not be loaded.
    if (t == 0 || left < 32) {
      TileConfig config;
      const int upper = left < 16 ? left : 16;
      config.set(0, upper);
      config.set(1, upper);
      config.set(4, upper);
      if (left > 16) {
        config.set(2, left - 16);
        config.set(3, left - 16);
        config.set(5, left - 16);
      }
      config.set(6, 16);
      config.set(7, 16);
      tile_configure(config);
    }
    const uint8_t *from = x + t * x_stride;
    float *to = out + t * stride;
    if (left > 16) {
      multiply<2, group_tiles>(weights, step, second, from, x_stride, blocks, to, stride);
    } else {
      multiply<1, group_tiles>(weights, step, second, from, x_stride, blocks, to, stride);
    }
  }
}

using Unpack = void (*)(const uint8_t *, const uint8_t *, int64_t, uint8_t *);

template <Unpack unpack, int value_bytes, int scale_bytes>
void many_unpacked(const uint8_t *values, const uint8_t *scales, int64_t blocks, int64_t groups,
                   const uint8_t *rows, int64_t tokens, float *out, int64_t stride,
                   uint8_t *scratch) {
  const int64_t x_stride = row_bytes(Form::kBfloat, blocks);
  for (int64_t g = 0; g < groups; g += 2) {
    const int pair = groups - g >= 2 ? 2 : 1;
    for (int i = 0; i < pair; ++i) {
      unpack(values + (g + i) * blocks * value_bytes, scales + (g + i) * blocks * scale_bytes,
             blocks, scratch + i * kBlockBytes);
    }
    const auto all = pair == 2 ? multiply_all<2> : multiply_all<1>;
    all(scratch, 2 * kBlockBytes, kBlockBytes, rows, x_stride, tokens, blocks, out + g * kGroup,
        stride);
  }
  tile_release();
}

// The layout of BF16 matrices is that of tiles.
void many_bf16(const uint8_t *values, const uint8_t *, int64_t blocks, int64_t groups,
               const uint8_t *rows, int64_t tokens, float *out, int64_t stride, uint8_t *) {
  const int64_t x_stride = row_bytes(Form::kBfloatPlain, blocks);
  for (int64_t g = 0; g < groups; g += 2) {
    const auto all = groups - g >= 2 ? multiply_all<2> : multiply_all<1>;
    all(values + g * blocks * kBlockBytes, kBlockBytes, blocks * kBlockBytes, rows, x_stride,
        tokens, blocks, out + g * kGroup, stride);
  }
  tile_release();
}

}  // namespace

const Products &products_amx() {
  static const Products kProducts = [] {
    Products made = products_vnni();
    KindProducts &mxfp4 = made.kinds[OSSIA_MXFP4];
    mxfp4.many_form = Form::kBfloat;
    mxfp4.many = many_unpacked<unpack_mxfp4, 256, 16>;
    mxfp4.many_from = 8;
    KindProducts &int8 = made.kinds[OSSIA_INT8];
    int8.many_form = Form::kBfloat;
    int8.many = many_unpacked<unpack_int8, 512, 32>;
    int8.many_from = 16;
    KindProducts &bf16 = made.kinds[OSSIA_BF16];
    bf16.many_form = Form::kBfloatPlain;
    bf16.many = many_bf16;
    bf16.many_from = 8;
    return made;
  }();
  return kProducts;
}

}  // namespace ossia
