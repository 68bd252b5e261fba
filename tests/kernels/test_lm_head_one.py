"""The head for one token: the kernel against norm and product in float64.

The kernel runs in Triton's interpreter, in a process of its own, because the interpreter must be
chosen before Triton is first imported. `tests/gpu/test_dense_one.py` runs it on a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.rms_norm.reference import rms_norm

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
EPS = 1e-5


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "piece"), [(1, 64), (8, 16), (8, 1024), (16, 32)])
def test_triton_rounds_nothing_in_between(dtype, rows, piece):
    from ossia.kernels.linear.triton_one import MatVecShape
    from ossia.kernels.lm_head.triton_one import logits_one

    rng = torch.Generator().manual_seed(0)
    x, norm, weight = (
        torch.randn(*shape, generator=rng).to(dtype) for shape in ((1, 72), (72,), (96, 72))
    )
    logits = logits_one(x, norm, EPS, weight, shape=MatVecShape(rows, piece, warps=1))
    assert logits.shape == (1, 96)
    assert logits.dtype == torch.float32
    truth = rms_norm(x.double(), norm.double(), EPS) @ weight.double().T
    torch.testing.assert_close(logits.double(), truth, rtol=1e-5, atol=1e-5)
