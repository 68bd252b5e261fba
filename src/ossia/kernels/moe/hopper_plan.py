"""Which of the expert kernels for Hopper runs for a number of tokens, and with which work items.

What decides is how many rows an expert gets on average: few are bound by the bytes of the weights
and stream them through mma.sync; from about a dozen on its arithmetic is the limit, and wgmma takes
over; hundreds want tiles of tokens that are as large as those of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from ossia.config import ModelConfig
from ossia.kernels.cuda.compiler import compile_cuda
from ossia.kernels.moe.cuda_decode import (
    ARCHITECTURE,
    experts_few,
    few_config,
    few_source,
    rows_a_tile,
)
from ossia.kernels.moe.cuda_decode_mid import experts_mid, mid_config, mid_rows_a_tile, mid_source
from ossia.kernels.moe.cuda_prefill import default_config, experts_many, prefill_rows_a_tile
from ossia.kernels.moe.cuda_prefill import defines as prefill_defines
from ossia.kernels.moe.cuda_prefill import source as prefill_source
from ossia.kernels.moe.hopper_layout import HopperExperts
from ossia.kernels.router.groups import Groups
from ossia.kernels.thresholds import EXPERTS_FEW_ROWS, EXPERTS_MID_ROWS

_COMPILERS = 8  # threads; a kernel takes one to five seconds where it is not in the cache


class Kind(Enum):
    """The kernels for two and more tokens."""

    FEW = "cuda_decode_few.cu"
    MID = "cuda_decode_mid.cu"
    MANY = "cuda_prefill.cu"


@dataclass(frozen=True, slots=True)
class ExpertsPlan:
    """How the experts of a step run."""

    kind: Kind
    rows_a_tile: int  # of the groups


def plan_experts(tokens: int, k: int, num_experts: int) -> ExpertsPlan:
    """For a step of two or more tokens with `k` of `num_experts` experts each."""
    rows = tokens * k / num_experts
    if rows <= EXPERTS_FEW_ROWS:
        return ExpertsPlan(Kind.FEW, rows_a_tile(tokens, k, num_experts))
    if rows <= EXPERTS_MID_ROWS:
        return ExpertsPlan(Kind.MID, mid_rows_a_tile(tokens, k, num_experts))
    return ExpertsPlan(Kind.MANY, prefill_rows_a_tile(tokens * k, num_experts))


def run_plan(
    plan: ExpertsPlan,
    normed: Tensor,
    groups: Groups,
    experts: HopperExperts,
    alpha: float,
    limit: float,
    *,
    pdl: bool,
) -> Tensor:
    """Each chosen expert's answer, not weighted: bf16 [tokens * k, hidden]; see `experts_few`.

    Args:
        plan: of this number of tokens, by which `groups` was made.
        normed, groups, experts, alpha, limit: as for the kernels.
        pdl: launch before the kernel ahead has ended, where the kernel can.
    """
    if plan.kind is Kind.FEW:
        return experts_few(normed, groups, experts, alpha, limit, pdl=pdl)
    if plan.kind is Kind.MID:
        return experts_mid(normed, groups, experts, alpha, limit, pdl=pdl)
    return experts_many(normed, groups, experts, alpha, limit)


def all_plans(max_tokens: int, k: int, num_experts: int) -> dict[ExpertsPlan, int]:
    """Every plan that steps of 2 to `max_tokens` tokens have, with the fewest tokens that do."""
    found: dict[ExpertsPlan, int] = {}
    for tokens in range(2, max_tokens + 1):
        found.setdefault(plan_experts(tokens, k, num_experts), tokens)
    return found


def compile_plans(model: ModelConfig, max_tokens: int) -> None:
    """Compile the kernels of all plans side by side, into the cache where they are looked for.

    Raises:
        CudaCompileError: one cannot be built.
    """
    hidden, inner, k = model.hidden_size, model.intermediate_size, model.experts_per_token

    def compile_one(plan: ExpertsPlan) -> None:
        rows = plan.rows_a_tile
        macros: Mapping[str, int | str]
        if plan.kind is Kind.FEW:
            text, macros = few_source(hidden, inner, k, few_config(rows, hidden, inner))
        elif plan.kind is Kind.MID:
            text, macros = mid_source(hidden, inner, k, mid_config(rows, hidden, inner))
        else:
            text = prefill_source()
            macros = prefill_defines(hidden, inner, k, default_config(rows))
        compile_cuda(text, architecture=ARCHITECTURE, defines=macros, name=plan.kind.value)

    with ThreadPoolExecutor(_COMPILERS) as pool:
        list(pool.map(compile_one, all_plans(max_tokens, k, model.num_experts)))
