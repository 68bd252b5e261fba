"""From logits to tokens on a CPU, for many sequences with parameters of their own.

`DeviceSampler` does the same on a GPU.

Order of operations, for each row:
 1. log-probabilities, if asked for: log softmax of the logits as the model gave them;
 2. repetition penalty on tokens of the prompt and the answer (x / p if x > 0, else x * p, as in
    https://arxiv.org/abs/1909.05858), then presence and frequency penalty on tokens of the
    answer (x - presence - frequency * count), then logit_bias (x + bias);
 3. forbidden tokens become -inf: those outside the mask, whatever their bias, and stop tokens
    before min_tokens, unless the mask allows nothing else. Where a mask allows few tokens the
    others are left out instead, so what follows costs as much as the tokens that are possible;
 4. temperature: weights w = exp((x - max x) / temperature); temperature 0 takes the largest x;
 5. top_k, then top_p of what top_k left, then min_p: each is a threshold on w, and tokens that
    tie with the threshold stay;
 6. one uniform number from (seed, position) picks a token by the inverse of the cumulative sum.

No step sorts the vocabulary. Rows are independent: a row's token does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ossia.engine.masks import AllBut, Mask, Nothing, Only
from ossia.engine.messages import TokenLogprobs
from ossia.engine.randomness import uniform
from ossia.engine.sample_few import LOG2_E, choose
from ossia.engine.sampling_state import SamplingState
from ossia.engine.vocabulary import TOKENIZER_SIZE

BLOCK = 128  # tokens summarised together; 201088 is a multiple
TOP_P_BUCKETS = 0x3F80 + 1  # upper 16 bits of a float32 in [0, 1]
ROWS = 4  # sampled together; 1 pays more for calls, 32 for memory

NOT_FINITE = (
    "The model computed values that are not finite numbers for this request; it was stopped."
)
NOTHING_ALLOWED = "The constraints of this request forbid every token at this point."


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of one row, or the sentence that says why there is none."""

    token: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


def sample(
    logits: Tensor, states: Sequence[SamplingState], masks: Sequence[Mask | None] = ()
) -> list[Sampled]:
    """Choose the next token of each row.

    Args:
        logits: float32 [rows, vocab]; overwritten.
        states: one a row; not advanced (`SamplingState.record` does that).
        masks: one a row, None for any token; empty if no row has one.

    Returns:
        One result a row, in order.
    """
    logits = logits[:, :TOKENIZER_SIZE]
    masks = masks or [None] * len(states)
    results: dict[int, Sampled] = {}
    whole: list[_Row] = []
    few: list[_Row] = []
    for i, (state, mask) in enumerate(zip(states, masks, strict=True)):
        if isinstance(mask, Nothing):
            results[i] = Sampled(-1, error=mask.reason)
        elif not isinstance(mask, Only):
            whole.append(_Row(i, state, mask))
        elif mask.forced is not None and state.params.logprobs is None:
            results[i] = Sampled(mask.forced)
        else:
            few.append(_Row(i, state, mask))
    for rows in _groups(whole):
        _sample_whole(logits, rows, results)
    if few:
        _sample_few(logits, few, results)
    return [results[i] for i in range(len(states))]


class _Row(NamedTuple):
    at: int  # its row of the logits
    state: SamplingState
    mask: Only | AllBut | None


