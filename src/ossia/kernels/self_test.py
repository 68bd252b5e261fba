"""Checks, at every start, that the chosen kernels compute here what their references say.

A wrong driver, compiler or processor feature then stops the server instead of spoiling answers.
Inputs are small and fixed; the whole takes a few hundredths of a second on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ossia.errors import StartupError
from ossia.kernels.attention import reference as attention_reference
from ossia.kernels.attention.interface import PrepareAttention
from ossia.kernels.linear.reference import linear as linear_reference
from ossia.kernels.lm_head.reference import prepare_lm_head as lm_head_reference
from ossia.kernels.moe import reference as moe_reference
from ossia.kernels.rms_norm.reference import rms_norm as rms_norm_reference
from ossia.kernels.rotary.reference import rotate as rotate_reference
from ossia.kernels.select import Kernels
from ossia.model.batch import LayerCache, PagedBatch
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

# Of the largest magnitude in the reference's result. bfloat16 has 8 bits, and intermediate results
# are rounded to it; float32 may be multiplied in TF32 or in another order.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 64, 8, 2, 64
PAGE_SIZE, WINDOW = 16, 24
# Tokens of three sequences, cached and new: prefill, decode, a chunk; then all of them decode.
# Experts get fewer and more rows than a small tile has. Kernels have a variant for each.
_STEPS = (((0, 40, 70), (20, 1, 3)), ((9, 40, 70), (1, 1, 1)))
_MOE_TOKENS = (5, 40)


def self_test(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> None:
    """Run every kernel and its reference on the same random inputs.

    Args:
        kernels: what `select_kernels` chose.
        device: where the model will run.
        dtype: of weights and activations.

    Raises:
        StartupError: names the kernel, the device and by how much the results differ.
    """
    tests: dict[str, Callable[[Kernels, _Inputs], tuple[Tensor, Tensor]]] = {
        "linear": _linear,
        "rms_norm": _rms_norm,
        "rotary": _rotary,
        f"attention ({kernels.attention_backend}, window)": _window_attention,
        f"attention ({kernels.attention_backend}, full)": _full_attention,
        "moe": _moe,
        "lm_head": _lm_head,
    }
    with torch.no_grad():
        for name, test in tests.items():
            ours, truth = test(kernels, _Inputs(device, dtype))
            _compare(name, ours, truth, device, TOLERANCES.get(dtype, 1e-4))


def _compare(
    name: str, ours: Tensor, truth: Tensor, device: torch.device, tolerance: float
) -> None:
    size = truth.double().abs().max()
    error = float((ours.double() - truth.double()).abs().max() / size)
    if not error <= tolerance:  # also true for NaN
        raise StartupError(
            f"The {name} kernel gives wrong numbers on {device}: it is off by {error:.2g} of the "
            f"largest value, {tolerance:g} is allowed; "
            "update the GPU driver and torch, or start with --device cpu."
        )


class _Inputs:
    """Random tensors of the model's type, the same at every start."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._rng = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(*shape, generator=self._rng) * scale
        return values.to(self.device, self.dtype)

    def packed(self, *shape: int) -> Mxfp4Tensor:
        blocks = torch.randint(0, 256, (*shape, 16), generator=self._rng, dtype=torch.uint8)
        scales = torch.randint(120, 124, shape, generator=self._rng, dtype=torch.uint8)
        return Mxfp4Tensor(blocks.to(self.device), scales.to(self.device))


def _linear(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    arguments = make.normal(5, HIDDEN), make.normal(96, HIDDEN), make.normal(96)
    return kernels.linear(*arguments), linear_reference(*arguments)


def _rms_norm(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    arguments = make.normal(5, HIDDEN), make.normal(HIDDEN), 1e-5
    return kernels.rms_norm(*arguments), rms_norm_reference(*arguments)


def _rotary(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    angles = make.normal(5, HEAD_DIM // 2).float()
    arguments = make.normal(5, HEADS, HEAD_DIM), angles.cos(), angles.sin()
    return kernels.rotate(*arguments), rotate_reference(*arguments)


def _window_attention(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    return _attention(kernels.prepare_attention, make, WINDOW)


def _full_attention(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    return _attention(kernels.prepare_attention, make, None)


def _attention(
    prepare: PrepareAttention, make: _Inputs, window: int | None
) -> tuple[Tensor, Tensor]:
    results: tuple[list[Tensor], list[Tensor]] = [], []
    for cached, new in _STEPS:
        paged, pages = _paged(cached, new, make.device, window)
        shape = (pages, PAGE_SIZE, KV_HEADS, HEAD_DIM)
        keys, values = make.normal(*shape), make.normal(*shape)
        q = make.normal(sum(new), HEADS, HEAD_DIM)
        k, v = (make.normal(sum(new), KV_HEADS, HEAD_DIM) for _ in range(2))
        sinks = make.normal(HEADS)
        for backend, found in zip(
            (prepare, attention_reference.prepare_attention), results, strict=True
        ):
            attend = backend(paged, PAGE_SIZE, KV_HEADS, window)
            cache = LayerCache(keys.clone(), values.clone())
            found.append(attend(q, k, v, cache, sinks, HEAD_DIM**-0.5))
    return torch.cat(results[0]), torch.cat(results[1])


def _paged(
    cached: Sequence[int], new: Sequence[int], device: torch.device, window: int | None
) -> tuple[PagedBatch, int]:
    """The step of the test, its pages handed out from last to first, and the number of pages."""
    firsts = [
        0 if window is None else max(0, before - window + 1) // PAGE_SIZE * PAGE_SIZE
        for before in cached
    ]
    lengths = [before + after for before, after in zip(cached, new, strict=True)]
    counts = [-(-(n - first) // PAGE_SIZE) for n, first in zip(lengths, firsts, strict=True)]
    free = list(range(sum(counts)))
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
    slots = []
    for s, count in enumerate(counts):
        pages = torch.tensor([free.pop() for _ in range(count)])
        table[s, :count] = pages
        at = torch.arange(cached[s], lengths[s]) - firsts[s]
        slots.append(pages[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE)
    starts = torch.tensor([0, *new]).cumsum(0)

    def int32(values: Tensor | list[int]) -> Tensor:
        return torch.as_tensor(values).to(device, torch.int32)

    paged = PagedBatch(
        slots=torch.cat(slots).to(device),
        page_table=int32(table),
        first_positions=int32(firsts),
        kv_lens=int32(lengths),
        query_starts=int32(starts),
        max_query_len=max(new),
        max_kv_len=max(lengths),
    )
    return paged, sum(counts)


def _moe(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    experts, intermediate = 8, 32
    weights = ExpertWeights(
        gate_up=make.packed(experts, 2 * intermediate, HIDDEN // 32),
        gate_up_bias=make.normal(experts, 2 * intermediate),
        down=make.packed(experts, HIDDEN, intermediate // 32),
        down_bias=make.normal(experts, HIDDEN),
    )
    inputs = [(make.normal(n, HIDDEN), make.normal(n, experts)) for n in _MOE_TOKENS]
    ours, truth = (
        torch.cat([run(x, *route(logits, 4), weights, 1.702, 7.0) for x, logits in inputs])
        for route, run in (
            (kernels.route, kernels.run_experts),
            (moe_reference.route, moe_reference.run_experts),
        )
    )
    return ours, truth


def _lm_head(kernels: Kernels, make: _Inputs) -> tuple[Tensor, Tensor]:
    weight, x = make.normal(96, HIDDEN), make.normal(3, HIDDEN)
    ours = kernels.prepare_lm_head(weight, kernels.linear)(x)
    return ours, lm_head_reference(weight, linear_reference)(x)
