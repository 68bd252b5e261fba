"""Products of 65 to 256 tokens on Hopper: what qkv/, attention_out/ and lm_head/ share in Python.

`cuda_mid.cu` says how the work is divided, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from ossia.kernels.cuda.compiler import compile_cuda
from ossia.kernels.cuda.module import CudaKernel, CudaModule
from ossia.kernels.linear.tensor_map import CHUNK, WORDS, tensor_map

MOST_TOKENS = 256
MAPS = "Q" * (2 * WORDS)  # the last parameter of every kernel: two tensor maps in one
TOKENS_A_GROUP = 64
MOST_SHARED_BYTES = 232_448  # of a block on Hopper
_SLOT_ALIGNMENT = 1024
_BARRIER_BYTES = 16  # of a slot: full and empty


@dataclass(frozen=True, slots=True)
class MidShape:
    """How a product is cut into blocks; see `cuda_mid.cu`."""

    rows: int  # of the weight, a block: 48, 64, 96, 128 or 192
    groups: int  # of 64 tokens, a block: 1 to 4
    stages: int  # slots of the ring
    splits: int = 1  # ranges of the columns, the blocks of a cluster; at most 4
    share: int = 1  # tiles of rows that share tokens, the blocks of a cluster; 1 or 2
    blocks: int = 1  # of a multiprocessor
    wait_limit_ns: int = 0  # in tests: a wait that takes longer ends the kernel with an error

    @property
    def tokens(self) -> int:
        """Tokens of a block."""
        return self.groups * TOKENS_A_GROUP

    @property
    def threads(self) -> int:
        """Threads of a block: a warpgroup for 64 tokens, and a warp that copies."""
        return self.groups * 128 + 32

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        slot = (self.rows + self.tokens) * CHUNK * 2 + _BARRIER_BYTES
        return _SLOT_ALIGNMENT + self.stages * slot

    def grid(self, rows: int, tokens: int) -> tuple[int, int]:
        """Blocks for a weight of `rows` rows; whole clusters."""
        tiles = -(-rows // self.rows)
        return -(-tiles // self.share) * self.share * self.splits, -(-tokens // self.tokens)

    def macros(self, inputs: int) -> dict[str, int | str]:
        """What `cuda_mid.cu` wants for a weight of `inputs` columns."""
        found: dict[str, int | str] = {
            "ROWS": self.rows,
            "GROUPS": self.groups,
            "INPUTS": inputs,
            "STAGES": self.stages,
            "SPLITS": self.splits,
            "SHARE": self.share,
            "BLOCKS": self.blocks,
        }
        if self.wait_limit_ns:
            found["WAIT_LIMIT_NS"] = f"{self.wait_limit_ns}ull"
        return found


def groups_for(tokens: int) -> int:
    """Groups of 64 tokens that one block takes of so many: all of them, up to 256 tokens."""
    return min(-(-tokens // TOKENS_A_GROUP), MOST_TOKENS // TOKENS_A_GROUP)


def can_multiply(weight: Tensor, x: Tensor, shape: MidShape) -> bool:
    """Whether the kernels of this shape take these operands."""
    return (
        x.is_cuda
        and x.dtype == weight.dtype == torch.bfloat16
        and weight.shape[1] % CHUNK == 0
        and weight.shape[1] // CHUNK >= shape.splits
        and torch.cuda.get_device_capability(x.device)[0] == 9
    )


def maps(weight: Tensor, x: Tensor, shape: MidShape) -> tuple[int, ...]:
    """The last parameter of a kernel: where it copies weights [rows, inputs] and tokens from."""
    return tensor_map(weight, shape.rows) + tensor_map(x, shape.tokens // shape.share)


def mid_source(folder: str) -> str:
    """The CUDA C++ of a kernel: the products, and the epilogue in `kernels/{folder}`."""
    files = [
        (place, resources.files(f"ossia.kernels.{place}").joinpath("cuda_mid.cu").read_text())
        for place in ("linear", folder)
    ]
    return "".join(f'#line 1 "{place}/cuda_mid.cu"\n{text}' for place, text in files)


def mid_kernel(
    folder: str,
    name: str,
    arguments: str,
    shape: MidShape,
    macros: Mapping[str, int | str],
    *,
    pdl: bool,
    device_index: int,
) -> CudaKernel:
    """Compile and load; call it outside of any graph capture.

    Args:
        folder: of `kernels`, whose `cuda_mid.cu` has the kernel.
        name: of the kernel.
        arguments: its parameters but the last (see `CudaModule.kernel`).
        shape: how it divides the work.
        macros: all that the source wants.
        pdl: launch it before the kernel ahead has ended.
        device_index: where.

    Raises:
        CudaCompileError: there is no NVRTC, or it refuses.
        CudaDriverError: the device is not a Hopper GPU.
    """
    code = compile_cuda(
        mid_source(folder), architecture="sm_90a", defines=macros, name=f"{folder}/cuda_mid.cu"
    )
    return CudaModule(code, device_index).kernel(
        name,
        arguments + MAPS,
        block=shape.threads,
        shared_bytes=shape.shared_bytes,
        pdl=pdl,
    )
