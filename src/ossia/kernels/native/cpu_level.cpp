// Which levels this library has (the build says) and this processor runs (CPUID says on x86, the
// system on ARM).
#include "cpu_level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <cstdint>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace ossia {

const char *level_name(Level level) {
  constexpr const char *kNames[kLevels] = {"portable",    "avx2", "avx-vnni", "avx512",
                                           "avx512-vnni", "amx",  "neon"};
  return kNames[static_cast<int>(level)];
}

#if defined(__x86_64__)
namespace {

// What the operating system saves of the vector registers: XCR0, from the XGETBV instruction.
uint64_t saved_state() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Bits of CPUID and XCR0: Intel Software Developer's Manual, volume 2A, CPUID, and volume 1, 13.
struct Features {
  bool avx2 = false, avx_vnni = false, avx512 = false, vnni = false, amx = false;

  Features() {
    uint32_t a, b, c, d, c1;
    if (!__get_cpuid(1, &a, &b, &c1, &d)) return;
    const bool osxsave = c1 >> 27 & 1, avx = c1 >> 28 & 1, fma = c1 >> 12 & 1, f16c = c1 >> 29 & 1;
    if (!osxsave || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    const uint32_t b7 = b, c7 = c, d7 = d;
    const uint64_t saved = saved_state();
    avx2 = (saved & 0x6) == 0x6 && fma && f16c && (b7 >> 5 & 1);
    const bool f = b7 >> 16 & 1, dq = b7 >> 17 & 1, bw = b7 >> 30 & 1, vl = b7 >> 31 & 1;
    avx512 = avx2 && (saved & 0xe6) == 0xe6 && f && dq && bw && vl;
    uint32_t a71 = 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    avx_vnni = avx2 && (a71 >> 4 & 1);
    const bool vbmi = c7 >> 1 & 1, vnni_bit = c7 >> 11 & 1, bf16 = a71 >> 5 & 1;
    vnni = avx512 && vbmi && vnni_bit && bf16;
    const bool tile = d7 >> 24 & 1, amx_bf16 = d7 >> 22 & 1;
#if defined(OSSIA_TILES_EMULATED)
    amx = vnni;
    return;
#endif
    amx = vnni && (saved & 0x60000) == 0x60000 && tile && amx_bf16 && tiles_permitted();
  }

  // Linux gives a process the large tile state only when asked; threads inherit the answer.
  static bool tiles_permitted() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
  }
};

}  // namespace

bool level_available(Level level) {
  static const Features features;
  switch (level) {
    case Level::kPortable:
      return true;
#if defined(OSSIA_WITH_AVX2)
    case Level::kAvx2:
      return features.avx2;
#endif
#if defined(OSSIA_WITH_AVXVNNI)
    case Level::kAvxVnni:
      return features.avx_vnni;
#endif
#if defined(OSSIA_WITH_AVX512)
    case Level::kAvx512:
      return features.avx512;
#endif
#if defined(OSSIA_WITH_VNNI)
    case Level::kVnni:
      return features.vnni;
#endif
#if defined(OSSIA_WITH_AMX)
    case Level::kAmx:
      return features.amx;
#endif
    default:
      return false;
  }
}
#elif defined(__aarch64__)
namespace {

bool dot_products() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#elif defined(__APPLE__)
  int there = 0;
  size_t bytes = sizeof there;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &there, &bytes, nullptr, 0) == 0 && there;
#else
  return false;
#endif
}

}  // namespace

bool level_available(Level level) {
#if defined(OSSIA_WITH_NEON)
  static const bool neon = dot_products();
  if (level == Level::kNeon) return neon;
#endif
  return level == Level::kPortable;
}
#else
bool level_available(Level level) { return level == Level::kPortable; }
#endif

}  // namespace ossia
