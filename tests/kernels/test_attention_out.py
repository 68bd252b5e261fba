"""The output projection of attention: the reference, and the kernel against it.

The kernel runs in Triton's interpreter, in a process of its own, because the interpreter must be
chosen before Triton is first imported. `tests/gpu/test_dense_one.py` runs it on a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.attention_out.reference import project_out

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def make(tokens=1, *, hidden=48, inputs=80, dtype=torch.float32):
    """x, mixed, weight, bias."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((tokens, hidden), (tokens, inputs), (hidden, inputs), (hidden,))
    return tuple(torch.randn(*shape, generator=rng).to(dtype) for shape in shapes)


def test_reference_is_the_formula_and_leaves_x_alone():
    x, mixed, weight, bias = make(3)
    kept = x.clone()
    found = project_out(x, mixed, weight, bias)
    truth = x.double() + torch.einsum("tk,rk->tr", mixed.double(), weight.double()) + bias.double()
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-4)
    assert torch.equal(x, kept)


@pytest.fixture
def project_one():
    from ossia.kernels.attention_out.triton_one import project_out_one

    return project_out_one


@interpreted
@pytest.mark.parametrize(("rows", "piece"), [(1, 64), (4, 16), (4, 4096), (16, 32)])
def test_triton_matches_the_reference(project_one, rows, piece):
    from ossia.kernels.linear.triton_one import MatVecShape

    case = make()
    kept = case[0].clone()
    found = project_one(*case, shape=MatVecShape(rows, piece, warps=1))
    torch.testing.assert_close(found, project_out(*case), rtol=1e-5, atol=1e-4)
    assert torch.equal(case[0], kept)


@interpreted
def test_triton_takes_heads_apart_or_joined(project_one):
    x, mixed, weight, bias = make(inputs=64)
    joined = project_one(x, mixed, weight, bias)
    assert torch.equal(project_one(x, mixed.view(1, 4, 16), weight, bias), joined)


@interpreted
def test_triton_in_float16_rounds_once(project_one):
    # Not bfloat16: the interpreter truncates to it, where a GPU rounds.
    case = make(dtype=torch.float16)
    found = project_one(*case)
    assert found.dtype == torch.float16
    truth = project_out(*(tensor.float() for tensor in case)).half()
    torch.testing.assert_close(found, truth, rtol=2**-10, atol=0)
