"""The experts of a decoding step on Hopper, from MXFP4 in the layout of `hopper_layout.py`.

`experts_one` serves one token and finds its experts itself; `experts_few` serves up to a hundred
or so tokens whose pairs were sorted by expert (`router/groups.py`). The formulas, the bytes they
move and the launch shapes stand at the top of `cuda_decode_one.cu` and `cuda_decode_few.cu`.

Call each once before capturing a CUDA graph: the first call compiles or loads the kernels.
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
from ossia.kernels.moe.hopper_layout import CHUNK, TILE, HopperExperts
from ossia.kernels.router.groups import Groups, max_work

ARCHITECTURE = "sm_90a"
ROWS_A_TILE = (8, 16, 32)  # what a work item may have at most
_WARP = 32
_SHARED_BYTES = 227 << 10  # that a block of Hopper can have, at most
_STATIC_BYTES = 1 << 10  # of them, left for static shared memory


@dataclass(frozen=True, slots=True)
class OneConfig:
    """How `experts_one` is launched; warps must divide the chunks of 64 columns."""

    up_warps: int = 9
    up_depth: int = 5  # 16-byte loads of weights that a lane has in flight
    down_warps: int = 5  # for each expert
    down_depth: int = 9
    down_cluster: int = 2  # blocks that share the experts of a tile
    up_blocks: int = 0  # of a multiprocessor, that registers must suffice for; 0: compiler's choice


@dataclass(frozen=True, slots=True)
class FewConfig:
    """How `experts_few` is launched."""

    rows_a_tile: int  # most rows of a work item, one of ROWS_A_TILE
    warps_m: int  # warps side by side along the weight rows
    warps_k: int  # warps that share the columns of the same weight rows
    tiles: int  # of 16 weight rows, of a warp
    chunks: int  # of 64 columns in a stage; must divide the chunks of both matrices
    stages: int
    blocks_a_sm: int = 1
    scale_steps: int = 1  # stages whose scales are copied at once; must divide those of a unit

    @property
    def threads(self) -> int:
        """Of a block: warps that multiply, one that copies weights, one or two that copy rows."""
        copying = 1 + (2 if self.rows_a_tile > 16 else 1)
        return (self.warps_m * self.warps_k + copying) * _WARP

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: the ring, then scales, then the partial sums."""
        block_tiles = self.warps_m * self.tiles
        weights = block_tiles * self.chunks * _WARP * 16
        stage = weights + self.rows_a_tile * (self.chunks * CHUNK * 2 + 16)
        slots = math.ceil((self.stages - 1) / self.scale_steps) + 1
        scales = slots * block_tiles * self.scale_steps * self.chunks * 32
        partial = (self.warps_k - 1) * block_tiles * self.rows_a_tile * 64
        return self.stages * stage + scales + partial

    def fits(self, hidden: int, intermediate: int) -> bool:
        """Whether the columns divide into stages and slots, and these fit the machine."""
        space = self.blocks_a_sm * (self.shared_bytes + _STATIC_BYTES)
        chunks = math.gcd(hidden, intermediate) // CHUNK
        return chunks % (self.chunks * self.scale_steps) == 0 and space <= _SHARED_BYTES


def rows_a_tile(tokens: int, k: int, num_experts: int) -> int:
    """The `rows_a_tile` for `group`: room for three standard deviations above the mean load.

    A second work item of an expert unpacks the expert's weights again; room that an item does not
    use costs only shared memory. So few sizes, of which each is compiled, are enough.
    """
    mean = tokens * k / num_experts
    wanted = mean + 3 * math.sqrt(mean)
    return next((n for n in ROWS_A_TILE if wanted <= n), ROWS_A_TILE[-1])


def few_config(rows: int, hidden: int, intermediate: int) -> FewConfig:
    """The launch of `experts_few` for work items of at most `rows` rows."""
    wanted = {
        8: FewConfig(8, 8, 1, 1, 5, 6, 1, 9),
        16: FewConfig(16, 8, 1, 1, 5, 6, 1, 9),
        32: FewConfig(32, 8, 1, 1, 5, 5, 1, 9),
    }[rows]
    if wanted.fits(hidden, intermediate):
        return wanted
    return FewConfig(rows, 4, 1, wanted.tiles, 1, 4)


