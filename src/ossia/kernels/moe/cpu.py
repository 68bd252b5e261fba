"""Mixture of experts on a CPU: tokens sorted by expert, and no dependence on the batch.

The formula is that of `reference.py`. Every (token, expert) pair gets a row; the rows of an expert
stand together, padded to a multiple of ROWS so that a row's bits do not depend on how many there
are (see `linear/cpu.py`). Unpacked experts are one grouped product for all of them. Packed ones are
unpacked one at a time and used at once, which is bound by unpacking: 25 million values an expert
in gpt-oss-20b. The outputs of a token are added in the order of its shares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.linear.cpu import ROWS
from ossia.kernels.moe.reference import matrix, swiglu
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

_ALIGNMENT = 16  # bytes; the grouped product wants rows to start at multiples of this


def run_experts(
    x: Tensor, shares: Tensor, chosen: Tensor, experts: ExpertWeights, alpha: float, limit: float
) -> Tensor:
    """As in `reference.py`."""
    tokens, per_token = chosen.shape
    expert = chosen.flatten()  # [pairs]
    counts = torch.bincount(expert, minlength=len(experts.gate_up_bias))  # [experts]
    padded = (counts + (ROWS - 1)) // ROWS * ROWS
    ends = padded.cumsum(0)
    sorted_expert, order = expert.sort(stable=True)
    # Sorted pair i is number i - (pairs before its expert) of its expert.
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    sorted_row = torch.arange(len(expert), device=x.device) + shift.index_select(0, sorted_expert)
    row = torch.empty_like(order).index_copy_(0, order, sorted_row)  # [pairs], in their order
    rows = int(ends[-1])
    expert_of_row = torch.bucketize(torch.arange(rows, device=x.device), ends, right=True)

    # inputs: [rows, hidden], zero where no pair is
    copies = x.unsqueeze(1).expand(-1, per_token, -1).flatten(0, 1)
    inputs = x.new_zeros(rows, x.shape[1]).index_copy_(0, row, copies)
    run = _grouped if _can_group(experts) else _one_by_one
    gate_up = run(inputs, experts.gate_up, ends)
    gate_up += experts.gate_up_bias.index_select(0, expert_of_row)
    outputs = run(swiglu(gate_up, alpha, limit), experts.down, ends)  # [rows, hidden]
    outputs += experts.down_bias.index_select(0, expert_of_row)

    mixed = outputs.index_select(0, row).view(tokens, per_token, x.shape[1]).to(shares.dtype)
    mixed *= shares.unsqueeze(-1)
    return mixed.sum(dim=1).to(x.dtype)


def _can_group(experts: ExpertWeights) -> bool:
    return all(
        isinstance(weight, Tensor)
        and weight.dtype in (torch.float32, torch.bfloat16)
        and all(size * weight.dtype.itemsize % _ALIGNMENT == 0 for size in weight.shape[1:])
        for weight in (experts.gate_up, experts.down)
    )


def _grouped(rows: Tensor, weight: Mxfp4Tensor | Tensor, ends: Tensor) -> Tensor:
    """rows: [rows, inputs], those up to ends[e] with weight[e] [outputs, inputs]."""
    assert isinstance(weight, Tensor)
    return torch.nn.functional.grouped_mm(rows, weight.transpose(1, 2), offs=ends.to(torch.int32))


def _one_by_one(rows: Tensor, weight: Mxfp4Tensor | Tensor, ends: Tensor) -> Tensor:
    out = rows.new_empty(len(rows), weight.shape[-2])
    begin = 0
    for expert, end in enumerate(ends.tolist()):
        if end > begin:
            out[begin:end] = rows[begin:end] @ matrix(weight, expert, rows.dtype).T
        begin = end
    return out
