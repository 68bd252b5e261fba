// The inner loops of a block at this level; see cpu_block_kernels.h. Checked in emulation, never
// timed on hardware (cpu_products_neon.cpp).
#if defined(__aarch64__)
#include "cpu_attention_impl.h"
#include "cpu_block_kernels.h"
#include "cpu_norm_impl.h"

namespace ossia {

const BlockKernels kBlockKernelsNeon = {norm, dots, turn, attend, merge, finish};

}  // namespace ossia
#endif
