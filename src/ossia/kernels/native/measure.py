"""How fast the native products are on this machine, against what its memory and torch can do.

Decoding reads every weight once a token, so it is compared with a plain read of the same memory by
the same threads; prompts with torch's matrix product of the same shape, on weights that are already
expanded. Kernels and ceilings take turns and the best time of each counts: other processes then
disturb both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ossia.kernels.native.library import Context
from ossia.kernels.native.matrices import Kind, NativeMatrix, empty_matrix
from ossia.kernels.native.operations import linear, linear_top, moe, plain_read

_CHOSEN = 4  # experts of a token
_ALPHA, _LIMIT = 1.702, 7.0
# Between torch's products and ours: its threads look for more work for some milliseconds.
_SETTLE = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes to measure with; the defaults are those of gpt-oss-20b, with fewer matrices."""

    hidden: int = 2880
    intermediate: int = 2880
    qkv_rows: int = 5120
    head_rows: int = 50272  # a quarter of the vocabulary
    experts: int = 16  # enough to be far larger than the caches
    layers: int = 10  # dense matrices in turn


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kernel at its best."""

    name: str
    unit: Literal["GB/s", "GFLOP/s"]
    speed: float
    ceiling: float  # in the same unit

    @property
    def share_of_ceiling(self) -> float:
        """1 is as fast as the memory, or as torch."""
        return self.speed / self.ceiling


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    unit: Literal["GB/s", "GFLOP/s"]
    work: float  # bytes or operations of a run
    run: Callable[[int], object]  # with the number of the turn
    ceiling: str  # the case that it is compared with; itself for a ceiling


def measure(
    context: Context, geometry: Geometry | None = None, *, rounds: int = 10
) -> list[Measurement]:
    """Measure every kernel; ceilings come first, compared with themselves.

    Takes about 0.7 s a round and 0.6 GB of memory with the default geometry on two cores.

    Args:
        context: level and threads.
        geometry: sizes of the matrices.
        rounds: how often each is timed.
    """
    sizes = geometry or Geometry()
    with torch.inference_mode():
        cases = [*_decode_cases(context, sizes), *_prompt_cases(context, sizes)]
        threads = torch.get_num_threads()
        torch.set_num_threads(context.threads)
        try:
            best = _best_times(cases, rounds)
        finally:
            torch.set_num_threads(threads)
    speeds = {case.name: case.work / best[case.name] / 1e9 for case in cases}
    return [
        Measurement(case.name, case.unit, speeds[case.name], speeds[case.ceiling]) for case in cases
    ]


def _best_times(cases: list[_Case], rounds: int) -> dict[str, float]:
    best = dict.fromkeys((case.name for case in cases), float("inf"))
    for turn in range(rounds):
        for case in cases:
            # The first of two calls wakes the threads, as the operation before does in a model.
            for call in range(2):
                begin = time.perf_counter()
                case.run(2 * turn + call)
                best[case.name] = min(best[case.name], time.perf_counter() - begin)
            if case.name == "torch_matmul":
                time.sleep(_SETTLE)
    return best


def _decode_cases(context: Context, sizes: Geometry) -> list[_Case]:
    """Few tokens: bytes a second."""
    hidden, experts = sizes.hidden, sizes.experts
    gate_up, down = _experts(context, sizes)
    qkv = {
        kind: [_filled(context, kind, 1, sizes.qkv_rows, hidden) for _ in range(sizes.layers)]
        for kind in (Kind.INT8, Kind.BF16)
    }
    # Two heads: of one that is read again at once, the caches still have a part.
    heads = [_filled(context, Kind.INT8, 1, sizes.head_rows, hidden) for _ in range(2)]
    x = {tokens: _activations(tokens, hidden) for tokens in (1, 2, 4)}
    expert_bytes = (gate_up.nbytes + down.nbytes) // experts

    def read(turn: int) -> object:
        first = turn * _CHOSEN % (experts - _CHOSEN + 1)
        return plain_read(context, gate_up.values[first : first + _CHOSEN])

    def mixture(tokens: int) -> Callable[[int], object]:
        shares = torch.full((tokens, _CHOSEN), 1 / _CHOSEN)

        def run(turn: int) -> object:
            first = turn * tokens * _CHOSEN
            chosen = (torch.arange(first, first + tokens * _CHOSEN) % experts).to(torch.int32)
            places = chosen.view(tokens, _CHOSEN)
            return moe(context, x[tokens], shares, places, gate_up, down, _ALPHA, _LIMIT)

        return run

    def case(name: str, work: int, run: Callable[[int], object]) -> _Case:
        return _Case(name, "GB/s", work, run, "plain_read")

    def top(turn: int) -> object:
        return linear_top(context, x[1], heads[turn % 2], 20)

    one = [_only(gate_up, number) for number in range(experts)]
    return [
        case("plain_read", _CHOSEN * gate_up.values[0].numel(), read),
        case("expert_gemv", one[0].nbytes, _in_turn(context, x[1], one)),
        *(
            case(f"experts_{tokens}_tokens", tokens * _CHOSEN * expert_bytes, mixture(tokens))
            for tokens in (1, 2, 4)
            if tokens * _CHOSEN <= experts
        ),
        *(
            case(
                f"dense_{kind.name.lower()}_gemv",
                matrices[0].nbytes,
                _in_turn(context, x[1], matrices),
            )
            for kind, matrices in qkv.items()
        ),
        case("lm_head", heads[0].nbytes, _in_turn(context, x[1], heads)),
        case("lm_head_top", heads[0].nbytes, top),
    ]


def _prompt_cases(context: Context, sizes: Geometry) -> list[_Case]:
    """Many tokens: operations a second."""
    hidden, units, experts = sizes.hidden, sizes.intermediate, sizes.experts
    gate_up, down = _experts(context, sizes)
    tokens = 64
    one = [_only(gate_up, number) for number in range(min(8, experts))]
    qkv = _filled(context, Kind.INT8, 1, sizes.qkv_rows, hidden)
    x, many = _activations(tokens, hidden), _activations(tokens * experts // _CHOSEN, hidden)
    order = torch.arange(len(many) * _CHOSEN) % experts
    chosen = order.to(torch.int32).view(len(many), _CHOSEN)
    shares = torch.full(chosen.shape, 1 / _CHOSEN)
    dtype = torch.bfloat16 if _bfloat_is_faster(x, 2 * units) else torch.float32
    left, right = x.to(dtype), _activations(2 * units, hidden).to(dtype)

    def case(name: str, work: float, run: Callable[[int], object]) -> _Case:
        return _Case(name, "GFLOP/s", work, run, "torch_matmul")

    def up_work(count: int) -> float:
        return 2.0 * count * 2 * units * hidden

    return [
        case("torch_matmul", up_work(tokens), lambda _: left @ right.T),
        *(
            case(f"expert_gemm_{count}_tokens", up_work(count), _in_turn(context, x[:count], one))
            for count in (8, 16, tokens)
        ),
        case(
            f"experts_{len(many)}_tokens",
            1.5 * up_work(len(many) * _CHOSEN),
            lambda _: moe(context, many, shares, chosen, gate_up, down, _ALPHA, _LIMIT),
        ),
        case(
            "dense_int8_gemm",
            2.0 * tokens * sizes.qkv_rows * hidden,
            lambda _: linear(context, x, qkv),
        ),
    ]


def _bfloat_is_faster(x: Tensor, rows: int) -> bool:
    """Which type torch multiplies faster here; the faster is the ceiling."""
    times = {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = x.to(dtype), _activations(rows, x.shape[1]).to(dtype)
        left @ right.T
        begin = time.perf_counter()
        left @ right.T
        times[dtype] = time.perf_counter() - begin
    return times[torch.bfloat16] < times[torch.float32]


def _experts(context: Context, sizes: Geometry) -> tuple[NativeMatrix, NativeMatrix]:
    return (
        _filled(context, Kind.MXFP4, sizes.experts, 2 * sizes.intermediate, sizes.hidden),
        _filled(context, Kind.MXFP4, sizes.experts, sizes.hidden, sizes.intermediate),
    )


def _filled(context: Context, kind: Kind, count: int, rows: int, inputs: int) -> NativeMatrix:
    """Matrices of small weights; how long a product takes does not depend on them."""
    matrix = empty_matrix(context, kind, count, rows, inputs)
    if kind is Kind.BF16:
        matrix.values.view(torch.bfloat16).fill_(0.01)
    else:
        matrix.values.fill_(0x5A)
    if matrix.scales is not None:
        scale = matrix.scales if kind is Kind.MXFP4 else matrix.scales.view(torch.bfloat16)
        scale.fill_(120 if kind is Kind.MXFP4 else 0.001)
    return matrix


def _in_turn(context: Context, x: Tensor, matrices: list[NativeMatrix]) -> Callable[[int], object]:
    return lambda turn: linear(context, x, matrices[turn % len(matrices)])


def _only(matrix: NativeMatrix, number: int) -> NativeMatrix:
    """One of several matrices, in the same memory."""
    scales = None if matrix.scales is None else matrix.scales[number : number + 1]
    values = matrix.values[number : number + 1]
    return NativeMatrix(matrix.kind, 1, matrix.rows, matrix.inputs, values, scales, None)


def _activations(rows: int, inputs: int) -> Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
