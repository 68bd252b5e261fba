"""The network against Hugging Face transformers, on small random models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.config import RopeConfig
from ossia.kernels.moe import prepare

RNG = torch.Generator().manual_seed(3)
TOKENS = torch.randint(0, 128, (60,), generator=RNG).tolist()
OTHER_TOKENS = torch.randint(0, 128, (45,), generator=RNG).tolist()
FLOAT32_TOLERANCE = 1e-5  # of the largest logit
# Root mean square of the error over that of the logits, ours over transformers', in bfloat16,
# averaged over models; a single model varies between 0.5 and 1.3 with the experts it picks.
BFLOAT16_RATIO = 1.1


def relative_error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours.double() - truth.double()).abs().max() / truth.double().abs().max())


@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("packed", [False, True], ids=["plain experts", "MXFP4 experts"])
def test_prefill(small_config, random_weights, hf_logits, paged_model, head_dim, packed):
    weights = random_weights(replace(small_config, head_dim=head_dim), packed=packed)
    ours = paged_model(weights).step({"a": TOKENS})["a"]
    assert relative_error(ours, hf_logits(weights, TOKENS, torch.float32)) < FLOAT32_TOLERANCE


def test_experts_that_stay_packed(
    small_config, random_weights, hf_logits, paged_model, monkeypatch
):
    monkeypatch.setattr(prepare, "UNPACK_AT_MOST", 0)
    weights = random_weights(small_config, packed=True)
    ours = paged_model(weights).step({"a": TOKENS})["a"]
    assert relative_error(ours, hf_logits(weights, TOKENS, torch.float32)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 2)], ids=str)
def test_other_group_sizes(small_config, random_weights, hf_logits, paged_model, heads):
    weights = random_weights(replace(small_config, num_heads=heads[0], num_kv_heads=heads[1]))
    ours = paged_model(weights).run("a", TOKENS, 17)
    assert relative_error(ours, hf_logits(weights, TOKENS, torch.float32)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunks_and_single_steps_beyond_the_window(
    small_config, random_weights, hf_logits, paged_model, chunk
):
    weights = random_weights(small_config)
    ours = paged_model(weights).run("a", TOKENS, chunk)
    assert relative_error(ours, hf_logits(weights, TOKENS, torch.float32)) < FLOAT32_TOLERANCE


def test_prefill_and_decoding_mixed_in_one_step(
    small_config, random_weights, hf_logits, paged_model
):
    weights = random_weights(small_config)
    model = paged_model(weights)
    found = {"a": [model.step({"a": TOKENS[:30]})["a"]], "b": []}
    for i in range(30, 60):
        start = (i - 30) * 3
        chunks = {"b": OTHER_TOKENS[start : start + 3], "a": [TOKENS[i]]}
        for name, logits in model.step({n: c for n, c in chunks.items() if c}).items():
            found[name].append(logits)
    for name, tokens in (("a", TOKENS), ("b", OTHER_TOKENS)):
        truth = hf_logits(weights, tokens, torch.float32)
        assert relative_error(torch.cat(found[name]), truth) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(original_context=16),
        RopeConfig(original_context=64, factor=4.0, theta=10000.0),
        RopeConfig(original_context=64, truncate=True),
    ],
    ids=["32 x 16", "4 x 64", "truncated"],
)
def test_yarn_beyond_the_original_context(
    small_config, random_weights, hf_logits, paged_model, rope
):
    weights = random_weights(replace(small_config, rope=rope, head_dim=64))
    tokens = (TOKENS + OTHER_TOKENS) * 2
    ours = paged_model(weights).run("a", tokens, 100)
    assert relative_error(ours, hf_logits(weights, tokens, torch.float32)) < FLOAT32_TOLERANCE


def test_sinks_take_part(small_config, random_weights, hf_logits, paged_model):
    weights = random_weights(small_config)
    larger = replace(weights, layers=tuple(replace(w, sinks=w.sinks + 2) for w in weights.layers))
    before, after = (paged_model(w).step({"a": TOKENS})["a"] for w in (weights, larger))
    assert relative_error(after, before) > 0.01
    assert relative_error(after, hf_logits(larger, TOKENS, torch.float32)) < FLOAT32_TOLERANCE


def test_only_the_wanted_rows_get_logits(small_config, random_weights, paged_model):
    model = paged_model(random_weights(small_config))
    everywhere = model.step({"a": TOKENS, "b": OTHER_TOKENS})
    wanted = model.step({"c": TOKENS, "d": OTHER_TOKENS}, rows=[59, 104])
    assert torch.equal(wanted["c"], everywhere["a"][-1:])
    assert torch.equal(wanted["d"], everywhere["b"][-1:])
    assert model.step({"e": TOKENS}, rows=[])["e"].shape == (0, 128)


def test_bfloat16_is_as_close_to_float64_as_transformers_is(
    small_config, random_weights, hf_logits, paged_model
):
    def error(logits):
        return float((logits.double() - truth).norm() / truth.norm())

    ours, theirs = [], []
    for seed in range(6):
        weights = random_weights(small_config, seed=seed)
        rounded = random_weights(small_config, seed=seed, dtype=torch.bfloat16)
        truth = hf_logits(weights, TOKENS, torch.float64)
        ours.append(error(paged_model(rounded).run("a", TOKENS, 25)))
        theirs.append(error(hf_logits(weights, TOKENS, torch.bfloat16)))
    assert sum(ours) <= BFLOAT16_RATIO * sum(theirs)
    assert max(ours) < 0.25
