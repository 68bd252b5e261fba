"""The network in the native library is the network in plain operations, and keeps its promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.native.kernels import NativeKernels, native_kernels
from ossia.kernels.native.library import open_context, status
from ossia.kernels.native.matrices import Kind
from ossia.kernels.select import select_kernels
from ossia.model.gpt_oss import GptOssForCausalLM

from .conftest import CPU, PagedModel

pytestmark = pytest.mark.skipif(not status().available, reason=status().sentence)
RNG = torch.Generator().manual_seed(5)
TOKENS = torch.randint(0, 128, (90,), generator=RNG).tolist()
OTHERS = [torch.randint(0, 128, (n,), generator=RNG).tolist() for n in (1, 9, 40, 100, 3, 30)]


@pytest.fixture
def weights(small_config, random_weights):
    config = replace(small_config, num_layers=4, layer_types=(), sliding_window=40)
    return random_weights(config, packed=True)


def _model(weights, native):
    kernels = replace(select_kernels(CPU, weights.embedding.dtype), native=native)
    return PagedModel(GptOssForCausalLM(weights, kernels, CPU))


@pytest.mark.parametrize("level", status().levels)
@pytest.mark.parametrize("chunk", [90, 37, 1])
def test_logits_are_those_of_the_plain_operations(weights, paged_model, level, chunk):
    native = NativeKernels(open_context(level=level, threads=2), Kind.BF16)
    truth = paged_model(weights).run("a", TOKENS, 90)
    found = _model(weights, native).run("a", TOKENS, chunk)
    # bfloat16 products: of activations on levels that have no exact product for such weights.
    assert (found - truth).norm() < 2e-2 * truth.norm()


def test_eight_bit_weights_lose_little(small_config, random_weights, paged_model):
    # One layer: after more of these random ones, some tokens go to other experts.
    config = replace(small_config, num_layers=1, layer_types=())
    weights = random_weights(config, packed=True)
    truth = paged_model(weights).run("a", TOKENS, 90)
    found = _model(weights, native_kernels("int8")).run("a", TOKENS, 90)
    assert (found - truth).norm(dim=-1).median() < 3e-2 * truth.norm(dim=-1).median()


@pytest.mark.parametrize("dense", ["int8", "bf16"])
def test_bits_do_not_depend_on_chunks_or_on_other_sequences(weights, dense):
    native = native_kernels(dense, threads=2)
    if not native.batch_invariant:
        pytest.skip("with AMX, many tokens of an expert are multiplied in bfloat16")
    alone = _model(weights, native).run("a", TOKENS, 90)
    assert torch.equal(_model(weights, native).run("a", TOKENS, 37), alone)
    assert torch.equal(_model(weights, native).run("a", TOKENS, 1), alone)
    assert torch.equal(_in_company(_model(weights, native), TOKENS), alone)


def _in_company(model, tokens):
    """The tokens in chunks of changing size, beside others that prefill, decode and end."""
    queues = {f"other {i}": list(tokens) for i, tokens in enumerate(OTHERS)}
    rest, found, step = list(tokens), [], 0
    while rest:
        take = (1, 1, 13, 2, 1, 30)[step % 6]
        chunks = {"a": rest[:take]}
        for i, (name, queue) in enumerate(queues.items()):
            if queue and (step + i) % 3:
                chunks[name] = queue[: (1, 4, 1, 25)[(step + i) % 4]]
                del queue[: len(chunks[name])]
        names = sorted(chunks, reverse=bool(step % 2))
        found.append(model.step({name: chunks[name] for name in names})["a"])
        del rest[:take]
        step += 1
    return torch.cat(found)
