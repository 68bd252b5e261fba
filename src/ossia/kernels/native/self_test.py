"""Checks, at every start, that the native library computes here what the references say.

Both halves of a block with random weights, once with a few tokens and once with more than a tile
of them, in tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ossia.config import ModelConfig
from ossia.errors import StartupError
from ossia.kernels.attention import reference as attention_reference
from ossia.kernels.moe import reference as moe_reference
from ossia.kernels.native.blocks import (
    AttentionLayer,
    Heads,
    MixtureLayer,
    Pages,
    attention_block,
    mixture_block,
)
from ossia.kernels.native.kernels import NativeKernels
from ossia.kernels.native.matrices import pack_dense, pack_experts
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.rotary.reference import rotate
from ossia.model.batch import LayerCache, PagedBatch
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

# ||ours - reference|| / ||reference|| of what a block adds: 8-bit weights are off by 6e-3, products
# in bfloat16 by 3e-3.
TOLERANCE = 2e-2
HIDDEN, HEADS, KV_HEADS, DIM, EXPERTS, INNER = 64, 8, 2, 32, 8, 64
PAGE_SIZE, WINDOW, EPS = 16, 24, 1e-5
TOKENS = (3, 100)


def warm_up(
    native: NativeKernels,
    model: ModelConfig,
    device: torch.device,
    max_rows: int,
    max_tokens: int,
) -> Iterator[str]:
    """Test the kernels; there is nothing to compile, so the lines say what was tested.

    Raises:
        StartupError: names the half of a block that is wrong, and by how much.
    """
    del model, device, max_rows, max_tokens
    make = torch.Generator().manual_seed(0)
    for tokens in TOKENS:
        _compare("attention", native, *_attention(native, tokens, make))
        _compare("experts", native, *_mixture(native, tokens, make))
    yield f"native CPU kernels ({native.context.level}) agree with the references"


def _compare(name: str, native: NativeKernels, ours: Tensor, truth: Tensor) -> None:
    error = float((ours - truth).norm() / truth.norm())
    if not error <= TOLERANCE:  # also true for NaN
        raise StartupError(
            f"The native CPU kernels ({native.context.level}) give wrong numbers for {name}: off "
            f"by {error:.2g}, {TOLERANCE:g} is allowed; set OSSIA_CPU_LEVEL to another of the "
            "levels that `ossia doctor` names, or start with --attention-backend TORCH."
        )


def _normal(make: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=make).bfloat16().float()


def _attention(native: NativeKernels, tokens: int, make: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the first half of a block adds to x, and what it should."""
    rows = (HEADS + 2 * KV_HEADS) * DIM
    x, norm, sinks = (_normal(make, *shape) for shape in ((tokens, HIDDEN), (HIDDEN,), (HEADS,)))
    qkv, qkv_bias = _normal(make, rows, HIDDEN) / 8, _normal(make, rows)
    out, out_bias = _normal(make, HIDDEN, HEADS * DIM) / 16, _normal(make, HIDDEN)
    pages = -(-tokens // PAGE_SIZE)
    table = torch.arange(pages).flip(0)
    at = torch.arange(tokens)
    paged = PagedBatch(
        slots=table[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE,
        page_table=table.to(torch.int32).unsqueeze(0),
        first_positions=torch.zeros(1, dtype=torch.int32),
        kv_lens=torch.tensor([tokens], dtype=torch.int32),
        query_starts=torch.tensor([0, tokens], dtype=torch.int32),
        max_query_len=tokens,
        max_kv_len=tokens,
    )
    angles = _normal(make, tokens, DIM // 2)
    cos, sin = angles.cos(), angles.sin()

    shape = (pages, PAGE_SIZE, KV_HEADS, DIM)
    layer = AttentionLayer(
        norm,
        EPS,
        pack_dense(native.context, qkv, qkv_bias, native.dense),
        sinks,
        pack_dense(native.context, out, out_bias, native.dense),
        Heads(HEADS, KV_HEADS, DIM, WINDOW),
    )
    cache = LayerCache(torch.zeros(shape), torch.zeros(shape))
    ours = attention_block(native.context, layer, Pages(paged, cos, sin), cache, x) - x

    linear = torch.nn.functional.linear
    heads = linear(rms_norm(x, norm, EPS), qkv, qkv_bias).view(tokens, -1, DIM)
    turned = rotate(heads[:, : HEADS + KV_HEADS], cos, sin)
    attend = attention_reference.prepare_attention(paged, PAGE_SIZE, KV_HEADS, WINDOW)
    cache = LayerCache(torch.zeros(shape), torch.zeros(shape))
    mixed = attend(
        turned[:, :HEADS], turned[:, HEADS:], heads[:, HEADS + KV_HEADS :], cache, sinks, DIM**-0.5
    )
    return ours, linear(mixed.flatten(1), out, out_bias)


def _mixture(native: NativeKernels, tokens: int, make: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the second half of a block adds to x, and what it should."""

    def packed(*shape: int) -> Mxfp4Tensor:
        blocks = torch.randint(0, 256, (*shape, 16), generator=make, dtype=torch.uint8)
        return Mxfp4Tensor(
            blocks, torch.randint(120, 124, shape, generator=make, dtype=torch.uint8)
        )

    x, norm = _normal(make, tokens, HIDDEN), _normal(make, HIDDEN)
    router, router_bias = _normal(make, EXPERTS, HIDDEN), _normal(make, EXPERTS)
    experts = ExpertWeights(
        gate_up=packed(EXPERTS, 2 * INNER, HIDDEN // 32),
        gate_up_bias=_normal(make, EXPERTS, 2 * INNER),
        down=packed(EXPERTS, HIDDEN, INNER // 32),
        down_bias=_normal(make, EXPERTS, HIDDEN),
    )
    assert isinstance(experts.gate_up, Mxfp4Tensor)
    assert isinstance(experts.down, Mxfp4Tensor)
    layer = MixtureLayer(
        norm,
        EPS,
        router,
        router_bias,
        pack_experts(native.context, experts.gate_up, experts.gate_up_bias),
        pack_experts(native.context, experts.down, experts.down_bias),
        chosen_per_token=4,
        alpha=1.702,
        limit=7.0,
    )
    ours = mixture_block(native.context, layer, x) - x
    normed = rms_norm(x, norm, EPS)
    logits = torch.nn.functional.linear(normed, router, router_bias)
    truth = moe_reference.run_experts(normed, *moe_reference.route(logits, 4), experts, 1.702, 7.0)
    return ours, truth
