"""Experts over many rows on Hopper: weights stay MXFP4 and become bfloat16 in registers.

The kernels are in `cuda_prefill.cu`, which says how they work, and in three files of its parts.
They want work items of 256 or 128 rows, as `prefill_rows_a_tile` says.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ossia.kernels.cuda.compiler import compile_cuda
from ossia.kernels.cuda.module import CudaKernel, CudaModule
from ossia.kernels.moe.hopper_layout import HopperExperts
from ossia.kernels.router.groups import Groups

ROWS_A_TILE = 256  # at most
_FEW_ROWS_A_TILE = 128
_FEW_ROWS_AN_EXPERT = 224  # on average; beyond, tiles of 256 rows are as quick
_PADDING = 127  # rows that the last tile of an expert may be computed beyond its own
_THREADS = 384
_PLACE_THREADS = 256
_STAGING_BYTES = 2 * 16384
_ALIGNMENT = 1024
_BARRIER_BYTES = 16  # of a slot: full and empty
_SOURCES = (
    "cuda_prefill_parts.cu",
    "cuda_prefill_products.cu",
    "cuda_prefill_epilogues.cu",
    "cuda_prefill.cu",
)


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How the kernels divide the work and use shared memory."""

    rows: int = ROWS_A_TILE  # of a tile, 128 or 256; the groups' tiles may be smaller
    stages: int = 6  # slots of the ring of activations, 128 bytes a row of a tile
    cluster: int = 2  # blocks that share token rows, 1 or 2
    depth: int = 4  # chunks of weights in flight to registers, 2 or 4
    placed: bool = True  # rows of x are copied in the order of tiles first; or gathered, cluster 1
    lag: int = 2  # chunks of gathered rows that are in flight, at most stages - 2
    stagger: int = 0  # chunks that the second warpgroup starts behind, below stages - lag
    wait_limit_ns: int = 0  # in tests: a wait that takes longer ends the kernel with an error

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        slots = self.stages * (self.rows * 128 + _BARRIER_BYTES)
        return _ALIGNMENT + slots + _STAGING_BYTES


@dataclass(frozen=True, slots=True)
class PrefillKernels:
    """Both halves, compiled and loaded for one device and geometry."""

    place: CudaKernel
    gate_up: CudaKernel
    down: CudaKernel
    blocks: int  # of a launch of a half: one for each multiprocessor


DEFAULT = PrefillConfig()
FEW = PrefillConfig(rows=_FEW_ROWS_A_TILE, stages=12)


def prefill_rows_a_tile(pairs: int, num_experts: int) -> int:
    """How many rows the work items of `pairs` pairs best have; `experts_many` obeys the groups."""
    few = pairs <= _FEW_ROWS_AN_EXPERT * num_experts
    return _FEW_ROWS_A_TILE if few else ROWS_A_TILE


def default_config(rows: int) -> PrefillConfig:
    """For work items of `rows` rows."""
    return FEW if rows <= _FEW_ROWS_A_TILE else DEFAULT


def padded_rows(rows: int, config: PrefillConfig) -> int:
    """Rows that a tile of `rows` rows takes between the kernels."""
    if config.rows == _FEW_ROWS_A_TILE:
        return (rows + 31) // 32 * 32
    return next(size for size in (64, 128, 256) if size >= rows)


def experts_many(
    normed: Tensor,
    groups: Groups,
    experts: HopperExperts,
    alpha: float,
    limit: float,
    *,
    config: PrefillConfig | None = None,
) -> Tensor:
    """Each chosen expert's answer to each token, not yet weighted.

    Args:
        normed: bfloat16 [tokens, hidden], what the router saw.
        groups: of all pairs, in tiles of 64, 128 or 256 rows (see `prefill_rows_a_tile`).
        experts: of the layer; hidden and intermediate size multiples of 64, hidden at least 256,
            intermediate at least 128.
        alpha: of the gate's sigmoid.
        limit: clamp of gate and up.
        config: for measurements; the groups decide if left out.

    Returns:
        bfloat16 [tokens * k, hidden], row token * k + choice, biases included.

    Raises:
        ValueError: tiles of another size, or larger than the configuration wants.
    """
    config = config or default_config(groups.rows_a_tile)
    h = gate_up_many(normed, groups, experts, alpha, limit, config=config)
    pairs = len(groups.pair_of_row)
    kernels = _kernels_for(normed, groups, experts, config)
    y = torch.empty(pairs, experts.hidden, dtype=torch.bfloat16, device=normed.device)
    kernels.down(
        (kernels.blocks,),
        experts.down_blocks.data_ptr(),
        experts.down_scales.data_ptr(),
        experts.down_bias.data_ptr(),
        h.data_ptr(),
        groups.pair_of_row.data_ptr(),
        groups.work.data_ptr(),
        groups.num_work.data_ptr(),
        y.data_ptr(),
        experts.down_gain,
    )
    return y


