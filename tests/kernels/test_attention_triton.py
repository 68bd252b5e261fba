"""The Triton kernel against the reference, on a CPU by Triton's interpreter.

The interpreter must be chosen before Triton is first imported, so the tests below run in a process
of their own, which `test_in_the_interpreter` starts. `tests/gpu/test_attention.py` runs the kernel
on a GPU, in bfloat16 too, which the interpreter cannot multiply.
"""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.attention import reference

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


@pytest.fixture
def prepare():
    from ossia.kernels.attention.triton_paged import prepare_attention

    return prepare_attention


@interpreted
@pytest.mark.parametrize("window", [None, 10])
@pytest.mark.parametrize(
    ("cached", "new"),
    [
        ([33, 0, 70], [1, 1, 1]),
        ([20, 0, 5, 90], [1, 20, 9, 3]),
    ],
    ids=["decode", "mixed"],
)
@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 8, "kv_heads": 2, "head_dim": 16},
        {"heads": 8, "kv_heads": 1, "head_dim": 64, "page_size": 16},
        {"heads": 3, "kv_heads": 1, "head_dim": 24},
    ],
    ids=["groups of 4", "head size 64", "odd sizes"],
)
def test_triton_matches_the_reference(prepare, attention_case, cached, new, window, shape):
    case = attention_case(cached, new, window=window, **shape)
    torch.testing.assert_close(
        case.run(prepare), case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5
    )


@interpreted
@pytest.mark.parametrize("window", [None, 10])
def test_triton_lets_padding_see_no_keys(prepare, attention_case, window):
    case = attention_case([20, 0, 5], [1, 20, 9], window=window, page_size=32)
    expected = case.run(reference.prepare_attention)
    found = case.with_padding(20).run(prepare)
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[len(expected) :], torch.zeros_like(found[len(expected) :]))


@interpreted
def test_triton_in_float16_stays_within_rounding(prepare, attention_case):
    case = attention_case([20, 0], [1, 40], dtype=torch.float16, window=10)
    torch.testing.assert_close(
        case.run(prepare), case.run(reference.prepare_attention), rtol=3e-3, atol=3e-3
    )
