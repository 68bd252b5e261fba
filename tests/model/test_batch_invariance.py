"""On a CPU a sequence gets the same bits alone, in company, and however it is cut into chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.moe import prepare

RNG = torch.Generator().manual_seed(5)
TOKENS = torch.randint(0, 128, (90,), generator=RNG).tolist()
OTHERS = [torch.randint(0, 128, (n,), generator=RNG).tolist() for n in (1, 9, 40, 100, 3, 30)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
def test_logits_do_not_depend_on_chunks_or_on_other_sequences(
    small_config, random_weights, paged_model, monkeypatch, dtype, packed
):
    if packed:
        monkeypatch.setattr(prepare, "UNPACK_AT_MOST", 0)
    _check(_weights(small_config, random_weights, dtype, packed), paged_model)


def test_nor_do_they_with_two_threads(small_config, random_weights, paged_model):
    torch.set_num_threads(2)
    weights = _weights(small_config, random_weights, torch.float32, packed=False)
    tokens = TOKENS[:30]
    alone = paged_model(weights).run("a", tokens, len(tokens))
    assert torch.equal(_in_company(paged_model(weights), tokens), alone)


def _weights(small_config, random_weights, dtype, packed):
    config = replace(small_config, num_layers=2, layer_types=(), sliding_window=40)
    return random_weights(config, packed=packed, dtype=dtype)


def _check(weights, paged_model):
    alone = paged_model(weights).run("a", TOKENS, len(TOKENS))
    assert torch.equal(paged_model(weights).run("a", TOKENS, 37), alone)
    assert torch.equal(paged_model(weights).run("a", TOKENS, 1), alone)
    assert torch.equal(_in_company(paged_model(weights), TOKENS), alone)


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