def gate_up_many(
    normed: Tensor,
    groups: Groups,
    experts: HopperExperts,
    alpha: float,
    limit: float,
    *,
    config: PrefillConfig | None = None,
) -> Tensor:
    """The first half of `experts_many`: h, in the order in which the second half reads it.

    A tile of n rows of expert e, padded to p = padded_rows(n, config), begins at row
    first_row + 127 e of [rows, intermediate], and is laid out as [intermediate / 64, p, 64]; in
    each row of 64 values the eight groups of eight stand at places group ^ (row % 8).

    Returns:
        bfloat16 [hidden_rows(pairs, experts), intermediate]; rows of no tile are not written.
    """
    if groups.rows_a_tile not in (64, 128, ROWS_A_TILE):
        raise ValueError(f"Prefill works on tiles of {ROWS_A_TILE} rows, not {groups.rows_a_tile}.")
    config = config or default_config(groups.rows_a_tile)
    if groups.rows_a_tile > config.rows:
        raise ValueError(f"Tiles have {groups.rows_a_tile} rows, more than {config.rows}.")
    kernels = _kernels_for(normed, groups, experts, config)
    assert normed.dtype == experts.gate_up_bias.dtype == experts.down_bias.dtype == torch.bfloat16
    assert normed.is_contiguous()
    assert normed.shape[1] == experts.hidden
    rows = hidden_rows(len(groups.pair_of_row), experts.num_experts)
    x = _placed(kernels, normed, groups, rows) if config.placed else normed
    h = torch.empty(rows, experts.intermediate, dtype=torch.bfloat16, device=normed.device)
    kernels.gate_up(
        (kernels.blocks,),
        experts.gate_up_blocks.data_ptr(),
        experts.gate_up_scales.data_ptr(),
        experts.gate_up_bias.data_ptr(),
        x.data_ptr(),
        groups.pair_of_row.data_ptr(),
        groups.work.data_ptr(),
        groups.num_work.data_ptr(),
        h.data_ptr(),
        experts.gate_up_gain,
        alpha,
        limit,
    )
    return h


def hidden_rows(pairs: int, num_experts: int) -> int:
    """Rows that h takes between the halves, of intermediate size * 2 bytes each."""
    return pairs + _PADDING * num_experts


def _placed(kernels: PrefillKernels, normed: Tensor, groups: Groups, rows: int) -> Tensor:
    """The rows of all tiles, [rows, hidden], laid out as h is (see `gate_up_many`)."""
    hidden = normed.shape[1]
    x = torch.empty(rows, hidden, dtype=torch.bfloat16, device=normed.device)
    kernels.place(
        (hidden // 64, len(groups.work)),
        normed.data_ptr(),
        groups.pair_of_row.data_ptr(),
        groups.work.data_ptr(),
        groups.num_work.data_ptr(),
        x.data_ptr(),
    )
    return x


def _kernels_for(
    normed: Tensor, groups: Groups, experts: HopperExperts, config: PrefillConfig
) -> PrefillKernels:
    k = len(groups.pair_of_row) // len(normed)
    index = normed.device.index
    assert index is not None
    return prefill_kernels(experts.hidden, experts.intermediate, k, config, index)


@functools.cache
def prefill_kernels(
    hidden: int, intermediate: int, k: int, config: PrefillConfig = DEFAULT, device_index: int = 0
) -> PrefillKernels:
    """Compile and load; call it at start-up, outside of any graph capture.

    Raises:
        CudaCompileError: there is no NVRTC, or it refuses.
        CudaDriverError: the device is not a Hopper GPU.
    """
    code = compile_cuda(
        source(),
        architecture="sm_90a",
        defines=defines(hidden, intermediate, k, config),
        name=_SOURCES[-1],
    )
    module = CudaModule(code, device_index)
    shared = config.shared_bytes
    processors = torch.cuda.get_device_properties(device_index).multi_processor_count
    return PrefillKernels(
        place=module.kernel("place_many", "PPPPP", block=_PLACE_THREADS),
        gate_up=module.kernel("gate_up_many", "PPPPPPPPfff", block=_THREADS, shared_bytes=shared),
        down=module.kernel("down_many", "PPPPPPPPf", block=_THREADS, shared_bytes=shared),
        blocks=processors - processors % config.cluster,
    )


def source() -> str:
    """The kernels' CUDA C++, whole; messages of the compiler name the file that a line is from."""
    folder = Path(__file__).parent
    files = ((name, (folder / name).read_text(encoding="utf-8")) for name in _SOURCES)
    return "".join(f'#line 1 "{name}"\n{text}' for name, text in files)


def defines(
    hidden: int, intermediate: int, k: int, config: PrefillConfig = DEFAULT
) -> dict[str, int | str]:
    """The macros that the source wants."""
    found: dict[str, int | str] = {
        "HIDDEN": hidden,
        "INTERMEDIATE": intermediate,
        "TOP_K": k,
        "MAX_ROWS": config.rows,
        "STAGES": config.stages,
        "CLUSTER": config.cluster,
        "DEPTH": config.depth,
        "PLACED": int(config.placed),
        "LAG": config.lag,
        "STAGGER": config.stagger,
    }
    if config.wait_limit_ns:
        found["WAIT_LIMIT_NS"] = f"{config.wait_limit_ns}ull"
    return found
