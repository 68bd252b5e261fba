// The products of a level.
#include "cpu_products.h"

namespace ossia {

const Products &products(Level level) {
  switch (level) {
#if defined(OSSIA_WITH_AVX2)
    case Level::kAvx2:
      return products_avx2();
#endif
#if defined(OSSIA_WITH_AVXVNNI)
    case Level::kAvxVnni:
      return products_avxvnni();
#endif
#if defined(OSSIA_WITH_AVX512)
    case Level::kAvx512:
      return products_avx512();
#endif
#if defined(OSSIA_WITH_VNNI)
    case Level::kVnni:
      return products_vnni();
#endif
#if defined(OSSIA_WITH_AMX)
    case Level::kAmx:
      return products_amx();
#endif
#if defined(OSSIA_WITH_NEON)
    case Level::kNeon:
      return products_neon();
#endif
    default:
      return products_portable();
  }
}

}  // namespace ossia