def _groups(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Rows to be sampled together.

    Few at a time stay in the cache, and only neighbours go together, because rows that do not
    stand together have to be copied.
    """
    group: list[_Row] = []
    for row in rows:
        if group and (len(group) == ROWS or row.at != group[-1].at + 1):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _sample_whole(logits: Tensor, rows: Sequence[_Row], results: dict[int, Sampled]) -> None:
    """Rows that may take most of the vocabulary; they are edited in place."""
    states = [row.state for row in rows]
    raw = _take(logits, [row.at for row in rows])
    vocab = raw.shape[1]
    if vocab % BLOCK:
        raw = functional.pad(raw, (0, BLOCK - vocab % BLOCK), value=-math.inf)
    x = raw
    if any(row.mask or row.state.edits_logits or row.state.stop_is_masked for row in rows):
        if any(state.params.logprobs is not None for state in states):
            x = raw.clone()
        for line, state in zip(x, states, strict=True):
            if state.edits_logits:
                _edit(line, state)
            if state.stop_is_masked:
                line[torch.tensor(state.stop_token_ids)] = -math.inf
        _forbid(x, [row.mask for row in rows])
    tokens, tops = _choose(x, states)
    logprobs = _logprobs(raw, tokens, states)
    for i, (row, token, top) in enumerate(zip(rows, tokens, tops, strict=True)):
        results[row.at] = _result(token, top, logprobs.get(i))


def _sample_few(logits: Tensor, rows: Sequence[_Row], results: dict[int, Sampled]) -> None:
    """Rows that may take few tokens: only those are looked at, each row by itself."""
    tokens: list[NDArray[np.int64]] = []
    values: list[Tensor] = []
    for row in rows:
        allowed, ids = _allowed(row)
        line = logits[row.at]
        if row.state.edits_logits:
            if row.state.params.logprobs is not None:
                line = line.clone()
            _edit(line, row.state)
        tokens.append(allowed)
        values.append(line.index_select(0, ids))
    together = torch.cat(values).numpy()
    start = 0
    for row, allowed in zip(rows, tokens, strict=True):
        index, top = choose(together[start : start + len(allowed)], row.state)
        start += len(allowed)
        token = int(allowed[index])
        logprobs = _logprobs(logits[row.at : row.at + 1], [token], [row.state])
        results[row.at] = _result(token, top, logprobs.get(0))


def _allowed(row: _Row) -> tuple[NDArray[np.int64], Tensor]:
    """What the row's mask allows, without stop tokens before min_tokens if anything else is."""
    mask = row.mask
    assert isinstance(mask, Only)
    if row.state.stop_is_masked:
        stops = np.array(row.state.stop_token_ids)
        places = mask.tokens.searchsorted(stops)
        places = places[mask.tokens.take(places, mode="clip") == stops]
        if 0 < len(places) < len(mask.tokens):
            others = np.delete(mask.tokens, places)
            return others, torch.from_numpy(others)
    return mask.tokens, mask.ids


def _take(logits: Tensor, indices: Sequence[int]) -> Tensor:
    """These rows; a view of them if they stand together."""
    first, last = indices[0], indices[-1]
    if last - first == len(indices) - 1:
        return logits[first : last + 1]
    return logits[torch.tensor(indices)]


def _choose(x: Tensor, states: Sequence[SamplingState]) -> tuple[list[int], list[float]]:
    """For x [rows, a multiple of BLOCK] the index that each row draws, and its largest value."""
    block_max = _blocks(x).amax(-1)  # [rows, blocks]
    top = block_max.amax(-1)  # [rows]
    random = [i for i, state in enumerate(states) if not state.greedy]
    if len(random) == len(states):
        chosen = _draw(x, block_max, states)
    else:
        chosen = _argmax(x, block_max)
        if random:
            index = torch.tensor(random)
            chosen[index] = _draw(x[index], block_max[index], [states[i] for i in random])
    return chosen.tolist(), top.tolist()


def _result(token: int, top: float, logprobs: TokenLogprobs | None) -> Sampled:
    if math.isfinite(top):
        return Sampled(token, logprobs)
    return Sampled(-1, error=NOTHING_ALLOWED if top == -math.inf else NOT_FINITE)


def _edit(x: Tensor, state: SamplingState) -> None:
    """Penalties and bias, in place on x [vocab]."""
    params = state.params
    if state.counts is not None:
        ids = torch.from_numpy(state.counts.ids)
        counts = torch.from_numpy(state.counts.counts)
        seen = x[ids]
        if params.repetition_penalty != 1.0:
            penalty = params.repetition_penalty
            seen = torch.where(seen > 0, seen / penalty, seen * penalty)
        seen -= counts * params.frequency_penalty
        seen -= (counts > 0) * params.presence_penalty
        x[ids] = seen
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias))
        x[ids] += torch.tensor(list(params.logit_bias.values()), dtype=x.dtype)


