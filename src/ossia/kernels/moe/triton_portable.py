"""Mixture of experts from packed weights on any GPU that Triton knows (Ampere and later).

The formula is that of `reference.py`. Pairs of token and expert are sorted by expert on the device,
so nothing waits for the host and the whole can be captured in a CUDA graph:
    h = swiglu(x G^T + e)   [pairs, intermediate], in order of expert
    y = h D^T + d           [pairs, hidden], in order of tokens
    out = sum over a token's pairs of share * y

Bytes to move: the matrices of each expert in use once for each tile of its tokens, 4.25 bits a
weight, in the checkpoint's own order. A byte holds two neighbouring inputs, so the even and the odd
columns of x are multiplied apart: no shuffling of registers.

Launch shape: a program for each tile of TOKENS pairs of one expert and OUTPUTS rows of its matrix.
Weights are unpacked to x's type in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.moe.reference import run_experts as run_reference
from ossia.kernels.router.groups import Groups
from ossia.kernels.router.triton_combine import combine
from ossia.kernels.router.triton_groups import group
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

OUTPUTS = 64  # rows of a matrix in a program
BLOCKS = 4  # of 32 inputs, unpacked at a time
FEW, MANY = 16, 64  # pairs in a tile; 16 is the least a matrix instruction takes


def run_experts(
    x: Tensor, shares: Tensor, chosen: Tensor, experts: ExpertWeights, alpha: float, limit: float
) -> Tensor:
    """As in `reference.py`; unpacked experts go that way too."""
    gate_up, down = experts.gate_up, experts.down
    if not (isinstance(gate_up, Mxfp4Tensor) and isinstance(down, Mxfp4Tensor)):
        return run_reference(x, shares, chosen, experts, alpha, limit)
    tokens, k = chosen.shape
    num_experts, outputs, hidden = gate_up.shape
    tile = FEW if tokens * k <= FEW * num_experts else MANY
    groups = group(chosen.to(torch.int32), num_experts, tile)
    h = x.new_empty(tokens * k, outputs // 2)
    y = x.new_empty(tokens * k, hidden)
    _launch(x, gate_up, experts.gate_up_bias, h, groups, k, alpha, limit, swiglu=True)
    _launch(h, down, experts.down_bias, y, groups, k, alpha, limit, swiglu=False)
    out, _ = combine(torch.zeros_like(x), y, shares.to(torch.float32))
    return out


def _launch(
    x: Tensor,
    weight: Mxfp4Tensor,
    bias: Tensor,
    out: Tensor,
    groups: Groups,
    k: int,
    alpha: float,
    limit: float,
    *,
    swiglu: bool,
) -> None:
    _, rows, inputs = weight.shape
    _experts[(len(groups.work), triton.cdiv(rows, OUTPUTS))](
        x,
        weight.blocks,
        weight.scales,
        bias,
        out,
        groups.work,
        groups.num_work,
        groups.pair_of_row,
        alpha,
        limit,
        ROWS=rows,
        INPUTS=inputs,
        A_TOKEN=k,
        SWIGLU=swiglu,
        TOKENS=groups.rows_a_tile,
        OUTPUTS=OUTPUTS,
        BLOCKS=BLOCKS,
        num_warps=4,
        # Three stages of float32 exceed the 99 KB of shared memory that consumer GPUs have.
        num_stages=3 if x.element_size() == 2 else 2,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
    )


@triton.jit  # type: ignore[untyped-decorator]
def _experts(  # type: ignore[no-untyped-def]
    x_ptr,  # SWIGLU: [tokens, INPUTS], else [pairs, INPUTS] in order of rows
    block_ptr,  # uint8 [experts, ROWS, INPUTS / 32, 16]
    scale_ptr,  # uint8 [experts, ROWS, INPUTS / 32]
    bias_ptr,  # [experts, ROWS]
    out_ptr,  # SWIGLU: [pairs, ROWS / 2] in order of rows, else [pairs, ROWS] in order of pairs
    work_ptr,  # int32 [items, 4]
    num_work_ptr,  # int32 [1]
    pair_ptr,  # int32 [pairs]
    alpha,
    limit,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    A_TOKEN: tl.constexpr,  # experts a token
    SWIGLU: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    item = tl.program_id(0)
    if item >= tl.load(num_work_ptr):
        return
    expert = tl.load(work_ptr + item * 4).to(tl.int64)
    first = tl.load(work_ptr + item * 4 + 1)
    count = tl.load(work_ptr + item * 4 + 2)
    place = tl.arange(0, TOKENS)
    valid = place < count
    pair = tl.load(pair_ptr + first + place, mask=valid, other=0)
    source = (pair // A_TOKEN if SWIGLU else first + place).to(tl.int64)
    row = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    row_valid = row < ROWS
    matrix_row = expert * ROWS + row

    GROUPS: tl.constexpr = INPUTS // 32
    byte = tl.arange(0, BLOCKS * 16)
    total = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for start in range(0, GROUPS, BLOCKS):
        inside = start * 16 + byte < GROUPS * 16
        packed = tl.load(
            block_ptr + matrix_row[None, :] * (GROUPS * 16) + (start * 16 + byte)[:, None],
            mask=inside[:, None] & row_valid[None, :],
            other=0,
        ).to(tl.int32)  # [bytes, OUTPUTS]
        codes = tl.load(
            scale_ptr + matrix_row[None, :] * GROUPS + (start + byte // 16)[:, None],
            mask=inside[:, None] & row_valid[None, :],
            other=127,
        )
        scale = tl.exp2(codes.to(tl.float32) - 127.0)
        at = x_ptr + source[:, None] * INPUTS + (start * 32 + 2 * byte)[None, :]
        mask = valid[:, None] & inside[None, :]
        even = tl.load(at, mask=mask, other=0.0)
        odd = tl.load(at + 1, mask=mask, other=0.0)
        low = (_value(packed & 15) * scale).to(even.dtype)
        high = (_value(packed >> 4) * scale).to(even.dtype)
        total = tl.dot(even, low, total, input_precision=PRECISION)
        total = tl.dot(odd, high, total, input_precision=PRECISION)

    bias = tl.load(bias_ptr + matrix_row, mask=row_valid, other=0.0).to(tl.float32)
    total += bias[None, :]
    if SWIGLU:
        gate, up = tl.split(tl.reshape(total, [TOKENS, OUTPUTS // 2, 2]))
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
        result = gate / (1.0 + tl.exp(-alpha * gate)) * (up + 1.0)
        unit = tl.program_id(1) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
        target = out_ptr + (first + place).to(tl.int64)[:, None] * (ROWS // 2) + unit[None, :]
        mask = valid[:, None] & (unit < ROWS // 2)[None, :]
    else:
        result = total
        target = out_ptr + pair.to(tl.int64)[:, None] * ROWS + row[None, :]
        mask = valid[:, None] & row_valid[None, :]
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _value(code: tl.tensor) -> tl.tensor:
    """E2M1 as float32: sign, two bits of exponent with bias 1, one of mantissa."""
    magnitude = code & 7
    # Exponent and mantissa stand as in a float32; the exponent's bias grows from 1 to 127.
    normal = ((magnitude << 22) + (126 << 23)).to(tl.float32, bitcast=True)
    value = tl.where(magnitude < 2, magnitude.to(tl.float32) * 0.5, normal)
    return tl.where(code >= 8, -value, value)
