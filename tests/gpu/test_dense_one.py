"""The dense kernels of one token on a GPU, in the geometry of gpt-oss, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ossia.kernels.attention_out import reference as out_reference
from ossia.kernels.qkv import reference as qkv_reference
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.model.batch import LayerCache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2880, 64, 8, 64, 201_088
EPS = 1e-5
PAGES, PAGE_SIZE = 30, 16
WORST = 5e-3  # norm of the error by norm of the result


@pytest.fixture(params=[False, True], ids=["plain launch", "dependent launch"])
def pdl(request: pytest.FixtureRequest) -> bool:
    if request.param and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("programmatic dependent launch needs a Hopper GPU")
    return bool(request.param)


@pytest.fixture
def _poisoned_memory() -> Iterator[None]:
    """What torch.empty returns is NaN until a kernel writes it."""
    kept = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = kept


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    rng = torch.Generator("cuda").manual_seed(seed)
    return (torch.randn(*shape, generator=rng, device="cuda") * scale).bfloat16()


def norm_weight() -> Tensor:
    return normal(HIDDEN, scale=0.3, seed=9) + 1


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


def empty_cache() -> LayerCache:
    shape = (PAGES, PAGE_SIZE, KV_HEADS, HEAD_DIM)
    keys, values = (
        torch.full(shape, torch.nan, dtype=torch.bfloat16, device="cuda") for _ in range(2)
    )
    return LayerCache(keys, values)


class Qkv:
    """One layer's weights and a token."""

    def __init__(self) -> None:
        rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        self.x = normal(1, HIDDEN, scale=3)
        self.norm = norm_weight()
        self.weight = normal(rows, HIDDEN, scale=0.02, seed=1)
        self.bias = normal(rows, seed=2)
        angles = torch.rand(1000, HEAD_DIM // 2, device="cuda") * 6
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1) * 1.35

    def truth(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in float64."""
        cache = LayerCache(*(t.double() for t in (empty_cache().keys, empty_cache().values)))
        q = qkv_reference.project_qkv(
            self.x.double(),
            self.norm.double(),
            self.weight.double(),
            self.bias.double(),
            EPS,
            torch.tensor([position], device="cuda"),
            torch.tensor([0], device="cuda"),
            self.cos_sin.double(),
            cache,
        )
        return q, cache.keys[0, 0], cache.values[0, 0]


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("rows", [2, 4, 8])
def test_qkv(pdl: bool, rows: int) -> None:
    from ossia.kernels.linear.triton_one import MatVecShape
    from ossia.kernels.qkv.triton_one import project_qkv_one

    case = Qkv()
    for position, slot in ((0, 5), (999, PAGES * PAGE_SIZE - 1)):
        cache = empty_cache()
        # Views at an odd address, as a row of a larger step has.
        step = torch.tensor([7, position, slot], device="cuda")
        weights = (case.norm, case.weight, case.bias)
        shape = MatVecShape(rows=rows, piece=1024, warps=4)
        q = project_qkv_one(
            case.x, *weights, EPS, step[1:2], step[2:], case.cos_sin, cache, shape=shape, pdl=pdl
        )
        keys, values = cache.keys.flatten(0, 1), cache.values.flatten(0, 1)
        for found, truth in zip((q, keys[slot], values[slot]), case.truth(position), strict=True):
            assert error(found, truth) < WORST
        for pool in (keys, values):
            assert int(pool.isnan().all(-1).all(-1).sum()) == len(pool) - 1


def test_qkv_is_closer_to_the_formula_than_the_reference_in_bfloat16() -> None:
    from ossia.kernels.qkv.triton_one import project_qkv_one

    case = Qkv()
    at = torch.tensor([123], device="cuda")
    errors = []
    for project in (project_qkv_one, qkv_reference.project_qkv):
        cache = empty_cache()
        weights = (case.norm, case.weight, case.bias)
        q = project(case.x, *weights, EPS, at, at, case.cos_sin, cache)
        found = (q, cache.keys.flatten(0, 1)[123], cache.values.flatten(0, 1)[123])
        errors.append([error(*both) for both in zip(found, case.truth(123), strict=True)])
    assert all(mine <= plain for mine, plain in zip(*errors, strict=True)), errors


def test_qkv_compiles_once_for_all_positions_and_slots() -> None:
    from ossia.kernels.qkv import triton_one

    case = Qkv()
    cache = empty_cache()
    counts = set()
    for at, (position, slot) in enumerate(((3, 4), (0, 1), (16, 16), (999, 479))):
        step = torch.tensor([position, slot] * 4, device="cuda")
        positions, slots = step[2 * (at // 2) :][:1], step[2 * at + 1 :][:1]
        weights = (case.norm, case.weight, case.bias)
        triton_one.project_qkv_one(case.x, *weights, EPS, positions, slots, case.cos_sin, cache)
        kernels = triton_one._project_qkv_one.device_caches[torch.cuda.current_device()][0]
        counts.add(len(kernels))
    assert len(counts) == 1


@pytest.mark.usefixtures("_poisoned_memory")
def test_out(pdl: bool) -> None:
    from ossia.kernels.attention_out.triton_one import project_out_one

    x, mixed = normal(1, HIDDEN, scale=3), normal(1, HEADS * HEAD_DIM, seed=1)
    weight = normal(HIDDEN, HEADS * HEAD_DIM, scale=0.02, seed=2)
    bias = normal(HIDDEN, seed=3)
    kept = x.clone()
    found = project_out_one(x, mixed, weight, bias, pdl=pdl)
    truth = out_reference.project_out(*(t.double() for t in (x, mixed, weight, bias)))
    assert error(found, truth) < WORST
    assert torch.equal(x, kept)


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("warps", [4, 8, 16])
def test_router(pdl: bool, experts: int, warps: int) -> None:
    from ossia.kernels.router.triton_one import route_one

    x, norm = normal(1, HIDDEN, scale=3), norm_weight()
    weight, bias = normal(experts, HIDDEN, scale=0.02, seed=1), normal(experts, seed=2)
    normed, logits = route_one(x, norm, weight, bias, EPS, warps=warps, pdl=pdl)
    assert error(normed, rms_norm(x.double(), norm.double(), EPS)) < WORST
    truth = weight.double() @ normed[0].double() + bias.double()
    assert logits.dtype == torch.float32
    assert error(logits, truth) < 1e-5


@pytest.mark.usefixtures("_poisoned_memory")
def test_head(pdl: bool) -> None:
    from ossia.kernels.lm_head.triton_one import logits_one

    x, norm = normal(1, HIDDEN, scale=3), norm_weight()
    weight = normal(VOCAB, HIDDEN, scale=0.02, seed=1)
    logits = logits_one(x, norm, EPS, weight, pdl=pdl)
    normed = rms_norm(x.double(), norm.double(), EPS)
    truth = torch.cat([normed @ part.double().T for part in weight.split(50_272)], dim=-1)
    assert logits.dtype == torch.float32
    assert error(logits, truth) < 1e-5


def test_a_captured_chain_has_the_same_bits_with_and_without_dependent_launch() -> None:
    if torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("programmatic dependent launch needs a Hopper GPU")
    from ossia.kernels.attention_out.triton_one import project_out_one
    from ossia.kernels.qkv.triton_one import project_qkv_one
    from ossia.kernels.router.triton_one import route_one

    case = Qkv()
    router = normal(32, HIDDEN, scale=0.02, seed=4), normal(32, seed=5)
    out = normal(HIDDEN, HEADS * HEAD_DIM, scale=0.02, seed=6), normal(HIDDEN, seed=7)
    at = torch.tensor([17], device="cuda")

    def layers(pdl: bool, caches: list[LayerCache]) -> list[Tensor]:
        x, kept = case.x, []
        for cache in caches:
            weights = (case.norm, case.weight, case.bias)
            q = project_qkv_one(x, *weights, EPS, at, at, case.cos_sin, cache, pdl=pdl)
            x = project_out_one(x, q, *out, pdl=pdl)
            normed, logits = route_one(x, case.norm, *router, EPS, pdl=pdl)
            kept += [q, x, normed, logits]
            x = normed
        return kept

    runs = []
    for pdl in (False, True):
        caches = [empty_cache() for _ in range(4)]
        layers(pdl, caches)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = layers(pdl, caches)
        for tensor in found:
            tensor.fill_(torch.nan)
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        assert not any(tensor.isnan().any() for tensor in found)
        found += [pool[1, 1] for cache in caches for pool in (cache.keys, cache.values)]
        runs.append([tensor.clone() for tensor in found])
    assert all(torch.equal(*both) for both in zip(*runs, strict=True))
