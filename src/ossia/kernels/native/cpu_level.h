// The levels of instructions, from what every processor has to what the newest have.
//
// A file named cpu_*_<level>.cpp is compiled with that level's flags and must only be called on a
// processor that has them; all other files are compiled for every processor. Operations pick their
// functions by the context's level.
#pragma once

// One build for both processors of a Mac compiles common files for each of them.
#if defined(OSSIA_WITH_NEON) && !defined(__aarch64__)
#undef OSSIA_WITH_NEON
#endif

namespace ossia {

enum class Level {
  kPortable = 0,
  kAvx2 = 1,     // AVX2, FMA, F16C
  kAvxVnni = 2,  // and AVX-VNNI
  kAvx512 = 3,   // AVX2 and AVX-512 F, BW, VL, DQ
  kVnni = 4,     // and AVX-512 VNNI, VBMI, BF16
  kAmx = 5,      // and AMX tiles with BF16 products
  kNeon = 6,     // on ARM: the dot product extension of ARMv8.2; NEON itself is in every one
};

constexpr int kLevels = 7;

const char *level_name(Level level);

// Whether it was compiled into this library and this processor and system allow it.
bool level_available(Level level);

}  // namespace ossia
