"""Masks on the GPU forbid the same tokens as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ossia.engine.masks import MASK_WORDS, MaskCache
from ossia.engine.sampler import sample
from ossia.engine.sampling_state import SamplingState
from ossia.harmony.tokenizer import VOCAB_SIZE
from ossia.sampling import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
KINDS = [
    {"temperature": 0.0},
    {"temperature": 2.0},
    {"top_k": 5},
    {"temperature": 2.0, "top_p": 0.7, "min_p": 0.001},
    {"temperature": 0.0, "logprobs": 2, "presence_penalty": 1.0},
]


def words_of(tokens: torch.Tensor) -> np.ndarray:
    """The bits of these tokens."""
    bits = np.zeros(MASK_WORDS * 32, dtype=np.uint8)
    bits[tokens.numpy()] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def state(seed: int) -> SamplingState:
    params = SamplingParams(**KINDS[seed % len(KINDS)])
    return SamplingState(params, seed=seed, prompt=(), stop_token_ids=())


def test_a_mixed_batch_takes_only_what_the_masks_allow() -> None:
    random = torch.Generator().manual_seed(1)
    device = torch.device("cuda")
    caches = MaskCache(torch.device("cpu")), MaskCache(device)
    allowed: list[set[int] | None] = []
    masks: tuple[list, list] = ([], [])
    for row in range(40):
        if row % 7 == 6:
            allowed.append(None)
            masks[0].append(None)
            masks[1].append(None)
            continue
        count = (1, 3, 900, 120_000, VOCAB_SIZE - 20)[row % 5]
        tokens = torch.randperm(VOCAB_SIZE, generator=random)[:count]
        allowed.append(set(tokens.tolist()))
        for cache, out in zip(caches, masks, strict=True):
            out.append(cache.get(words_of(tokens)))
    logits = torch.randn(40, VOCAB_SIZE, generator=random) * 3
    on_cpu = sample(logits.clone(), [state(i) for i in range(40)], masks[0])
    on_gpu = sample(logits.to(device), [state(i) for i in range(40)], masks[1])
    for row, (one, other, only) in enumerate(zip(on_cpu, on_gpu, allowed, strict=True)):
        assert only is None or (one.token in only and other.token in only), row
        if KINDS[row % len(KINDS)].get("temperature") == 0.0:
            assert one.token == other.token, row
