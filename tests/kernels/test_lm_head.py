"""Logits, and the shortcut for heads whose rows are mostly the same."""

from __future__ import annotations

import torch

from ossia.kernels.linear.cpu import linear
from ossia.kernels.lm_head import cpu, reference

RNG = torch.Generator().manual_seed(0)
X = torch.randn(5, 64, generator=RNG)


def mostly_shared() -> torch.Tensor:
    weight = torch.randn(1, 64, generator=RNG).repeat(1000, 1)
    weight[3:300:2] = torch.randn(149, 64, generator=RNG)
    return weight


def test_shared_rows_give_the_logits_of_all_rows():
    weight = mostly_shared()
    found = cpu.prepare_lm_head(weight, linear)(X)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference.prepare_lm_head(weight, linear)(X))


def test_shared_rows_are_multiplied_once():
    sizes = []

    def counting(x, weight, bias=None):
        sizes.append(len(weight))
        return linear(x, weight, bias)

    cpu.prepare_lm_head(mostly_shared(), counting)(X)
    cpu.prepare_lm_head(torch.randn(100, 64, generator=RNG), counting)(X)
    assert sizes == [150, 100]


def test_logits_of_bfloat16_are_float32_and_no_rows_give_none():
    weight = mostly_shared().bfloat16()
    logits = cpu.prepare_lm_head(weight, linear)
    assert logits(X.bfloat16()).dtype == torch.float32
    assert logits(X[:0].bfloat16()).shape == (0, 1000)
