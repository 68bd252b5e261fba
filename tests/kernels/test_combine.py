"""The mixture's sum and the norm after it, in Triton's interpreter, against the reference."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from ossia.kernels.router.combine import combine

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


@pytest.mark.skipif(INTERPRETING, reason="this is the process that it starts")
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed (it comes with torch for CUDA)",
)
def test_in_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "triton", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@pytest.fixture(autouse=INTERPRETING)
def patched_interpreter(monkeypatch):
    """Triton 3.6's interpreter made to work with NumPy 2.4: see `test_attention_triton.py`."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


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
