"""The experts of steps of about 65 to 512 tokens on Hopper, by wgmma, from MXFP4.

The formula, the bytes and the launch shape stand at the top of `cuda_decode_mid.cu`. Beside
`experts_few`, whose tensor instructions become the limit from 128 tokens on, and `experts_many`,
which is made for hundreds of rows an expert.

Call `experts_mid` once before capturing a CUDA graph: the first call compiles or loads the kernels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from ossia.kernels.cuda.compiler import compile_cuda
from ossia.kernels.cuda.module import CudaKernel, CudaModule
from ossia.kernels.moe.hopper_layout import CHUNK, LANES, TILE, HopperExperts
from ossia.kernels.router.groups import Groups, max_work

MID_ROWS_A_TILE = (16, 24, 32, 40, 48, 64, 80, 96, 128)  # what a work item may have at most
_ARCHITECTURE = "sm_90a"
_GROUP_THREADS = 128  # of a warpgroup
_BIG_TILE = 64  # weight rows of a product
_ALIGNMENT = 1024  # of what is swizzled
_SHARED_BYTES = 227 << 10  # that a block of Hopper can have, at most
_SOURCES = (
    "cuda_common.cu",
    "cuda_decode_parts.cu",
    "cuda_decode_mid_parts.cu",
    "cuda_decode_mid.cu",
)


@dataclass(frozen=True, slots=True)
class MidConfig:
    """How `experts_mid` is launched: one block a multiprocessor."""

    rows_a_tile: int  # most rows of a work item, one of MID_ROWS_A_TILE
    groups: int  # warpgroups that multiply, 2 to 4; one more copies
    tiles: int  # of 64 weight rows, of a warpgroup
    chunks: int  # of 64 columns in a stage; must divide the chunks of both matrices
    stages: int
    halves: int = 1  # of a chunk that are unpacked and multiplied at a time, 1 or 2
    even_rows: int = 32  # up to which tiles of an item cost the same when work is divided
    scale_steps: int = 5  # stages whose scales one copy brings; must divide those of both matrices
    wait_limit_ns: int = 0  # in tests: a wait that takes longer ends the kernel with an error

    @property
    def threads(self) -> int:
        """Of a block."""
        return (self.groups + 1) * _GROUP_THREADS

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles = self.groups * self.tiles * _BIG_TILE // TILE
        chunk = self.rows_a_tile * CHUNK * 2 + tiles * LANES * 16
        scale_slots = -(-(self.stages - 1) // self.scale_steps) + 1
        scales = tiles * scale_slots * self.scale_steps * self.chunks * 32
        return _ALIGNMENT + self.stages * (self.chunks * chunk + 16) + scales

    def fits(self, hidden: int, intermediate: int) -> bool:
        """Whether the columns divide into stages, and the stages fit the machine."""
        chunks = math.gcd(hidden, intermediate) // CHUNK
        return chunks % (self.chunks * self.scale_steps) == 0 and self.shared_bytes <= _SHARED_BYTES


def mid_rows_a_tile(tokens: int, k: int, num_experts: int) -> int:
    """The `rows_a_tile` for `group`: up to two and a half times the mean load of an expert.

    Routing is uneven. A second work item of an expert reads and unpacks the expert's weights again;
    room that an item does not use costs shared memory only.
    """
    wanted = 2.5 * tokens * k / num_experts
    return next((n for n in (32, 48) if wanted <= n), 64)


def mid_config(rows: int, hidden: int, intermediate: int) -> MidConfig:
    """The launch of `experts_mid` for work items of at most `rows` rows."""
    wanted = {
        16: MidConfig(16, 4, 1, 3, 5),
        24: MidConfig(24, 4, 1, 3, 5),
        32: MidConfig(32, 4, 1, 3, 5),
        40: MidConfig(40, 4, 1, 3, 5),
        48: MidConfig(48, 4, 1, 3, 5),
        64: MidConfig(64, 4, 1, 3, 4),
        80: MidConfig(80, 3, 1, 3, 3),
        96: MidConfig(96, 3, 1, 3, 3),
        128: MidConfig(128, 2, 2, 3, 2),
    }[rows]
    if wanted.fits(hidden, intermediate):
        return wanted
    return MidConfig(rows, 2, 2, 1, 4, scale_steps=1)


def experts_mid(
    normed: Tensor,
    groups: Groups,
    experts: HopperExperts,
    alpha: float,
    limit: float,
    *,
    config: MidConfig | None = None,
    pdl: bool = True,
) -> Tensor:
    """The outputs of all chosen experts, unweighted, with their biases.

    Args:
        normed: bf16 [tokens, hidden].
        groups: of the tokens' pairs, with a size of `MID_ROWS_A_TILE` (see `mid_rows_a_tile`).
            They must have been written before the kernel that comes just before this call, or
            by it.
        experts: on the same device; hidden and intermediate size multiples of 64.
        alpha: of the gate's sigmoid.
        limit: clamp of gate and up.
        config: another launch shape, for the same rows_a_tile.
        pdl: launch dependently (see `CudaModule.kernel`).

    Returns:
        bf16 [tokens * k, hidden], row token * k + j for the token's choice j.

    Raises:
        ValueError: a type or shape that the kernels do not take.
        CudaCompileError, CudaDriverError: the kernels cannot be built or started.
    """
    hidden, intermediate = experts.hidden, experts.intermediate
    tokens, pairs = len(normed), len(groups.pair_of_row)
    if normed.dtype != torch.bfloat16 or normed.shape[1] != hidden or not normed.is_contiguous():
        raise ValueError(f"normed must be contiguous bfloat16 [tokens, {hidden}].")
    config = config or mid_config(groups.rows_a_tile, hidden, intermediate)
    if config.rows_a_tile != groups.rows_a_tile:
        raise ValueError(
            f"The pairs were grouped by {groups.rows_a_tile} rows, not by {config.rows_a_tile}."
        )
    device = normed.device
    assert device.index is not None
    gate_up, down = _kernels(hidden, intermediate, pairs // tokens, config, pdl, device.index)
    h = torch.empty(pairs, intermediate, dtype=torch.bfloat16, device=device)
    y = torch.empty(pairs, hidden, dtype=torch.bfloat16, device=device)
    items = max_work(pairs, experts.num_experts, config.rows_a_tile)
    blocks = _multiprocessors(device.index)
    plan = (
        groups.pair_of_row.data_ptr(),
        groups.work.data_ptr(),
        groups.num_work.data_ptr(),
    )
    gate_up(
        (min(blocks, items * (2 * intermediate // _BIG_TILE)),),
        experts.gate_up_blocks.data_ptr(),
        experts.gate_up_scales.data_ptr(),
        experts.gate_up_bias.data_ptr(),
        normed.data_ptr(),
        *plan,
        h.data_ptr(),
        experts.gate_up_gain,
        alpha,
        limit,
    )
    down(
        (min(blocks, items * (hidden // _BIG_TILE)),),
        experts.down_blocks.data_ptr(),
        experts.down_scales.data_ptr(),
        experts.down_bias.data_ptr(),
        h.data_ptr(),
        *plan,
        y.data_ptr(),
        experts.down_gain,
    )
    return y


def mid_source(
    hidden: int, intermediate: int, k: int, config: MidConfig
) -> tuple[str, dict[str, int | str]]:
    """What `experts_mid` compiles: text and macros.

    Raises:
        ValueError: the configuration is not for these sizes.
    """
    if config.rows_a_tile not in MID_ROWS_A_TILE or not config.fits(hidden, intermediate):
        raise ValueError(f"{config} does not fit hidden {hidden}, intermediate {intermediate}.")
    folder = resources.files("ossia.kernels.moe")
    defines: dict[str, int | str] = {
        "HIDDEN": hidden,
        "INTERMEDIATE": intermediate,
        "TOPK": k,
        "N": config.rows_a_tile,
        "GROUPS": config.groups,
        "TILES": config.tiles,
        "CHUNKS": config.chunks,
        "STAGES": config.stages,
        "HALVES": config.halves,
        "EVEN_ROWS": config.even_rows,
        "SCALE_STEPS": config.scale_steps,
    }
    if config.wait_limit_ns:
        defines["WAIT_LIMIT_NS"] = f"{config.wait_limit_ns}ull"
    return "".join(folder.joinpath(name).read_text() for name in _SOURCES), defines


@functools.cache
def _kernels(
    hidden: int, intermediate: int, k: int, config: MidConfig, pdl: bool, device_index: int
) -> tuple[CudaKernel, CudaKernel]:
    source, defines = mid_source(hidden, intermediate, k, config)
    code = compile_cuda(source, architecture=_ARCHITECTURE, defines=defines, name=_SOURCES[-1])
    module = CudaModule(code, device_index)

    def kernel(name: str, arguments: str) -> CudaKernel:
        return module.kernel(
            name, arguments, block=config.threads, shared_bytes=config.shared_bytes, pdl=pdl
        )

    return kernel("mid_gate_up", "PPPPPPPPfff"), kernel("mid_down", "PPPPPPPPf")


@functools.cache
def _multiprocessors(device_index: int) -> int:
    return torch.cuda.get_device_properties(device_index).multi_processor_count
