"""The dense products of two and more tokens in Triton's interpreter, against the references.

The interpreter must be chosen before Triton is first imported, so the tests below run in a process
of their own, which `test_in_the_interpreter` starts. `tests/gpu/test_dense_few.py` runs the kernels
on a GPU, in bfloat16, which the interpreter cannot multiply.
"""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.attention_out.reference import project_out
from ossia.kernels.qkv.reference import project_qkv
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.model.batch import LayerCache

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
EPS = 1e-5
HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 64, 192


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def qkv_case(tokens):
    rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    cache = LayerCache(*(torch.full((4, 8, KV_HEADS, HEAD_DIM), float("nan")) for _ in range(2)))
    slots = torch.randperm(32)[:tokens]
    return {
        "x": torch.randn(tokens, HIDDEN),
        "norm": torch.rand(HIDDEN) + 0.5,
        "weight": torch.randn(rows, HIDDEN) / HIDDEN**0.5,
        "bias": torch.randn(rows),
        "eps": EPS,
        "positions": torch.randint(0, 50, (tokens,)),
        "slots": slots,
        "cos_sin": torch.randn(50, HEAD_DIM),
        "cache": cache,
    }


def check_qkv(run, case):
    """Queries and written slots agree with the reference; no other slot is written."""
    empty = case["cache"]
    other = LayerCache(empty.keys.clone(), empty.values.clone())
    q = run(**case)
    truth = project_qkv(**{**case, "cache": other})
    assert q.is_contiguous()
    torch.testing.assert_close(q, truth, rtol=1e-4, atol=1e-5)
    for found, wanted in ((empty.keys, other.keys), (empty.values, other.values)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@interpreted
@pytest.mark.parametrize(
    "shape",
    [
        {"rows": 64, "tokens": 16},
        {"rows": 32, "tokens": 4, "columns": 128},
        {"rows": 16, "tokens": 8, "columns": 32},
        {"rows": 32, "tokens": 8, "splits": 2},
    ],
    ids=str,
)
def test_triton_qkv_of_a_few_tokens(shape):
    from ossia.kernels.linear.triton_few import FewShape
    from ossia.kernels.qkv.triton_few import project_qkv_few

    check_qkv(lambda **case: project_qkv_few(**case, shape=FewShape(**shape)), qkv_case(7))


@interpreted
def test_triton_tokens_without_a_slot_leave_the_cache_alone():
    from ossia.kernels.linear.triton_few import FewShape
    from ossia.kernels.qkv.triton_few import project_qkv_few

    for splits in (1, 3):
        case = qkv_case(3)
        case["slots"] = torch.tensor([5, -1, 9])
        project_qkv_few(**case, shape=FewShape(rows=64, tokens=16, splits=splits))
        written = ~case["cache"].keys.isnan().flatten(0, 1).all(-1).all(-1)
        assert written.nonzero().flatten().tolist() == [5, 9]


@interpreted
def test_triton_qkv_of_many_tokens():
    from ossia.kernels.qkv.fused_many import project_qkv_many

    check_qkv(project_qkv_many, qkv_case(19))


@interpreted
@pytest.mark.parametrize(
    "shape",
    [
        {"rows": 32, "tokens": 16},
        {"rows": 16, "tokens": 4, "splits": 3},
        {"rows": 64, "tokens": 8, "columns": 128, "splits": 2},
    ],
    ids=str,
)
def test_triton_out_of_a_few_tokens(shape):
    from ossia.kernels.attention_out.triton_few import project_out_few
    from ossia.kernels.linear.triton_few import FewShape

    x, mixed = torch.randn(7, HIDDEN), torch.randn(7, HEADS, HEAD_DIM)
    weight, bias = torch.randn(HIDDEN, HEADS * HEAD_DIM) / 16, torch.randn(HIDDEN)
    out = project_out_few(x, mixed, weight, bias, shape=FewShape(**shape))
    torch.testing.assert_close(
        out, project_out(x, mixed.flatten(1), weight, bias), rtol=1e-4, atol=1e-5
    )


@interpreted
def test_triton_out_of_many_tokens_leaves_its_inputs_alone():
    from ossia.kernels.attention_out.fused_many import project_out_many

    x, mixed = torch.randn(9, HIDDEN), torch.randn(9, HEADS, HEAD_DIM)
    weight, bias = torch.randn(HIDDEN, HEADS * HEAD_DIM) / 16, torch.randn(HIDDEN)
    kept = x.clone()
    out = project_out_many(x, mixed, weight, bias)
    torch.testing.assert_close(out, project_out(x, mixed.flatten(1), weight, bias))
    assert torch.equal(x, kept)


@interpreted
@pytest.mark.parametrize("hidden", [192, 64, 40])
def test_triton_rms_norm(hidden):
    from ossia.kernels.rms_norm.triton_norm import rms_norm as triton_norm

    x, weight = torch.randn(5, hidden).half(), torch.randn(hidden).half()
    torch.testing.assert_close(triton_norm(x, weight, EPS), rms_norm(x, weight, EPS))


@interpreted
def test_triton_logits_of_a_few_rows():
    from ossia.kernels.linear.triton_few import FewShape
    from ossia.kernels.lm_head.triton_few import logits_few

    x, norm, weight = torch.randn(5, HIDDEN), torch.rand(HIDDEN), torch.randn(256, HIDDEN)
    logits = logits_few(x, norm, EPS, weight, shape=FewShape(rows=64, tokens=4))
    torch.testing.assert_close(logits, rms_norm(x, norm, EPS) @ weight.T, rtol=1e-4, atol=1e-4)
