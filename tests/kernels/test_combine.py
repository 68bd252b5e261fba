"""The mixture's sum and the norm after it, in Triton's interpreter, against the reference."""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.router.combine import combine

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def case(dtype=torch.float32):
    shares = torch.rand(5, 4).softmax(-1)
    return torch.randn(5, 48, dtype=dtype), torch.randn(20, 48, dtype=dtype), shares


def test_it_is_the_weighted_sum_of_the_pairs_of_each_token():
    x, y, shares = case()
    out, normed = combine(x, y, shares)
    torch.testing.assert_close(out, x + torch.einsum("tk,tkh->th", shares, y.view(5, 4, 48)))
    assert normed is None


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_triton_matches_the_reference(dtype):
    from ossia.kernels.router.triton_combine import combine as triton_combine

    x, y, shares = case(dtype)
    norm = torch.rand(48, dtype=dtype)
    for next_norm in (None, norm):
        found = triton_combine(x, y, shares, next_norm, 1e-5)
        wanted = combine(x, y, shares, next_norm, 1e-5)
        torch.testing.assert_close(found[0], wanted[0])
        if next_norm is None:
            assert found[1] is None
        else:
            torch.testing.assert_close(found[1], wanted[1])
