"""Products of the native library on torch tensors.

What holds for bits: without AMX, a token's result does not depend on the other tokens of a call,
on the number of threads, or on the run. With AMX that holds among products of few tokens and
among those of many (`ossia_cpu.h`), but the two kinds round differently: many tokens are multiplied
in bfloat16.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ossia.kernels.native.library import Context
from ossia.kernels.native.matrices import NativeMatrix


def linear(
    context: Context, x: Tensor, matrix: NativeMatrix, residual: Tensor | None = None
) -> Tensor:
    """x W^T + bias (+ residual).

    Args:
        context: threads and level.
        x: float32 [tokens, inputs].
        matrix: of count 1.
        residual: float32 [tokens, rows].

    Returns:
        float32 [tokens, rows].

    Raises:
        ValueError: a shape or type that does not fit.
    """
    _check_input(x, matrix.inputs)
    out = torch.empty(x.shape[0], matrix.rows)
    if residual is not None:
        _check_tensor("residual", residual, torch.float32, out.shape)
    code = context.library.ossia_linear(
        context.handle,
        x.data_ptr(),
        x.shape[0],
        ctypes.byref(matrix.pointers()),
        None if residual is None else residual.data_ptr(),
        out.data_ptr(),
    )
    _check_code(code)
    return out


def linear_top(
    context: Context, x: Tensor, matrix: NativeMatrix, top: int
) -> tuple[Tensor, Tensor]:
    """The largest of x W^T + bias of each token, without storing the others.

    Args:
        context: threads and level.
        x: float32 [tokens, inputs].
        matrix: of count 1.
        top: how many, 1 .. rows.

    Returns:
        values: float32 [tokens, top], largest first.
        rows: int32 [tokens, top]; the lower row first where values are equal.

    Raises:
        ValueError: a shape or type that does not fit.
    """
    _check_input(x, matrix.inputs)
    values = torch.empty(x.shape[0], top)
    rows = torch.empty(x.shape[0], top, dtype=torch.int32)
    code = context.library.ossia_linear_top(
        context.handle,
        x.data_ptr(),
        x.shape[0],
        ctypes.byref(matrix.pointers()),
        top,
        values.data_ptr(),
        rows.data_ptr(),
    )
    _check_code(code)
    return values, rows


def moe(
    context: Context,
    x: Tensor,
    shares: Tensor,
    chosen: Tensor,
    gate_up: NativeMatrix,
    down: NativeMatrix,
    alpha: float,
    limit: float,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + the sum of shares * expert(x), added in the order of the shares.

    Args:
        context: threads and level.
        x: float32 [tokens, hidden], normed.
        shares: float32 [tokens, k].
        chosen: int32 [tokens, k], numbers of experts.
        gate_up: MXFP4 [experts, 2 * intermediate, hidden], rows alternate gate and up.
        down: MXFP4 [experts, hidden, intermediate].
        alpha: of the gate's sigmoid.
        limit: clamp of gate and up.
        residual: float32 [tokens, hidden].

    Returns:
        float32 [tokens, hidden].

    Raises:
        ValueError: a shape or type that does not fit, or an expert that does not exist.
    """
    _check_input(x, gate_up.inputs)
    _check_tensor("shares", shares, torch.float32, chosen.shape)
    _check_tensor("chosen", chosen, torch.int32, (x.shape[0], chosen.shape[-1]))
    out = torch.empty(x.shape[0], down.rows)
    if residual is not None:
        _check_tensor("residual", residual, torch.float32, out.shape)
    code = context.library.ossia_moe(
        context.handle,
        x.data_ptr(),
        x.shape[0],
        chosen.data_ptr(),
        shares.data_ptr(),
        chosen.shape[1],
        ctypes.byref(gate_up.pointers()),
        ctypes.byref(down.pointers()),
        alpha,
        limit,
        None if residual is None else residual.data_ptr(),
        out.data_ptr(),
    )
    _check_code(code)
    return out


def plain_read(context: Context, memory: Tensor) -> int:
    """Read a contiguous tensor with all threads; returns a checksum.

    The time it takes is the least that a product of the same bytes can take.
    """
    size = memory.numel() * memory.element_size()
    return int(context.library.ossia_read(context.handle, memory.data_ptr(), size))


def _check_input(x: Tensor, inputs: int) -> None:
    if x.dim() != 2:
        raise ValueError(f"x must be [tokens, inputs], not {list(x.shape)}.")
    _check_tensor("x", x, torch.float32, (x.shape[0], inputs))


def _check_tensor(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if x.dtype != dtype or tuple(x.shape) != tuple(shape) or not x.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous {dtype} {list(shape)}, not {x.dtype} {list(x.shape)}."
        )
    if x.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, not on {x.device}.")


def _check_code(code: int) -> None:
    if code == -2:
        raise MemoryError("The CPU library has no memory for its intermediate results.")
    if code:
        raise ValueError("The CPU library refused the shapes or the numbers of the experts.")