def _forbid(x: Tensor, masks: Sequence[Only | AllBut | None]) -> None:
    """-inf for what the masks forbid, in place on x [rows, vocab]."""
    first = masks[0]
    if isinstance(first, AllBut) and all(mask is first for mask in masks):
        x.index_fill_(1, first.ids, -math.inf)  # all in free text, as a rule
        return
    for line, mask in zip(x, masks, strict=True):
        if isinstance(mask, AllBut):
            line.index_fill_(0, mask.ids, -math.inf)


def _draw(x: Tensor, block_max: Tensor, states: Sequence[SamplingState]) -> Tensor:
    """Tokens int64 [rows] for rows with a temperature; x [rows, vocab]."""
    params = [state.params for state in states]
    scale = _column([LOG2_E / p.temperature for p in params])
    weights = torch.sub(x, block_max.amax(-1, keepdim=True)).mul_(scale).exp2_()  # 0 to 1
    # Filters are 0.0 or 1.0 and multiplied: faster than masking on a CPU.
    in_top_k: Tensor | None = None
    if any(p.top_k for p in params):
        kth = _kth_largest(x, block_max, [p.top_k or x.shape[1] for p in params])
        in_top_k = torch.ge(x, kth, out=torch.empty_like(x))
    smallest = _column([p.min_p for p in params])
    if any(p.top_p < 1.0 for p in params):
        nucleus = _nucleus(weights, in_top_k, [p.top_p for p in params])
        smallest = torch.maximum(smallest, nucleus)
    if in_top_k is not None:
        weights *= in_top_k
    if any(p.min_p > 0.0 or p.top_p < 1.0 for p in params):
        weights *= torch.ge(weights, smallest, out=torch.empty_like(weights))
    draws = [uniform(state.seed, state.generated) for state in states]
    return _pick(weights, torch.tensor(draws, dtype=torch.float64))


