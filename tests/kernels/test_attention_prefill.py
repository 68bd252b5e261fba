"""The prefill kernel against the reference, on a CPU by Triton's interpreter.

The interpreter must be chosen before Triton is first imported, so the tests below run in a process
of their own, which `test_in_the_interpreter` starts. `tests/gpu/test_attention_prefill.py` runs the
kernel on a GPU, in bfloat16 too, which the interpreter cannot multiply.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
import torch

from ossia.kernels.attention import reference
from ossia.kernels.attention.interface import write_cache

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__)


@pytest.fixture
def prefill():
    from ossia.kernels.attention import triton_prefill

    return triton_prefill


def run(prefill, case, config=None):
    """`attend_prefill` on a cache that holds the new keys and values."""
    write_cache(case.cache, case.paged, case.k, case.v)
    scale = case.q.shape[-1] ** -0.5
    return prefill.attend_prefill(
        case.q, case.cache, case.paged, case.sinks, scale, case.window, config=config
    )


def config_of(prefill, rows, keys, *, at_once=False):
    return prefill.PrefillConfig(rows=rows, keys=keys, warps=4, stages=2, at_once=at_once)


@interpreted
@pytest.mark.parametrize("window", [None, 128, 20])
@pytest.mark.parametrize(
    ("cached", "new"),
    [
        ([0], [300]),
        ([170], [130]),
        ([20, 0, 5, 290, 64, 63], [1, 45, 32, 3, 1, 64]),
    ],
    ids=["prompt", "chunk", "mixed"],
)
def test_triton_matches_the_reference(prefill, attention_case, cached, new, window):
    case = attention_case(cached, new, window=window, page_size=16)
    torch.testing.assert_close(
        run(prefill, case), case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5
    )


@interpreted
@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 8, "kv_heads": 1, "head_dim": 64},
        {"heads": 2, "kv_heads": 2, "head_dim": 32, "page_size": 32},
        {"heads": 32, "kv_heads": 1, "head_dim": 16, "page_size": 64},
        {"heads": 4, "kv_heads": 2, "head_dim": 16, "page_size": 128},
    ],
    ids=["groups of 8", "groups of 1", "groups of 32", "large pages"],
)
@pytest.mark.parametrize("window", [None, 50])
def test_geometries(prefill, attention_case, shape, window):
    case = attention_case([90, 0], [7, 40], window=window, **{"page_size": 16, **shape})
    torch.testing.assert_close(
        run(prefill, case), case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5
    )


@interpreted
def test_random_steps_and_configurations(prefill, attention_case):
    rng = random.Random(0)
    for seed in range(10):
        cached = [rng.choice([0, rng.randrange(200)]) for _ in range(3)]
        new = [rng.choice([1, rng.randrange(1, 90)]) for _ in range(3)]
        window = rng.choice([None, rng.randrange(1, 150)])
        config = config_of(
            prefill, rng.choice([16, 64, 128]), rng.choice([16, 32, 64]), at_once=rng.random() < 0.7
        )
        case = attention_case(cached, new, window=window, page_size=16, seed=seed)
        torch.testing.assert_close(
            run(prefill, case, config),
            case.run(reference.prepare_attention),
            rtol=1e-5,
            atol=1e-5,
            msg=lambda text, at=(cached, new, window, config): f"{at}: {text}",
        )


@interpreted
@pytest.mark.parametrize("window", [None, 20, 128, 200])
@pytest.mark.parametrize("decodes", [1, 3, 4])
def test_single_tokens_that_come_first(prefill, attention_case, decodes, window):
    step = ([20, 0, 135, 5], [1, 1, 1, 1]) if decodes == 4 else ([20, 0, 135, 40], [1, 1, 1, 70])
    case = attention_case(*step, window=window, page_size=16)
    case = replace(case, paged=replace(case.paged, num_decodes=decodes))
    torch.testing.assert_close(
        run(prefill, case), case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5
    )


@interpreted
@pytest.mark.parametrize("window", [None, 5, 20, 128, 200])
@pytest.mark.parametrize("padding", [1, 15, 17, 45])
def test_padding_sees_no_keys(prefill, attention_case, padding, window):
    """Nor does what its slots hold show: those that nobody wrote are NaN here."""
    case = attention_case([20, 0], [9, 30], window=window, page_size=64)
    expected = case.run(reference.prepare_attention)
    found = run(prefill, case.with_padding(padding))
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[len(expected) :], torch.zeros_like(found[len(expected) :]))


@interpreted
def test_float16_stays_within_rounding(prefill, attention_case):
    case = attention_case([40, 0], [1, 60], dtype=torch.float16, page_size=16)
    torch.testing.assert_close(
        run(prefill, case), case.run(reference.prepare_attention), rtol=3e-3, atol=3e-3
    )


@interpreted
def test_what_the_kernel_cannot_do_is_refused(prefill, attention_case):
    case = attention_case([5], [2], heads=3, kv_heads=1, head_dim=16, page_size=16)
    with pytest.raises(ValueError, match="3 query heads"):
        run(prefill, case)
