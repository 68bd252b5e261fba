"""Routing and grouping on Hopper in CUDA C++, for any number of tokens from two on.

The formulas, the bytes they move and the launch shapes stand at the top of `cuda_route.cu` and
`cuda_route_fused.cu`. Up to `FUSED_TOKENS` tokens can take one launch. Up to `ONE_BLOCK_TOKENS`
take two: norm and logits, then choice and grouping in one block. More take three, as choice and
grouping are spread over blocks of `PART` tokens.

Call it once before capturing a CUDA graph: the first call compiles or loads the kernels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from ossia.kernels.cuda.compiler import compile_cuda
from ossia.kernels.cuda.module import CudaKernel, CudaModule
from ossia.kernels.router.groups import Groups, max_work
from ossia.kernels.router.reference import Routed
from ossia.kernels.thresholds import ROUTE_FUSED_TOKENS

# As in `cuda_route.cu`.
ROWS = 16
TOKENS = 8
PIECE = 32
ONE_BLOCK_TOKENS = 512
PART = 128
FUSED_TOKENS = 256
MOST_TILES = 4

MOST_WARPS = 16  # of a block of logits; more leave too few registers for each
MOST_PIECES = 6  # of a warp: what it keeps in registers
MOST_EXPERTS = 128
SMALL_BLOCK_TOKENS = 64  # up to here, a block that chooses has fewer warps, which meet sooner
SMALL_BLOCK, LARGE_BLOCK = 512, 1024


@dataclass(frozen=True, slots=True)
class _Kernels:
    logits: CudaKernel
    choose: CudaKernel
    choose_small: CudaKernel
    choose_part: CudaKernel
    place: CudaKernel
    fused: CudaKernel
    finished: Tensor  # int32 [1], what `fused` counts in; 0 between launches
    multiprocessors: int


def fits(x: Tensor, experts: int, k: int) -> bool:
    """Whether the kernels take these rows and a router of so many experts."""
    return (
        x.is_cuda
        and x.dtype == torch.bfloat16
        and x.shape[1] % PIECE == 0
        and x.shape[1] // PIECE <= MOST_PIECES * logit_warps(x.shape[1])
        and experts % ROWS == 0
        and k <= experts <= MOST_EXPERTS
        and torch.cuda.get_device_capability(x.device) >= (9, 0)
    )


def logit_warps(hidden: int) -> int:
    """Warps that share the columns of a row evenly."""
    pieces = hidden // PIECE
    return max(warps for warps in range(1, MOST_WARPS + 1) if pieces % warps == 0)


def route_and_group_cuda(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    k: int,
    rows_a_tile: int,
    *,
    pdl: bool = False,
    fused: bool | None = None,
) -> tuple[Routed, Groups]:
    """`reference.route` and `groups.group`; work items past `num_work` are left as they were.

    Args:
        x: bf16 [tokens, hidden]. All tensors are contiguous, and `fits` holds.
        norm, weight, bias, eps, k: see `reference.route`; bf16.
        rows_a_tile: the most rows of a work item.
        pdl: launch before the kernels ahead have ended.
        fused: all in one launch, of up to `FUSED_TOKENS` tokens; None: where that is faster. Not
            on two streams at once: launches of it count in the same place.

    Raises:
        CudaCompileError, CudaDriverError: the kernels cannot be built or started.
    """
    tokens, hidden = x.shape
    experts = len(weight)
    device = x.device
    assert fits(x, experts, k)
    assert norm.dtype == weight.dtype == bias.dtype == x.dtype
    assert weight.shape == (experts, hidden)
    run = _kernels(hidden, experts, k, pdl, device.index)
    normed = torch.empty_like(x)
    shares = torch.empty((tokens, k), dtype=torch.float32, device=device)
    chosen = torch.empty((tokens, k), dtype=torch.int32, device=device)
    pairs = tokens * k
    items = max_work(pairs, experts, rows_a_tile)
    groups = Groups(
        offsets=torch.empty(experts + 1, dtype=torch.int32, device=device),
        pair_of_row=torch.empty(pairs, dtype=torch.int32, device=device),
        work=torch.empty((items, 4), dtype=torch.int32, device=device),
        num_work=torch.empty(1, dtype=torch.int32, device=device),
        rows_a_tile=rows_a_tile,
    )
    sorts = (
        groups.offsets.data_ptr(),
        groups.pair_of_row.data_ptr(),
        groups.work.data_ptr(),
        groups.num_work.data_ptr(),
    )
    blocks = experts // ROWS
    tiles = -(-tokens // TOKENS)
    grid = (blocks, min(tiles, max(1, run.multiprocessors // blocks)))
    inputs = tuple(tensor.data_ptr() for tensor in (x, norm, weight, bias, normed))
    if fused is None:
        fused = tokens in ROUTE_FUSED_TOKENS
    if fused:
        assert tokens <= FUSED_TOKENS
        assert tiles <= MOST_TILES * grid[1]
        run.fused(
            grid,
            *inputs,
            shares.data_ptr(),
            chosen.data_ptr(),
            *sorts,
            run.finished.data_ptr(),
            tokens,
            rows_a_tile,
            eps,
        )
        return Routed(normed, shares, chosen), groups
    logits = torch.empty((tokens, experts), dtype=torch.float32, device=device)
    run.logits(grid, *inputs, logits.data_ptr(), tokens, eps)
    choices = (logits.data_ptr(), shares.data_ptr(), chosen.data_ptr())
    if tokens <= ONE_BLOCK_TOKENS:
        choose = run.choose_small if tokens <= SMALL_BLOCK_TOKENS else run.choose
        choose((1,), *choices, *sorts, tokens, rows_a_tile)
    else:
        parts = -(-tokens // PART)
        counts = torch.empty((parts, experts), dtype=torch.int32, device=device)
        run.choose_part((parts,), *choices, counts.data_ptr(), tokens)
        run.place((parts,), chosen.data_ptr(), counts.data_ptr(), *sorts, tokens, rows_a_tile)
    return Routed(normed, shares, chosen), groups


def route_source(hidden: int, experts: int, k: int) -> tuple[str, dict[str, int]]:
    """What is compiled: text and macros."""
    common = resources.files("ossia.kernels.moe").joinpath("cuda_common.cu").read_text()
    own = resources.files("ossia.kernels.router")
    parts = (own.joinpath(name).read_text() for name in ("cuda_route.cu", "cuda_route_fused.cu"))
    return common + "".join(parts), {
        "HIDDEN": hidden,
        "EXPERTS": experts,
        "TOPK": k,
        "WARPS": logit_warps(hidden),
    }


@functools.cache
def _kernels(hidden: int, experts: int, k: int, pdl: bool, device_index: int) -> _Kernels:
    source, defines = route_source(hidden, experts, k)
    major, minor = torch.cuda.get_device_capability(device_index)
    code = compile_cuda(
        source, architecture=f"sm_{major}{minor}", defines=defines, name="cuda_route.cu"
    )
    module = CudaModule(code, device_index)

    def kernel(name: str, arguments: str, block: int) -> CudaKernel:
        return module.kernel(name, arguments, block=block, pdl=pdl)

    return _Kernels(
        logits=kernel("route_logits", "PPPPPPif", defines["WARPS"] * 32),
        choose=kernel("route_choose", "PPPPPPPii", LARGE_BLOCK),
        choose_small=kernel("route_choose", "PPPPPPPii", SMALL_BLOCK),
        choose_part=kernel("route_choose_part", "PPPPi", LARGE_BLOCK),
        place=kernel("route_place", "PPPPPPii", PART * k),
        fused=kernel("route_fused", "PPPPPPPPPPPPiif", defines["WARPS"] * 32),
        finished=torch.zeros(1, dtype=torch.int32, device=f"cuda:{device_index}"),
        multiprocessors=torch.cuda.get_device_properties(device_index).multi_processor_count,
    )
