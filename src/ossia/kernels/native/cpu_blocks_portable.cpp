// The inner loops of a block at this level; see cpu_block_kernels.h.
#include "cpu_attention_impl.h"
#include "cpu_block_kernels.h"
#include "cpu_norm_impl.h"

namespace ossia {

const BlockKernels kBlockKernelsPortable = {norm, dots, turn, attend, merge, finish};

}  // namespace ossia
