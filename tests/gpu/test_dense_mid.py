"""The dense products of 65 to 256 tokens on Hopper, in the geometry of gpt-oss."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.attention_out.reference import project_out
from ossia.kernels.linear.reference import linear
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.rotary.reference import rotate
from ossia.model.batch import LayerCache


def has_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_hopper(), reason="there is no Hopper GPU here"),
]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2880, 64, 8, 64, 201088
MIXED = HEADS * HEAD_DIM
ROWS = (HEADS + 2 * KV_HEADS) * HEAD_DIM
EPS = 1e-5
MOST_ERROR = 5e-3
TOKENS = [65, 100, 128, 200, 256]
WAIT_LIMIT = {"wait_limit_ns": 2_000_000_000}
QKV_SHAPES = [
    None,
    {"rows": 128, "groups": 2, "stages": 4},
    {"rows": 64, "groups": 4, "stages": 5, "splits": 2},
    {"rows": 64, "groups": 2, "stages": 4, "share": 2},
    {"rows": 128, "groups": 4, "stages": 4, "share": 2},
]
OUT_SHAPES = [
    None,
    {"rows": 48, "groups": 4, "stages": 5, "splits": 2},
    {"rows": 64, "groups": 2, "stages": 8},
    {"rows": 192, "groups": 2, "stages": 5, "splits": 4},
    {"rows": 96, "groups": 3, "stages": 5, "share": 2},
]
HEAD_SHAPES = [
    None,
    {"rows": 192, "groups": 2, "stages": 5, "share": 2},
    {"rows": 128, "groups": 2, "stages": 3, "blocks": 2},
]


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def error(out: torch.Tensor, truth: torch.Tensor) -> float:
    assert out.shape == truth.shape
    return ((out.double() - truth.double()).norm() / truth.double().norm()).item()


def shape_of(fields, default):
    from ossia.kernels.linear.cuda_mid import MidShape

    if fields is not None:
        return MidShape(**fields, **WAIT_LIMIT)
    values = {name: getattr(default, name) for name in default.__slots__}
    return MidShape(**{**values, **WAIT_LIMIT})


def poison(*shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """What is allocated next, of this size, is NaN where nothing is written."""
    torch.full(shape, float("nan"), device="cuda", dtype=dtype)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return {
        "qkv": random(ROWS, HIDDEN, scale=HIDDEN**-0.5),
        "qkv_bias": random(ROWS),
        "out": random(HIDDEN, MIXED, scale=MIXED**-0.5),
        "out_bias": random(HIDDEN),
    }


def qkv_case(weights, tokens: int) -> dict:
    cache = LayerCache(
        *(
            torch.full((600, 16, KV_HEADS, HEAD_DIM), float("nan"), device="cuda").bfloat16()
            for _ in range(2)
        )
    )
    angle = torch.rand(4096, HEAD_DIM // 2, device="cuda") * 6.3
    return {
        "normed": random(tokens, HIDDEN),
        "weight": weights["qkv"],
        "bias": weights["qkv_bias"],
        "positions": torch.randint(0, 4096, (tokens,), device="cuda"),
        "slots": torch.randperm(9600, device="cuda")[:tokens],
        "cos_sin": torch.cat((angle.cos(), angle.sin()), -1) * 1.35,
        "cache": cache,
    }


def qkv_truth(case: dict) -> tuple[torch.Tensor, LayerCache]:
    """Queries, and the cache as it should be, in float64."""
    rows = linear(case["normed"].double(), case["weight"].double(), case["bias"].double())
    heads = rows.view(len(rows), -1, HEAD_DIM)
    cos, sin = case["cos_sin"].double()[case["positions"]].chunk(2, dim=-1)
    turned = rotate(heads[:, :-KV_HEADS], cos, sin)
    cache = LayerCache(case["cache"].keys.double(), case["cache"].values.double())
    cache.keys.flatten(0, 1)[case["slots"]] = turned[:, HEADS:]
    cache.values.flatten(0, 1)[case["slots"]] = heads[:, -KV_HEADS:]
    return turned[:, :HEADS], cache


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("fields", QKV_SHAPES, ids=str)
def test_qkv(weights, fields, tokens):
    from ossia.kernels.qkv.cuda_mid import default_shape, project_normed_mid

    shape = shape_of(fields, default_shape(tokens))
    for pdl in (False, True):
        case = qkv_case(weights, tokens)
        truth, cache = qkv_truth(case)
        poison(tokens, HEADS, HEAD_DIM)
        q = project_normed_mid(**case, shape=shape, pdl=pdl)
        assert q.is_contiguous()
        assert error(q, truth) < MOST_ERROR
        for name in ("keys", "values"):
            found, wanted = (getattr(c, name).flatten(0, 1) for c in (case["cache"], cache))
            assert error(found[case["slots"]], wanted[case["slots"]]) < MOST_ERROR
            assert torch.equal(found.isnan(), wanted.isnan())


def test_tokens_without_a_slot_leave_the_cache_alone(weights):
    from ossia.kernels.qkv.cuda_mid import project_normed_mid

    case = qkv_case(weights, 70)
    case["slots"][1::2] = -1
    project_normed_mid(**case)
    for tensor in (case["cache"].keys, case["cache"].values):
        written = ~tensor.flatten(0, 1).isnan().flatten(1).any(-1)
        assert torch.equal(written.nonzero().flatten(), case["slots"][::2].sort().values)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("fields", OUT_SHAPES, ids=str)
def test_out(weights, fields, tokens):
    from ossia.kernels.attention_out.cuda_mid import default_shape, project_out_mid

    shape = shape_of(fields, default_shape(tokens))
    x, mixed = random(tokens, HIDDEN), random(tokens, HEADS, HEAD_DIM)
    weight, bias = weights["out"], weights["out_bias"]
    truth = project_out(x.double(), mixed.flatten(1).double(), weight.double(), bias.double())
    for pdl in (False, True):
        poison(tokens, HIDDEN)
        assert error(project_out_mid(x, mixed, weight, bias, shape=shape, pdl=pdl), truth) < (
            MOST_ERROR
        )


def test_results_do_not_depend_on_the_other_tokens(weights):
    from ossia.kernels.attention_out.cuda_mid import project_out_mid
    from ossia.kernels.qkv.cuda_mid import project_normed_mid

    x, mixed = random(256, HIDDEN), random(256, MIXED)
    whole = project_out_mid(x, mixed, weights["out"], weights["out_bias"])
    case = qkv_case(weights, 256)
    q = project_normed_mid(**case)
    keys = case["cache"].keys.flatten(0, 1)[case["slots"]]
    for count in (65, 128, 150, 192):
        part = project_out_mid(x[:count], mixed[:count], weights["out"], weights["out_bias"])
        assert torch.equal(part, whole[:count])
        some = {n: case[n][:count] for n in ("normed", "positions", "slots")}
        assert torch.equal(project_normed_mid(**{**case, **some}), q[:count])
        assert torch.equal(case["cache"].keys.flatten(0, 1)[case["slots"]], keys)


def test_a_graph_of_dependent_launches_gives_the_same_bits_each_time(weights):
    from ossia.kernels.attention_out.cuda_mid import project_out_mid
    from ossia.kernels.qkv.cuda_mid import project_normed_mid

    case = qkv_case(weights, 200)
    first = case.pop("normed")

    def step():
        x = first
        for _ in range(8):
            q = project_normed_mid(x, **case, pdl=True)
            x = project_out_mid(
                x * 0.5, q.flatten(1) * 0.1, weights["out"], weights["out_bias"], pdl=True
            )
        return x, q

    eager = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()
    for _ in range(20):
        for tensor in kept:
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(kept, eager, strict=True))


def test_logits_are_not_rounded():
    from ossia.kernels.lm_head.cuda_mid import default_shape, logits_mid

    torch.manual_seed(1)
    norm, weight = random(HIDDEN) * 0.1 + 1, random(VOCAB, HIDDEN, scale=HIDDEN**-0.5)
    some = torch.randperm(VOCAB, device="cuda")[:4000]
    some[:2] = torch.tensor([0, VOCAB - 1])
    for fields in HEAD_SHAPES:
        for rows in TOKENS:
            x = random(rows, HIDDEN)
            truth = rms_norm(x, norm, EPS).double() @ weight[some].double().T
            out = torch.full((rows, VOCAB), float("nan"), device="cuda")
            shape = shape_of(fields, default_shape(rows))
            assert logits_mid(x, norm, EPS, weight, shape=shape, pdl=True, out=out) is out
            assert not out.isnan().any()
            # The two norms may round a few elements differently; the product rounds none.
            assert error(out[:, some], truth) < 5e-4
