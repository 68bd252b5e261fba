// The AMX instructions that products use, on tiles of 16 rows of 64 bytes.
//
// Written as assembly because the compilers' intrinsics do not say which memory they touch: gcc 12
// takes 8 bytes of the tile configuration for all of it and drops the stores of the rest. With
// OSSIA_TILES_EMULATED the same operations run in plain C++, so that the code around them can be
// tested on a processor without AMX. Instructions: Intel SDM volume 2, LDTILECFG, TDPBF16PS.
#pragma once

#include <cstdint>
#include <cstring>

namespace ossia {
namespace {

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};

  void set(int tile, int row_count) {
    bytes[tile] = 64;
    rows[tile] = static_cast<uint8_t>(row_count);
  }
};
static_assert(sizeof(TileConfig) == 64, "LDTILECFG reads 64 bytes");

#if defined(OSSIA_TILES_EMULATED)

struct Tiles {
  TileConfig config;
  uint8_t data[8][16][64];
};
inline Tiles &tiles() {
  static thread_local Tiles all;
  return all;
}
inline void tile_configure(const TileConfig &config) {
  std::memset(&tiles(), 0, sizeof(Tiles));
  tiles().config = config;
}
inline void tile_release() {}
template <int tile>
inline void tile_zero() {
  std::memset(tiles().data[tile], 0, sizeof tiles().data[tile]);
}
template <int tile>
inline void tile_load(const void *from, int64_t stride) {
  for (int r = 0; r < tiles().config.rows[tile]; ++r) {
    std::memcpy(tiles().data[tile][r], static_cast<const uint8_t *>(from) + r * stride, 64);
  }
}
template <int tile>
inline void tile_store(void *to, int64_t stride) {
  for (int r = 0; r < tiles().config.rows[tile]; ++r) {
    std::memcpy(static_cast<uint8_t *>(to) + r * stride, tiles().data[tile][r], 64);
  }
}
template <int sum, int a, int b>
inline void tile_multiply() {
  const auto bfloat = [](int tile, int row, int at) {
    uint16_t half;
    std::memcpy(&half, &tiles().data[tile][row][2 * at], sizeof half);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  };
  for (int m = 0; m < tiles().config.rows[sum]; ++m) {
    float row[16];
    std::memcpy(row, tiles().data[sum][m], sizeof row);
    for (int k = 0; k < tiles().config.rows[b]; ++k) {
      for (int n = 0; n < 16; ++n) {
        row[n] += bfloat(a, m, 2 * k) * bfloat(b, k, 2 * n);
        row[n] += bfloat(a, m, 2 * k + 1) * bfloat(b, k, 2 * n + 1);
      }
    }
    std::memcpy(tiles().data[sum][m], row, sizeof row);
  }
}

#else

inline void tile_configure(const TileConfig &config) {
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
inline void tile_release() { asm volatile("tilerelease" : : : "memory"); }
template <int tile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(tile));
}
// `stride` bytes from row to row.
template <int tile>
inline void tile_load(const void *from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
inline void tile_store(void *to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(tile) : "memory");
}
// sum[m][n] += sum over k of a[m][2k] b[k][2n] + a[m][2k+1] b[k][2n+1], a and b bfloat16.
template <int sum, int a, int b>
inline void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b));
}

#endif

}  // namespace
}  // namespace ossia
