"""The dense products of two and more tokens on a GPU, in the geometry of gpt-oss."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.attention_out.reference import project_out
from ossia.kernels.qkv.reference import project_qkv
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.model.batch import LayerCache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2880, 64, 8, 64, 201088
ROWS = (HEADS + 2 * KV_HEADS) * HEAD_DIM
EPS = 1e-5
MOST_ERROR = 5e-3
QKV_SHAPES = [
    None,
    {"rows": 32, "tokens": 16, "stages": 8, "ahead": 8},
    {"rows": 64, "tokens": 64, "splits": 3},
    {"rows": 64, "tokens": 32, "columns": 128, "stages": 4},
    {"rows": 64, "tokens": 16, "stages": 8, "splits": 2, "tma": True, "ahead": 8},
    {"rows": 64, "tokens": 64, "columns": 128, "stages": 4, "tma": True},
    {"rows": 128, "tokens": 32, "columns": 128, "stages": 3, "splits": 3, "tma": True, "ahead": 2},
    {"rows": 128, "tokens": 128, "stages": 4, "warps": 8, "splits": 3, "tma": True, "ahead": 4},
]
OUT_SHAPES = [
    None,
    {"rows": 16, "tokens": 16, "stages": 8, "warps": 2, "ahead": 16},
    {"rows": 64, "tokens": 64, "splits": 4},
    {"rows": 32, "tokens": 16, "columns": 128, "stages": 4, "splits": 2},
    {"rows": 64, "tokens": 32, "stages": 6, "splits": 4, "tma": True, "ahead": 4},
]


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def pdl_modes() -> list[bool]:
    return [False, True] if torch.cuda.get_device_capability() >= (9, 0) else [False]


def error(out: torch.Tensor, truth: torch.Tensor) -> float:
    assert out.shape == truth.shape
    return ((out.double() - truth.double()).norm() / truth.double().norm()).item()


def few_shape(fields):
    from ossia.kernels.linear.triton_few import FewShape

    shape = None if fields is None else FewShape(**fields)
    if (shape is None or shape.tma) and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("this GPU has no tensor copy engine")
    return shape


def qkv_case(tokens: int) -> dict:
    cache = LayerCache(
        *(
            torch.full((600, 16, KV_HEADS, HEAD_DIM), float("nan"), device="cuda").bfloat16()
            for _ in range(2)
        )
    )
    angle = torch.rand(4096, HEAD_DIM // 2, device="cuda") * 6.3
    return {
        "x": random(tokens, HIDDEN, scale=3),
        "norm": random(HIDDEN) * 0.1 + 1,
        "weight": random(ROWS, HIDDEN, scale=HIDDEN**-0.5),
        "bias": random(ROWS),
        "eps": EPS,
        "positions": torch.randint(0, 4096, (tokens,), device="cuda"),
        "slots": torch.randperm(9600, device="cuda")[:tokens],
        "cos_sin": torch.cat((angle.cos(), angle.sin()), -1) * 1.35,
        "cache": cache,
    }


def check_qkv(run, tokens: int) -> None:
    """The queries and the slots of the tokens are right, and no other slot is written."""
    case = qkv_case(tokens)
    wide = {
        name: value.double()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in case.items()
    }
    wide["cache"] = LayerCache(case["cache"].keys.double(), case["cache"].values.double())
    truth = project_qkv(**wide)
    q = run(**case)
    assert q.is_contiguous()
    assert error(q, truth) < MOST_ERROR
    for name in ("keys", "values"):
        found, wanted = (getattr(c["cache"], name).flatten(0, 1) for c in (case, wide))
        assert error(found[case["slots"]], wanted[case["slots"]]) < MOST_ERROR
        assert torch.equal(found.isnan(), wanted.isnan())


@pytest.mark.parametrize("tokens", [2, 16, 33, 64, 100])
@pytest.mark.parametrize("fields", QKV_SHAPES, ids=str)
def test_qkv_of_a_few_tokens(fields, tokens):
    from ossia.kernels.qkv.triton_few import project_qkv_few

    shape = few_shape(fields)
    for pdl in pdl_modes() if shape is None else pdl_modes()[-1:]:
        check_qkv(lambda p=pdl, **case: project_qkv_few(**case, shape=shape, pdl=p), tokens)


@pytest.mark.parametrize("tokens", [2, 300, 8192])
def test_qkv_of_many_tokens(tokens):
    from ossia.kernels.qkv.fused_many import project_qkv_many

    for pdl in pdl_modes():
        check_qkv(lambda p=pdl, **case: project_qkv_many(**case, pdl=p), tokens)


@pytest.mark.parametrize("tokens", [2, 16, 33, 64, 100])
@pytest.mark.parametrize("fields", OUT_SHAPES, ids=str)
def test_out_of_a_few_tokens(fields, tokens):
    from ossia.kernels.attention_out.triton_few import project_out_few

    shape = few_shape(fields)
    inputs = HEADS * HEAD_DIM
    x, mixed = random(tokens, HIDDEN), random(tokens, HEADS, HEAD_DIM)
    weight, bias = random(HIDDEN, inputs, scale=inputs**-0.5), random(HIDDEN)
    truth = project_out(x.double(), mixed.flatten(1).double(), weight.double(), bias.double())
    for pdl in pdl_modes() if shape is None else pdl_modes()[-1:]:
        out = project_out_few(x, mixed, weight, bias, shape=shape, pdl=pdl)
        assert error(out, truth) < MOST_ERROR


@pytest.mark.parametrize("tokens", [2, 100, 8192])
def test_out_of_many_tokens(tokens):
    from ossia.kernels.attention_out.fused_many import project_out_many

    inputs = HEADS * HEAD_DIM
    x, mixed = random(tokens, HIDDEN), random(tokens, HEADS, HEAD_DIM)
    weight, bias = random(HIDDEN, inputs, scale=inputs**-0.5), random(HIDDEN)
    truth = project_out(x.double(), mixed.flatten(1).double(), weight.double(), bias.double())
    for pdl in pdl_modes():
        assert error(project_out_many(x, mixed, weight, bias, pdl=pdl), truth) < MOST_ERROR


@pytest.mark.parametrize("tokens", [1, 65, 8192])
def test_rms_norm(tokens):
    from ossia.kernels.rms_norm.triton_norm import rms_norm as triton_norm

    x, weight = random(tokens, HIDDEN, scale=7), random(HIDDEN)
    truth = rms_norm(x.double(), weight.double(), EPS)
    for pdl in pdl_modes():
        assert error(triton_norm(x, weight, EPS, pdl=pdl), truth) < MOST_ERROR


def test_logits_of_several_rows_are_not_rounded():
    from ossia.kernels.lm_head.fused_many import logits_many
    from ossia.kernels.lm_head.triton_few import logits_few

    norm, weight = random(HIDDEN) * 0.1 + 1, random(VOCAB, HIDDEN, scale=HIDDEN**-0.5)
    for rows in (2, 16, 30, 64, 70):
        x = random(rows, HIDDEN)
        normed = rms_norm(x, norm, EPS).float()
        some = torch.randperm(VOCAB, device="cuda")[:20000]
        truth = normed.double() @ weight[some].double().T
        for run in (logits_few, logits_many):
            logits = run(x, norm, EPS, weight)
            assert logits.dtype == torch.float32
            assert not logits.isnan().any()
            # The two norms may round a few elements differently; the product rounds none.
            assert error(logits[:, some], truth) < 5e-4