def experts_one(
    x: Tensor,
    normed: Tensor,
    logits: Tensor,
    experts: HopperExperts,
    k: int,
    alpha: float,
    limit: float,
    *,
    config: OneConfig | None = None,
    pdl: bool = True,
) -> Tensor:
    """x + the mixture of the k experts with the largest logits, for one token.

    Args:
        x: bf16 [1, hidden], the residual stream.
        normed: bf16 [1, hidden], what the experts see; magnitudes below 2^27.
        logits: float32 [experts] of the router; of equal ones the lower number wins. They must
            have been written before the kernel that comes just before this call, or by it.
        experts: on the same device.
        k: experts of a token.
        alpha: of the gate's sigmoid.
        limit: clamp of gate and up.
        config: another launch shape.
        pdl: launch dependently (see `CudaModule.kernel`).

    Returns:
        bf16 [1, hidden]. The hidden activations are rounded to bf16, all sums are float32.

    Raises:
        ValueError: a type or shape that the kernels do not take.
        CudaCompileError, CudaDriverError: the kernels cannot be built or started.
    """
    hidden, intermediate = experts.hidden, experts.intermediate
    _check_bf16(x, (1, hidden), "x")
    _check_bf16(normed, (1, hidden), "normed")
    if logits.dtype != torch.float32 or logits.numel() != experts.num_experts:
        raise ValueError(f"logits must be float32 [{experts.num_experts}].")
    config = config or OneConfig()
    gate_up, down = _one_kernels(
        hidden, intermediate, experts.num_experts, k, config, pdl, x.device.index
    )
    h = torch.empty(k, intermediate, dtype=torch.bfloat16, device=x.device)
    out = torch.empty_like(x)
    logits_at, h_at = logits.data_ptr(), h.data_ptr()
    gate_up(
        (k * (2 * intermediate // TILE),),
        experts.gate_up_blocks.data_ptr(),
        experts.gate_up_scales.data_ptr(),
        experts.gate_up_bias.data_ptr(),
        normed.data_ptr(),
        logits_at,
        h_at,
        experts.gate_up_gain,
        alpha,
        limit,
    )
    down(
        (hidden // TILE * config.down_cluster,),
        experts.down_blocks.data_ptr(),
        experts.down_scales.data_ptr(),
        experts.down_bias.data_ptr(),
        h_at,
        logits_at,
        x.data_ptr(),
        out.data_ptr(),
        experts.down_gain,
    )
    return out


def experts_few(
    normed: Tensor,
    groups: Groups,
    experts: HopperExperts,
    alpha: float,
    limit: float,
    *,
    config: FewConfig | None = None,
    pdl: bool = True,
) -> Tensor:
    """The outputs of all chosen experts, unweighted, with their biases.

    Args:
        normed: bf16 [tokens, hidden].
        groups: of the tokens' pairs, with a size of `ROWS_A_TILE` (see `rows_a_tile`). They
            must have been written before the kernel that comes just before this call, or by it.
        experts: on the same device.
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
    hidden, intermediate, num_experts = experts.hidden, experts.intermediate, experts.num_experts
    tokens, pairs = len(normed), len(groups.pair_of_row)
    _check_bf16(normed, (tokens, hidden), "normed")
    config = config or few_config(groups.rows_a_tile, hidden, intermediate)
    if config.rows_a_tile != groups.rows_a_tile:
        raise ValueError(
            f"The pairs were grouped by {groups.rows_a_tile} rows, not by {config.rows_a_tile}."
        )
    gate_up, down = _few_kernels(
        hidden, intermediate, pairs // tokens, config, pdl, normed.device.index
    )
    h = torch.empty(pairs, intermediate, dtype=torch.bfloat16, device=normed.device)
    y = torch.empty(pairs, hidden, dtype=torch.bfloat16, device=normed.device)
    items = max_work(pairs, num_experts, config.rows_a_tile)
    blocks = _multiprocessors(normed.device.index) * config.blocks_a_sm
    h_at = h.data_ptr()
    plan = (
        groups.pair_of_row.data_ptr(),
        groups.work.data_ptr(),
        groups.num_work.data_ptr(),
    )
    gate_up(
        (min(blocks, items * (2 * intermediate // TILE)),),
        experts.gate_up_blocks.data_ptr(),
        experts.gate_up_scales.data_ptr(),
        experts.gate_up_bias.data_ptr(),
        normed.data_ptr(),
        *plan,
        h_at,
        experts.gate_up_gain,
        alpha,
        limit,
    )
    down(
        (min(blocks, items * (hidden // TILE)),),
        experts.down_blocks.data_ptr(),
        experts.down_scales.data_ptr(),
        experts.down_bias.data_ptr(),
        h_at,
        *plan,
        y.data_ptr(),
        experts.down_gain,
    )
    return y


def one_source(
    hidden: int, intermediate: int, num_experts: int, k: int, config: OneConfig
) -> tuple[str, dict[str, int]]:
    """What `experts_one` compiles: text and macros."""
    for columns, warps in ((hidden, config.up_warps), (intermediate, config.down_warps)):
        if columns % (CHUNK * warps):
            raise ValueError(f"{columns} columns do not divide into chunks for {warps} warps.")
    if k % config.down_cluster or k > num_experts:
        raise ValueError(f"{k} experts do not divide into clusters of {config.down_cluster}.")
    return _source("cuda_decode_one.cu"), {
        "HIDDEN": hidden,
        "INTERMEDIATE": intermediate,
        "EXPERTS": num_experts,
        "TOPK": k,
        "UP_WARPS": config.up_warps,
        "UP_BLOCKS": config.up_blocks,
        "UP_DEPTH": min(config.up_depth, hidden // CHUNK // config.up_warps),
        "DOWN_WARPS": config.down_warps,
        "DOWN_DEPTH": min(config.down_depth, intermediate // CHUNK // config.down_warps),
        "DOWN_CLUSTER": config.down_cluster,
    }


def few_source(
    hidden: int, intermediate: int, k: int, config: FewConfig
) -> tuple[str, dict[str, int]]:
    """What `experts_few` compiles: text and macros."""
    if config.rows_a_tile not in ROWS_A_TILE or not config.fits(hidden, intermediate):
        raise ValueError(f"{config} does not fit hidden {hidden}, intermediate {intermediate}.")
    return _source("cuda_decode_parts.cu", "cuda_decode_few.cu"), {
        "HIDDEN": hidden,
        "INTERMEDIATE": intermediate,
        "TOPK": k,
        "N": config.rows_a_tile,
        "WARPS_M": config.warps_m,
        "WARPS_K": config.warps_k,
        "TILES": config.tiles,
        "CHUNKS": config.chunks,
        "STAGES": config.stages,
        "SCALE_STEPS": config.scale_steps,
        "BLOCKS_A_SM": config.blocks_a_sm,
    }


@functools.cache
def _one_kernels(
    hidden: int,
    intermediate: int,
    num_experts: int,
    k: int,
    config: OneConfig,
    pdl: bool,
    device_index: int,
) -> tuple[CudaKernel, CudaKernel]:
    source, defines = one_source(hidden, intermediate, num_experts, k, config)
    code = compile_cuda(
        source, architecture=ARCHITECTURE, defines=defines, name="cuda_decode_one.cu"
    )
    module = CudaModule(code, device_index)
    threads = k // config.down_cluster * config.down_warps * _WARP
    return (
        module.kernel("one_gate_up", "PPPPPPfff", block=config.up_warps * _WARP, pdl=pdl),
        module.kernel("one_down", "PPPPPPPf", block=threads, pdl=pdl),
    )


@functools.cache
def _few_kernels(
    hidden: int, intermediate: int, k: int, config: FewConfig, pdl: bool, device_index: int
) -> tuple[CudaKernel, CudaKernel]:
    source, defines = few_source(hidden, intermediate, k, config)
    code = compile_cuda(
        source, architecture=ARCHITECTURE, defines=defines, name="cuda_decode_few.cu"
    )
    module = CudaModule(code, device_index)

    def kernel(name: str, arguments: str) -> CudaKernel:
        return module.kernel(
            name, arguments, block=config.threads, shared_bytes=config.shared_bytes, pdl=pdl
        )

    return kernel("few_gate_up", "PPPPPPPPfff"), kernel("few_down", "PPPPPPPPf")


@functools.cache
def _multiprocessors(device_index: int) -> int:
    return torch.cuda.get_device_properties(device_index).multi_processor_count


@functools.cache
def _source(*names: str) -> str:
    folder = resources.files("ossia.kernels.moe")
    return "".join(folder.joinpath(name).read_text() for name in ("cuda_common.cu", *names))


def _check_bf16(tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tensor.dtype != torch.bfloat16 or tensor.shape != shape or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous bfloat16 {list(shape)}, not {tensor.dtype} "
            f"{list(tensor.shape)}."
        )
