"""Attention in plain torch against the reference."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.attention import blocked, reference

STEPS = {
    "one prefill": ([0], [7]),
    "decoding": ([33, 0, 70, 63, 64, 65], [1, 1, 1, 1, 1, 1]),
    "long prefill": ([0, 130], [150, 64]),
    "mixed": ([20, 0, 5, 190, 64], [1, 140, 17, 3, 1]),
}


@pytest.mark.parametrize("window", [None, 1, 10, 70])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("heads", [(8, 2), (8, 1), (3, 3), (6, 1)], ids=str)
def test_matches_the_reference(attention_case, step, window, heads):
    case = attention_case(*STEPS[step], window=window, heads=heads[0], kv_heads=heads[1])
    torch.testing.assert_close(
        case.run(blocked.prepare_attention),
        case.run(reference.prepare_attention),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("prepare", [blocked.prepare_attention, reference.prepare_attention])
@pytest.mark.parametrize("window", [None, 10])
@pytest.mark.parametrize("padding", [1, 30])
def test_padding_sees_no_keys(attention_case, prepare, window, padding):
    case = attention_case(*STEPS["mixed"], window=window, page_size=32)
    expected = case.run(prepare)
    found = case.with_padding(padding).run(prepare)
    assert torch.equal(found[: len(expected)], expected)
    assert torch.equal(found[len(expected) :], torch.zeros_like(found[len(expected) :]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_types(attention_case, dtype):
    case = attention_case(*STEPS["mixed"], window=10, dtype=dtype)
    ours, truth = case.run(blocked.prepare_attention), case.run(reference.prepare_attention)
    assert ours.dtype == dtype
    tolerance = {torch.bfloat16: 2**-8, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance)


def test_large_scores_and_sinks_do_not_overflow(attention_case):
    case = attention_case(*STEPS["mixed"])
    case.q.mul_(100)
    case.sinks.mul_(100)
    ours = case.run(blocked.prepare_attention)
    assert torch.isfinite(ours).all()
    truth = case.run(reference.prepare_attention)
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
