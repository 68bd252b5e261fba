"""Matrices in the native library's order, and how they get into it.

The order is described in ossia_cpu.h: rows in groups of 16, so that one load of 64 bytes has the
next inputs of 16 rows and no sum across a register is ever needed.
"""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.kernels.native.library import Context, Matrix
from ossia.mxfp4 import BLOCK, Mxfp4Tensor

GROUP = 16  # rows that stand together
ALIGNMENT = 64  # bytes
_LARGE_PAGE = 2**21  # bytes


class Kind(enum.IntEnum):
    """How weights are stored."""

    MXFP4 = 1  # 4.25 bits a weight
    INT8 = 2  # 8.5 bits: 8-bit values, a bfloat16 scale for each 32 inputs of a row
    BF16 = 3  # 16 bits


@dataclass(frozen=True, slots=True)
class NativeMatrix:
    """`count` matrices [rows, inputs] of one kind; experts have count > 1, all else 1."""

    kind: Kind
    count: int
    rows: int
    inputs: int  # a multiple of 32
    values: Tensor  # uint8 [count, value_bytes]
    scales: Tensor | None  # uint8 [count, scale_bytes]; none for BF16
    bias: Tensor | None  # float32 [count, rows]

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.numel() + (0 if self.scales is None else self.scales.numel())

    def pointers(self) -> Matrix:
        """The C struct; it points into these tensors and does not keep them alive."""
        return Matrix(
            kind=int(self.kind),
            count=self.count,
            rows=self.rows,
            inputs=self.inputs,
            values=self.values.data_ptr(),
            scales=None if self.scales is None else self.scales.data_ptr(),
            bias=None if self.bias is None else self.bias.data_ptr(),
        )


def storage_bytes(context: Context, kind: Kind, rows: int, inputs: int) -> tuple[int, int]:
    """Bytes of values and of scales of one matrix; both are multiples of 16.

    Raises:
        ValueError: the inputs are no multiple of 32.
    """
    library = context.library
    values = int(library.ossia_value_bytes(int(kind), rows, inputs))
    if values <= 0:
        raise ValueError(
            f"A matrix needs inputs that are a multiple of {BLOCK}, not {rows} x {inputs}."
        )
    return values, int(library.ossia_scale_bytes(int(kind), rows, inputs))


def empty_matrix(
    context: Context, kind: Kind, count: int, rows: int, inputs: int, bias: Tensor | None = None
) -> NativeMatrix:
    """Room for `count` matrices, to be filled by the `pack_` functions; bias [count, rows]."""
    value_bytes, scale_bytes = storage_bytes(context, kind, rows, inputs)
    return NativeMatrix(
        kind,
        count,
        rows,
        inputs,
        aligned_empty(context, count * value_bytes).view(count, value_bytes),
        aligned_empty(context, count * scale_bytes).view(count, scale_bytes)
        if scale_bytes
        else None,
        None if bias is None else bias.to(torch.float32).reshape(count, rows).contiguous(),
    )


def aligned_empty(context: Context, size: int) -> Tensor:
    """uint8 [size], not initialised, at a multiple of 64, on large pages where it is large."""
    alignment = _LARGE_PAGE if size >= 2 * _LARGE_PAGE else ALIGNMENT
    room = torch.empty(size + alignment, dtype=torch.uint8)
    start = -room.data_ptr() % alignment
    aligned = room[start : start + size]
    if alignment == _LARGE_PAGE:
        # Only advice: where the system does not agree, everything works, slower.
        context.library.ossia_advise_huge(aligned.data_ptr(), size)
    return aligned


def pack_experts(context: Context, weight: Mxfp4Tensor, bias: Tensor | None) -> NativeMatrix:
    """weight: [experts, rows, inputs] as in checkpoints, bias [experts, rows] or none."""
    count, rows, inputs = weight.shape
    packed = empty_matrix(context, Kind.MXFP4, count, rows, inputs, bias)
    for number in range(count):
        pack_mxfp4_into(context, weight[number], packed, number)
    return packed


def pack_mxfp4_into(context: Context, weight: Mxfp4Tensor, into: NativeMatrix, number: int) -> None:
    """Put `weight`, [rows, inputs], at place `number` of `into`."""
    rows, inputs = weight.shape
    if (into.kind, into.rows, into.inputs) != (Kind.MXFP4, rows, inputs) or into.scales is None:
        raise ValueError(f"MXFP4 [{rows}, {inputs}] does not fit into {into.kind.name} matrices.")
    blocks, codes = weight.blocks.contiguous(), weight.scales.contiguous()
    _check(
        context.library.ossia_pack_mxfp4(
            context.handle,
            blocks.data_ptr(),
            codes.data_ptr(),
            rows,
            inputs,
            into.values[number].data_ptr(),
            into.scales[number].data_ptr(),
        )
    )


def pack_dense(
    context: Context, weight: Tensor, bias: Tensor | None = None, kind: Kind = Kind.INT8
) -> NativeMatrix:
    """weight: any float type [rows, inputs], bias [rows] or none -> a matrix of count 1.

    INT8 gives each 32 inputs of a row a scale of their own, a bfloat16 not less than the largest
    magnitude / 127, and rounds to the nearest. Weights pass through bfloat16, which they have in
    checkpoints.

    Raises:
        ValueError: the inputs are no multiple of 32, or `kind` is MXFP4.
    """
    rows, inputs = weight.shape
    packed = empty_matrix(context, kind, 1, rows, inputs, bias)
    source = weight.to(torch.bfloat16).contiguous()
    library = context.library
    if kind is Kind.BF16:
        target = packed.values.data_ptr()
        _check(library.ossia_pack_bf16(context.handle, source.data_ptr(), rows, inputs, target))
    elif kind is Kind.INT8 and packed.scales is not None:
        _check(
            library.ossia_pack_int8(
                context.handle,
                source.data_ptr(),
                rows,
                inputs,
                packed.values.data_ptr(),
                packed.scales.data_ptr(),
            )
        )
    else:
        raise ValueError("Dense matrices are INT8 or BF16.")
    return packed


def _check(code: int) -> None:
    if code:
        raise ValueError(f"The CPU library refused a matrix (code {ctypes.c_int(code).value}).")