def _pick(weights: Tensor, draws: Tensor) -> Tensor:
    """Per row the first token whose cumulative weight exceeds draw * total; int64 [rows].

    Two levels, blocks and then tokens of one block, so that the vocabulary is summed once.
    """
    blocks = _blocks(weights)
    block_sums = blocks.sum(-1).to(torch.float64).cumsum_(-1)  # [rows, blocks]
    target = draws.unsqueeze(1) * block_sums[:, -1:]
    block = _first_above(block_sums, target)
    target = target - torch.where(block > 0, block_sums.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inner = torch.take_along_dim(blocks, block.unsqueeze(-1), 1).squeeze(1)
    sums = inner.to(torch.float64).cumsum_(-1)  # [rows, BLOCK]
    return (block * BLOCK + _first_above(sums, target)).squeeze(1)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """First index with sums > target, which is then an index of weight above 0; int64 [rows, 1]."""
    # Rounding may lift the target up to the last sum, which nothing exceeds.
    below_last = torch.nextafter(sums[:, -1:], torch.zeros_like(target))
    index = torch.searchsorted(sums, torch.minimum(target, below_last), right=True)
    return index.clamp_(max=sums.shape[1] - 1)  # of rows that are not finite


def _kth_largest(x: Tensor, block_max: Tensor, ks: Sequence[int]) -> Tensor:
    """The k-th largest of each row, [rows, 1]; -inf where k spans the vocabulary."""
    vocab = x.shape[1]
    kth = x.new_full((len(ks), 1), -math.inf)
    limited = [i for i, k in enumerate(ks) if k < vocab]
    if not limited:
        return kth
    values, _ = _top(x, block_max, max(ks[i] for i in limited))
    for i in limited:
        kth[i] = values[i, ks[i] - 1]
    return kth


def _top(x: Tensor, block_max: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and ids of the k largest, [rows, k] each, largest first.

    They lie in the k blocks with the largest maxima, so a small k needs no pass over x.
    """
    if k >= block_max.shape[1] // 4:
        values, ids = x.topk(min(k, x.shape[1]), dim=-1)
        return values, ids
    block = block_max.topk(k, dim=-1).indices  # [rows, k]
    candidates = torch.take_along_dim(_blocks(x), block.unsqueeze(-1), 1).flatten(1)
    values, where = candidates.topk(k, dim=-1)
    return values, block.gather(1, where // BLOCK) * BLOCK + where % BLOCK


def _nucleus(weights: Tensor, in_top_k: Tensor | None, top_ps: Sequence[float]) -> Tensor:
    """Per row the largest w whose tokens of weight >= w hold top_p of the mass; [rows, 1].

    A radix selection on the bits of the weights, which for numbers from 0 up are in the order of
    the numbers: one histogram of mass over their upper halves finds the half where the mass is
    reached, one over the lower halves of those finds the number. Tokens outside top_k have no
    mass but keep their bits: many additions to one bucket would be slow.
    """
    bits = weights.view(torch.int32)
    mass = weights.double()
    if in_top_k is not None:
        mass *= in_top_k
    upper = (bits >> 16).clamp_(0, TOP_P_BUCKETS - 1).long()  # clamped for NaN alone
    histogram = mass.new_zeros((len(top_ps), TOP_P_BUCKETS)).scatter_add_(1, upper, mass)
    wanted = _column(top_ps).double() * histogram.sum(-1, keepdim=True)
    high, above = _bucket_reaching(histogram, wanted)
    mass *= upper == high
    lower = (bits & 0xFFFF).long()
    histogram = mass.new_zeros((len(top_ps), 1 << 16)).scatter_add_(1, lower, mass)
    low, _ = _bucket_reaching(histogram, wanted - above)
    return ((high << 16) | low).to(torch.int32).view(torch.float32)


def _bucket_reaching(histogram: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The highest bucket down to which the mass reaches `wanted`, and the mass above it."""
    last = histogram.shape[1] - 1
    sums = histogram.flip(1).cumsum(-1)
    # Rounding must not ask for more than there is, nor for none.
    tiny = torch.finfo(torch.float64).tiny
    wanted = torch.minimum(wanted.clamp(min=tiny), sums[:, -1:])
    index = torch.searchsorted(sums, wanted).clamp_(max=last)
    above = torch.where(index > 0, sums.gather(1, (index - 1).clamp(min=0)), 0.0)
    return last - index, above


def _argmax(x: Tensor, block_max: Tensor) -> Tensor:
    """First index of the largest value, int64 [rows]; reads x once less than torch.argmax."""
    block = block_max.argmax(-1, keepdim=True)
    inner = torch.take_along_dim(_blocks(x), block.unsqueeze(-1), 1).squeeze(1)
    return block.squeeze(1) * BLOCK + inner.argmax(-1)


def _logprobs(
    logits: Tensor, chosen: Sequence[int], states: Sequence[SamplingState]
) -> dict[int, TokenLogprobs]:
    """By row, for rows that asked; natural logarithms of the softmax of the raw logits."""
    out = {}
    for row, state in enumerate(states):
        k = state.params.logprobs
        if k is None:
            continue
        x = logits[row : row + 1]
        total = x.logsumexp(-1)
        top: list[tuple[int, float]] = []
        if k:
            values, ids = _top(x, _blocks(x).amax(-1), min(k, x.shape[1]))
            top = list(zip(ids[0].tolist(), (values[0] - total).tolist(), strict=True))
        out[row] = TokenLogprobs(float(x[0, chosen[row]] - total[0]), top)
    return out


def _blocks(x: Tensor) -> Tensor:
    return x.view(x.shape[0], -1, BLOCK)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)
