"""What the native library loses against float32, on the demo model's own answers and at random."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.checkpoint.load import load_weights
from ossia.checkpoint.resolve import resolve_model
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.kernels.native.kernels import native_kernels
from ossia.kernels.native.library import status
from ossia.kernels.select import select_kernels
from ossia.model.gpt_oss import GptOssForCausalLM
from ossia.turn import Turn, UserMessage

from .conftest import CPU, PagedModel

pytestmark = pytest.mark.skipif(not status().available, reason=status().sentence)
QUESTIONS = ("What is 2 + 3?", "What is 17 times 23?", "Who are you?", "Write a poem about love")
ANSWER = 40


@pytest.fixture(scope="module")
def demo():
    """The demo model's weights in float32."""
    return load_weights(resolve_model("demo"), dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def answers(demo):
    """For each question the prompt and the answer of the float32 network, and its logits."""
    tokenizer, found = Tokenizer(), []
    for question in QUESTIONS:
        prompt = render_prompt(Turn(items=(UserMessage(question),)), tokenizer)
        model, tokens, rows = _paged(demo, None), list(prompt), []
        logits = model.step({"a": prompt}, rows=[len(prompt) - 1])["a"]
        for _ in range(ANSWER):
            rows.append(logits[-1])
            tokens.append(int(logits[-1].argmax()))
            logits = model.step({"a": tokens[-1:]})["a"]
        found.append((tokens[:-1], len(prompt), torch.stack(rows)))
    return found


@pytest.mark.parametrize(
    ("dense", "dtype", "divergence"),
    [
        ("int8", torch.float32, 1e-3),
        ("int8", torch.bfloat16, 1e-3),
        ("bf16", torch.float32, 1e-5),
    ],
    ids=str,
)
def test_the_demo_model_says_the_same(demo, answers, dense, dtype, divergence):
    weights = replace(demo, embedding=demo.embedding.to(dtype))
    total = same = positions = 0
    for tokens, start, truth in answers:
        model = _paged(weights, native_kernels(dense))
        logits = model.step({"a": tokens}, rows=range(start - 1, len(tokens)))["a"]
        total += _divergences(truth, logits).sum()
        same += int((truth.argmax(-1) == logits.argmax(-1)).sum())
        positions += len(truth)
    assert same >= 0.995 * positions
    assert total / positions < divergence


@pytest.mark.parametrize("dense", ["int8", "bf16"])
def test_a_random_model_stays_close(small_config, random_weights, dense):
    # Large random weights put routers on the edge and make flat distributions: a rounding may move
    # a token to another expert, so the median is what counts.
    config = replace(small_config, num_layers=2, layer_types=())
    weights = random_weights(config, packed=True)
    tokens = torch.randint(0, 128, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    truth = _paged(weights, None).run("a", tokens, 200)
    found = _paged(weights, native_kernels(dense)).run("a", tokens, 50)
    assert _divergences(truth, found).median() < (2e-3 if dense == "int8" else 1e-5)
    same = (truth.argmax(-1) == found.argmax(-1)).double().mean()
    assert same > (0.7 if dense == "int8" else 0.95)


def _paged(weights, native):
    kernels = replace(select_kernels(CPU, weights.embedding.dtype), native=native)
    return PagedModel(GptOssForCausalLM(weights, kernels, CPU), page_size=16)


def _divergences(truth, found):
    """KL divergence of each row, in nats."""
    expected, got = truth.double().log_softmax(-1), found.double().log_softmax(-1)
    return (expected.exp() * (expected - got)).sum(-1)
