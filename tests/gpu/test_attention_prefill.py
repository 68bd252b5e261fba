"""The prefill kernel on a GPU, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.attention import reference
from ossia.kernels.attention.flash import find_flash
from ossia.kernels.attention.interface import write_cache
from ossia.model.batch import LayerCache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
TOLERANCE = 5e-3  # norm of the error over the norm of the truth
SCALE = 64**-0.5
STEPS = [
    ([0], [700]),
    ([2900], [1000]),
    ([20, 0, 1000, 90, 64, 63, 127], [1, 400, 170, 3, 1, 65, 128]),
]
IDS = ["prompt", "chunk", "mixed"]


@pytest.fixture
def prefill():
    from ossia.kernels.attention import triton_prefill

    return triton_prefill


@pytest.fixture
def make(attention_case):
    """A case in bfloat16 whose new keys are in the cache."""

    def case_of(cached, new, *, window=None, page_size=16):
        case = attention_case(
            cached,
            new,
            window=window,
            page_size=page_size,
            dtype=torch.bfloat16,
            device="cuda",
            heads=64,
            kv_heads=8,
            head_dim=64,
        )
        write_cache(case.cache, case.paged, case.k, case.v)
        return case

    return case_of


def error(out, case):
    """Relative, against the reference in float64. NaN if anything is."""
    wide = replace(
        case,
        q=case.q.double(),
        k=case.k.double(),
        v=case.v.double(),
        sinks=case.sinks.double(),
        cache=LayerCache(case.cache.keys.double(), case.cache.values.double()),
    )
    truth = wide.run(reference.prepare_attention)
    return ((out.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("page_size", [16, 64])
@pytest.mark.parametrize(("cached", "new"), STEPS, ids=IDS)
def test_matches_the_reference(prefill, make, cached, new, window, page_size):
    case = make(cached, new, window=window, page_size=page_size)
    out = prefill.attend_prefill(case.q, case.cache, case.paged, case.sinks, SCALE, window)
    assert error(out, case) < TOLERANCE


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("decodes", [2, 40])
def test_single_tokens_that_come_first(prefill, make, decodes, window):
    cached = [0, 3000, *range(40, 40 + 19 * (decodes - 2), 19), 700]
    case = make(cached, [1] * decodes + [130], window=window)
    paged = replace(case.paged, num_decodes=decodes)
    out = prefill.attend_prefill(case.q, case.cache, paged, case.sinks, SCALE, window)
    assert error(out, case) < TOLERANCE


@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize(
    "config",
    [
        (128, 64, 8, 3, 128),
        (64, 64, 4, 2, 128),
        (64, 32, 4, 3, None),
        (128, 64, 4, 3, None, True),
        (64, 64, 4, 3, 128, True),
        (256, 64, 16, 3, 128, True),
    ],
    ids=lambda config: "-".join(map(str, config)),
)
def test_configurations(prefill, make, window, config):
    case = make(*STEPS[2], window=window)
    out = prefill.attend_prefill(
        case.q,
        case.cache,
        case.paged,
        case.sinks,
        SCALE,
        window,
        config=prefill.PrefillConfig(*config),
    )
    assert error(out, case) < TOLERANCE


@pytest.mark.parametrize("window", [None, 128])
def test_flash_attention_of_another_package_matches_the_reference(make, window):
    backend = find_flash(torch.cuda.get_device_capability())
    if backend is None:
        pytest.skip("no FlashAttention with sinks is installed")
    case = make(*STEPS[2], window=window)
    cache = LayerCache(case.cache.keys.nan_to_num(), case.cache.values.nan_to_num())
    out = backend.attend_prefill(case.q, cache, case.paged, case.sinks, SCALE, window)
    assert error(out, case) < TOLERANCE, backend.name
