"""From logits to tokens on a GPU, without waiting for it.

`sampler.py` defines what is computed. Here a step's sampling is only enqueued; each token also goes
straight to where the next step looks it up, so that it can be enqueued before the host knows it.

    sampling = sampler.launch(logits, states, slots, last_tokens)
    ...                            # enqueue the next step
    result = sampling.result()     # waits for this sampling, not for what came after it

Greedy tokens are the same as on a CPU. Drawn ones too, but where rounding decides: weights are
summed in float32 over chunks of the vocabulary and in float64 over the chunks, so a draw within
about 1e-6 of the boundary between two tokens may take the other one. A token does not depend on
what else is in the batch, nor on chance: all sums have a fixed order or are too precise for theirs
to matter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.device_sampling_edits import list_edits
from ossia.engine.device_sampling_masks import MaskTable
from ossia.engine.device_sampling_rows import EDITS, HOLDS, LOGPROBS, HostRows
from ossia.engine.device_sampling_stage import Stage, Stages
from ossia.engine.masks import Nothing, Only
from ossia.engine.messages import TokenLogprobs
from ossia.engine.sampler import NOT_FINITE, NOTHING_ALLOWED, Sampled
from ossia.engine.sampling_state import SamplingState
from ossia.engine.step_runner import StepResult
from ossia.engine.vocabulary import TOKENIZER_SIZE
from ossia.kernels.sampling.interface import WORDS_A_ROW, Rows, new_result, stride_of, unpack
from ossia.sampling import SamplingParams


class DeviceSampler:
    """Samples on one device. Call it on one stream only, with no more than `max_rows` rows.

    On a CPU it uses the reference of the kernels, which is slow, or the kernels themselves in
    Triton's interpreter.
    """

    def __init__(self, device: torch.device, max_rows: int, vocab_size: int) -> None:
        """`vocab_size` is the number of columns of the logits; ids that are no tokens included."""
        self._device = device
        self._pinned = device.type == "cuda"
        self._vocab_size = vocab_size
        self._columns = min(vocab_size, TOKENIZER_SIZE)
        self._masks = MaskTable(device, max(512, 2 * max_rows) if self._pinned else 2 * max_rows)
        self._kernels, self._options = _load_kernels(device)
        self._stages = Stages(device, max_rows)
        # At the same addresses for all steps, which follow each other on one stream.
        self._stride = stride_of(max_rows)
        with torch.inference_mode(False):
            self._sent = torch.zeros(WORDS_A_ROW * self._stride, dtype=torch.int32, device=device)
            self._result = new_result(max_rows, device)
        self._views: dict[tuple[int, bool, bool], Rows] = {}

    def launch(
        self, logits: Tensor, states: Sequence[SamplingState], slots: Tensor, last_tokens: Tensor
    ) -> Sampling:
        """Enqueue the choice of a token for every row.

        Args:
            logits: float32 [rows, vocab], its last dimension contiguous; may be overwritten.
            states: one a row, up to date, and not advanced here. Those with a follower have their
                mask, which must stay the mask until this returns.
            slots: int32 or int64 [rows], places in last_tokens; negative: none.
            last_tokens: int32 [slots]; takes the token of each row, an id of the vocabulary even
                where there is an error.
        """
        count = len(states)
        if not count:
            return Sampling(0, self._stages, None, None, {}, {})
        rows = HostRows(states, self._columns)
        errors = self._apply_masks(states, rows)
        stage = self._stages.take()
        rows.write(stage.sent_array)
        # All of it, whatever the number of rows: some kB, and no views to be made.
        self._sent.copy_(stage.sent, non_blocking=True)

        asked: list[int] = []
        raw: Tensor | None = None
        if rows.flags_of_any & (LOGPROBS | EDITS | HOLDS):
            asked = np.flatnonzero(rows.flags & LOGPROBS).tolist()
            edited = np.flatnonzero(rows.stop_is_masked | (rows.flags & EDITS > 0)).tolist()
            if asked:
                raw = self._take(logits, asked, copy=bool(edited))
            edits = list_edits(states, edited, self._device) if edited else None
            if edits is not None:
                self._kernels.edit(logits, edits, columns=self._columns)
        self._kernels.sample_rows(
            logits,
            self._sent_rows(count, rows),
            self._masks.bits,
            self._result,
            slots,
            last_tokens,
            columns=self._columns,
            **self._options,
        )
        logprobs: dict[int, _Logprobs] = {}
        if raw is not None:
            logprobs = self._logprobs(raw, self._result, asked, states)
        stage.received.copy_(self._result, non_blocking=True)
        if stage.event is not None:
            stage.event.record(torch.cuda.current_stream(self._device))
        return Sampling(count, self._stages, stage, rows.forced < 0, errors, logprobs)

    def warm_up(self) -> None:
        """Compile or load every kernel, and wait: otherwise the first request of a kind would."""
        logits = torch.zeros((1, self._vocab_size), dtype=torch.float32, device=self._device)
        slots, last = (torch.zeros(1, dtype=torch.int32, device=self._device) for _ in range(2))
        for params in (
            SamplingParams(temperature=0.0),
            SamplingParams(top_k=2, top_p=0.9, logit_bias={0: 1.0}, logprobs=1),
        ):
            state = SamplingState(params, seed=0, prompt=(), stop_token_ids=())
            self.launch(logits, [state], slots, last).result()

    def _apply_masks(self, states: Sequence[SamplingState], rows: HostRows) -> dict[int, str]:
        """Give rows their masks or the token that is forced; the errors of rows that fail."""
        errors: dict[int, str] = {}
        places, masks = [], []
        followed = [(i, s.follower) for i, s in enumerate(states) if s.follower is not None]
        for row, follower in followed:
            mask = follower.mask
            if mask is None:
                continue
            if isinstance(mask, Nothing):
                errors[row] = mask.reason
                rows.forced[row] = 0
            elif (
                isinstance(mask, Only)
                and mask.forced is not None
                and not rows.flags[row] & LOGPROBS
            ):
                rows.forced[row] = mask.forced
            else:
                places.append(row)
                masks.append(mask)
        if masks:
            rows.masks[places] = self._masks.rows_of(masks)
        return errors

    def _sent_rows(self, count: int, rows: HostRows) -> Rows:
        """What was sent, as views that are made once."""
        key = count, rows.filters, rows.searches
        views = self._views.get(key)
        if views is None:
            views = self._views[key] = unpack(
                self._sent,
                count,
                filters=rows.filters,
                searches=rows.searches,
                stride=self._stride,
            )
        return views

    def _take(self, logits: Tensor, rows: list[int], *, copy: bool) -> Tensor:
        """These rows of the raw logits [n, columns]; a view where that will do."""
        first, last = rows[0], rows[-1]
        if last - first == len(rows) - 1:
            taken = logits[first : last + 1, : self._columns]
            return taken.clone() if copy else taken
        return logits.index_select(0, self._index(rows))[:, : self._columns]

    def _index(self, values: list[int]) -> Tensor:
        index = torch.tensor(values, dtype=torch.int64, pin_memory=self._pinned)
        return index.to(self._device, non_blocking=True)

    def _logprobs(
        self, raw: Tensor, result: Tensor, rows: list[int], states: Sequence[SamplingState]
    ) -> dict[int, _Logprobs]:
        """Where the host will find log-probabilities, by row; raw [n, columns] are their logits."""
        counts = [states[row].params.logprobs or 0 for row in rows]
        total = raw.logsumexp(-1, keepdim=True)
        # A forced token is an id of the real vocabulary, whatever the size of a test's.
        tokens = result[0].index_select(0, self._index(rows)).long().clamp_(max=raw.shape[1] - 1)
        values, ids = raw.topk(min(max(counts), raw.shape[1]), dim=-1)
        values = torch.cat((raw.gather(1, tokens.unsqueeze(1)), values), 1) - total
        there = self._to_host(values), self._to_host(ids)
        return {
            row: _Logprobs(there[0], there[1], i, count)
            for i, (row, count) in enumerate(zip(rows, counts, strict=True))
        }

    def _to_host(self, tensor: Tensor) -> Tensor:
        """A copy that is complete once an event recorded after this has passed."""
        if not self._pinned:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)


class _Logprobs(NamedTuple):
    values: Tensor  # float32 [n, 1 + k], on the host: of the chosen token and of the best
    ids: Tensor  # int64 [n, k], on the host
    line: int
    best: int  # how many of the best are wanted, up to k

    def read(self) -> TokenLogprobs:
        values = self.values[self.line].tolist()
        ids = self.ids[self.line, : self.best].tolist()
        return TokenLogprobs(values[0], list(zip(ids, values[1 : 1 + len(ids)], strict=True)))


class Sampling:
    """Tokens that are on their way to the host."""

    def __init__(
        self,
        count: int,
        stages: Stages,
        stage: Stage | None,
        chosen: NDArray[np.bool_] | None,
        errors: dict[int, str],
        logprobs: dict[int, _Logprobs],
    ) -> None:
        self._count = count
        self._stages = stages
        self._stage = stage  # None without rows, and once the result was read
        self._chosen = chosen  # [rows]; a forced token needs no logits
        self._errors = errors
        self._logprobs = logprobs
        self._result = StepResult([])

    def result(self) -> StepResult:
        """Wait for the tokens of all rows."""
        stage = self._stage
        if stage is None:
            return self._result
        if stage.event is not None:
            stage.event.synchronize()
        tokens, bits = stage.received_array[:, : self._count]
        tops = bits.view(np.float32)
        errors = dict(self._errors)
        for row in np.flatnonzero(self._chosen & ~np.isfinite(tops)).tolist():
            errors[row] = NOTHING_ALLOWED if tops[row] == -np.inf else NOT_FINITE
        logprobs = {row: there.read() for row, there in self._logprobs.items() if row not in errors}
        self._result = StepResult(tokens.tolist(), logprobs, errors)
        self._stage = None
        self._stages.give_back(stage)
        return self._result

    def results(self) -> list[Sampled]:
        """Wait for the tokens; one result a row, as `sampler.sample` gives them."""
        result = self.result()
        return [
            Sampled(-1, error=result.errors[row])
            if row in result.errors
            else Sampled(token, result.logprobs.get(row))
            for row, token in enumerate(result.tokens)
        ]


def _load_kernels(device: torch.device) -> tuple[ModuleType, dict[str, Any]]:
    """The kernels, and the options that they are called with."""
    if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        from ossia.kernels.sampling import triton_sampling
        from ossia.kernels.sampling.triton_launch import Launcher

        pdl = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        return triton_sampling, {"pdl": pdl, "launch": Launcher()}
    from ossia.kernels.sampling import reference

    return reference, {}
