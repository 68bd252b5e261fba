"""Penalties, biases and stop tokens of the rows that have some, listed for the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ossia.engine.masks import Only
from ossia.engine.sampling_state import SamplingState
from ossia.kernels.sampling.interface import Edits

Part = NDArray[np.generic]


def list_edits(
    states: Sequence[SamplingState], rows: Sequence[int], device: torch.device
) -> Edits | None:
    """The edits of these rows, sent to the device without waiting; None if there are none."""
    headers: list[tuple[int, ...]] = []
    penalties: list[tuple[float, ...]] = []
    tokens: list[Part] = []
    values: list[NDArray[np.float32]] = []
    size = 0
    for row in rows:
        state = states[row]
        params = state.params
        ends = [size]
        for ids, amounts in _lists(state):
            tokens.append(ids.astype(np.int32))
            values.append(amounts.astype(np.float32))
            size += len(ids)
            ends.append(size)
        if size > ends[0]:
            headers.append((row, *ends, 0, 0, 0))
            penalties.append(
                (params.repetition_penalty, params.frequency_penalty, params.presence_penalty, 0.0)
            )
    if not headers:
        return None
    # All in one copy, every part aligned alike.
    tokens.append(np.zeros(-size % 4, dtype=np.int32))
    values.append(np.zeros(-size % 4, dtype=np.float32))
    parts: list[Part] = [
        np.array(headers, dtype=np.int32).ravel(),
        np.array(penalties, dtype=np.float32).ravel().view(np.int32),
        np.concatenate(tokens),
        np.concatenate([part.view(np.int32) for part in values]),
    ]
    length = sum(map(len, parts))
    stage = torch.empty(length, dtype=torch.int32, pin_memory=device.type == "cuda")
    np.concatenate(parts, out=stage.numpy())
    sent = stage.to(device, non_blocking=True)
    head, penalty, listed, numbers = torch.split(sent, [len(part) for part in parts])
    return Edits(
        rows=head.view(-1, 8),
        penalties=penalty.view(torch.float32).view(-1, 4),
        tokens=listed,
        values=numbers.view(torch.float32),
    )


def _lists(state: SamplingState) -> list[tuple[Part, Part]]:
    """Tokens seen with their counts, tokens with their bias, stop tokens that are held back."""
    none = np.zeros(0, dtype=np.int32)
    seen: tuple[Part, Part] = (none, none)
    if state.counts is not None:
        seen = (state.counts.ids, state.counts.counts)
    bias = state.params.logit_bias
    biased = np.fromiter(bias.keys(), np.int32, len(bias))
    amounts = np.fromiter(bias.values(), np.float32, len(bias))
    stops = np.array(_held_back(state), dtype=np.int32)
    return [seen, (biased, amounts), (stops, np.zeros(len(stops), dtype=np.float32))]


def _held_back(state: SamplingState) -> tuple[int, ...]:
    """Stop tokens before `min_tokens`, unless the mask allows nothing else."""
    if not state.stop_is_masked:
        return ()
    if isinstance(state.mask, Only) and np.isin(state.mask.tokens, state.stop_token_ids).all():
        return ()
    return state.stop_token_ids
