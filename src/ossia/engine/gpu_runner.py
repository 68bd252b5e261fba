"""Runs steps on a GPU, one of them always in its queue.

Decoding steps replay a CUDA graph, and so do steps with prompts of few tokens. Larger ones are
launched operation by operation, which takes the GPU far longer than the host. For each row that
decodes the host sends one small record, and it never waits but for the tokens of the step before:
tokens go from the sampler to the next step on the device.

    start:   records -> device;  begin_decode, layers, logits      (a graph)
    sample:  masks (while the network runs), the sampler's launches, tokens -> host
    finish:  wait for those tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.device_sampler import DeviceSampler, Sampling
from ossia.engine.kv_cache import CacheConfig, SequencePages
from ossia.engine.mask_worker import MaskWorker
from ossia.engine.runner import allocate_caches, build_batch
from ossia.engine.sampling_state import SamplingState
from ossia.engine.small_steps import SIZES, SmallSteps
from ossia.engine.step_graphs import StepGraphs, buckets
from ossia.engine.step_plan import ScheduledSequence
from ossia.engine.step_runner import StepResult
from ossia.kernels.decode_step.reference import (
    NEW_PAGE,
    PADDING,
    WINDOW_PAGES,
    decode_buffers,
)
from ossia.kernels.decode_step.triton_begin import begin_decode
from ossia.model.gpt_oss import GptOssForCausalLM
from ossia.sampling import SamplingParams

STAGES = 3  # host buffers in turn: two steps may be on their way


@dataclass(slots=True)
class GpuFlight:
    """A step under way."""

    logits: Tensor  # float32 [rows or more, vocab]
    slots: Tensor  # int32 [rows], on the device: the seats of the sequences that sample
    rows: int  # sequences that sample
    begun: torch.cuda.Event
    computed: torch.cuda.Event  # the network is done
    sampling: Sampling | None = None


class GpuRunner:
    """The network, its cache and its sampler on one GPU. See `StepRunner`."""

    pipelined = True

    def __init__(
        self,
        model: GptOssForCausalLM,
        cache: CacheConfig,
        masks: MaskWorker,
        *,
        device: torch.device,
        max_seqs: int,
        max_model_len: int,
        capturable: bool,
        prompts_capturable: bool,
    ) -> None:
        """
        Args:
            model: on the device.
            cache: sizes of the pools of pages.
            masks: of grammars.
            device: a CUDA device.
            max_seqs: sequences that run at a time.
            max_model_len: tokens in the longest.
            capturable: whether decoding steps can live in a CUDA graph.
            prompts_capturable: whether steps with prompts can.
        """
        self.masks = masks
        self.model_seconds = 0.0
        self._model = model
        self._device = device
        self._page_size = cache.page_size
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        max_pages = -(-max_model_len // cache.page_size)
        with torch.cuda.stream(self._stream):
            self._caches = allocate_caches(model.config, cache, model.dtype, device)
            self._tables = torch.zeros(max_seqs, max_pages, dtype=torch.int32, device=device)
            self._last_tokens = torch.zeros(max_seqs, dtype=torch.int32, device=device)
            self._buffers = decode_buffers(
                max_seqs,
                max_pages=max_pages,
                window_pages=cache.window_pages_per_sequence + 1,
                page_size=cache.page_size,
                hidden_size=model.config.hidden_size,
                dtype=model.dtype,
                device=device,
            )
            self._sampler = DeviceSampler(device, max_seqs, model.config.vocab_size)
        shape = self._buffers.records.shape
        self._stages = [
            torch.zeros(shape, dtype=torch.int32, pin_memory=True) for _ in range(STAGES)
        ]
        self._stage = 0
        self._owners: list[object] = [None] * max_seqs  # whose pages are in a row of the tables
        self._sent = [0] * max_seqs  # and how many of them
        self._window_reach = cache.window_reach
        vocab = model.config.vocab_size
        self._logits = torch.empty(max_seqs, vocab, dtype=torch.float32, device=device)
        self._graphs = StepGraphs(self._decode, buckets(max_seqs), capturable=capturable)
        self._small = SmallSteps(cache, self._tables, self._last_tokens, device)
        self._small_graphs = StepGraphs(self._small_step, SIZES, capturable=prompts_capturable)
        self._prompts_capturable = prompts_capturable
        greedy = SamplingParams(temperature=0.0)
        self._nobody = SamplingState(greedy, seed=0, prompt=(), stop_token_ids=())

    @torch.inference_mode()
    def start(
        self, sequences: Sequence[ScheduledSequence], states: Sequence[SamplingState]
    ) -> GpuFlight:
        """See `StepRunner`."""
        begun, computed = _timing_event(), _timing_event()
        try:
            with torch.cuda.stream(self._stream):
                begun.record()
                if all(_decodes(item) for item in sequences):
                    logits, slots = self._start_decode(sequences)
                else:
                    logits, slots = self._start_mixed(sequences)
                computed.record()
        except BaseException:
            self._forget_tables()
            raise
        return GpuFlight(logits, slots, len(states), begun, computed)

    @torch.inference_mode()
    def sample(self, flight: GpuFlight, states: Sequence[SamplingState | None]) -> None:
        """See `StepRunner`."""
        followers = [s.follower for s in states if s is not None and s.follower is not None]
        self.masks.start(followers)
        self.masks.wait()
        if flight.rows:
            with torch.cuda.stream(self._stream):
                flight.sampling = self._sampler.launch(
                    flight.logits[: flight.rows],
                    [self._nobody if state is None else state for state in states],
                    flight.slots,
                    self._last_tokens,
                )

    def finish(self, flight: GpuFlight) -> StepResult:
        """See `StepRunner`."""
        if flight.sampling is None:
            flight.computed.synchronize()
            result = StepResult([])
        else:
            result = flight.sampling.result()
        self.model_seconds += flight.begun.elapsed_time(flight.computed) / 1e3
        return result

    @torch.inference_mode()
    def prepare_ahead(self) -> bool:
        """Capture one more graph, on rows of padding."""
        rows = self._graphs.missing()
        if rows is None:
            return self._prepare_small()
        with torch.cuda.stream(self._stream):
            # Token 0 at position 0 of seat 0, its keys in the scratch page.
            self._buffers.records.zero_()
            self._buffers.records[:, NEW_PAGE] = -1
            self._buffers.records[:, PADDING] = 1
            self._graphs.run(rows)
            self._stream.synchronize()
        return True

    def _prepare_small(self) -> bool:
        tokens = self._small_graphs.missing()
        if tokens is None:
            return False
        with torch.cuda.stream(self._stream):
            self._small.fill((), tokens)
            self._small_graphs.run(tokens)
            self._stream.synchronize()
        return True

    def drop(self, flight: GpuFlight) -> None:
        """See `StepRunner`. What is enqueued runs to its end."""
        self._forget_tables()

    def _forget_tables(self) -> None:
        """Some may not have arrived: all are sent again."""
        self._owners = [None] * len(self._owners)

    def _start_decode(self, sequences: Sequence[ScheduledSequence]) -> tuple[Tensor, Tensor]:
        rows = len(sequences)
        bucket = self._graphs.bucket(rows)
        stage = self._stages[self._stage]
        self._stage = (self._stage + 1) % STAGES
        self._fill(stage.numpy(), sequences, bucket)
        self._buffers.records[:bucket].copy_(stage[:bucket], non_blocking=True)
        logits = self._graphs.run(bucket)
        return logits, self._buffers.slots[:rows]

    def _fill(
        self, records: NDArray[np.int32], sequences: Sequence[ScheduledSequence], bucket: int
    ) -> None:
        """Write a record for each row of the bucket; those behind the last one repeat it."""
        page_size = self._page_size
        rows = []
        width = records.shape[1] - WINDOW_PAGES
        for request, pages, start, _, _ in sequences:
            seat = request.seat
            at = start // page_size
            if self._owners[seat] is not pages or self._sent[seat] < at:
                self._send_table(seat, pages, at)
            new_page = -1
            if self._sent[seat] == at:
                new_page = pages.full[at]
                self._sent[seat] = at + 1
            token = request.tokens[start] if start < len(request.tokens) else -1
            # While a chunk of the prompt is in flight, its pages are still there too.
            skip = max(0, at - self._window_reach - pages.window_start)
            window = pages.window[skip:]
            first = (pages.window_start + skip) * page_size
            # In the order of the columns: SLOT, POSITION, TOKEN, NEW_PAGE, WINDOW_FIRST, PADDING.
            record = (seat, start, token, new_page, first, 0)
            rows.append((*record, *window, *([0] * (width - len(window)))))
        count = len(rows)
        records[:count] = rows
        records[count:bucket] = records[count - 1]
        records[count:bucket, PADDING] = 1

    def _send_table(self, seat: int, pages: SequencePages, count: int) -> None:
        """Put the first `count` pages of a sequence into its row of the tables."""
        full = np.frombuffer(pages.full, np.int32, count=count)
        if count:
            self._tables[seat, :count].copy_(
                torch.from_numpy(full.copy()).pin_memory(), non_blocking=True
            )
        self._owners[seat] = pages
        self._sent[seat] = count

    def _decode(self, rows: int) -> Tensor:
        """What a graph holds: one step for the first `rows` rows of the buffers."""
        buffers = self._buffers.first(rows)
        begin_decode(buffers, self._tables, self._last_tokens, self._model.embedding)
        x = self._model.run_layers(buffers.x, buffers.batch, self._caches)
        return self._model.logits(x, self._logits)

    def _start_mixed(self, sequences: Sequence[ScheduledSequence]) -> tuple[Tensor, Tensor]:
        if self._prompts_capturable and self._small.takes(sequences):
            return self._start_small(sequences)
        return self._start_large(sequences)

    def _start_small(self, sequences: Sequence[ScheduledSequence]) -> tuple[Tensor, Tensor]:
        for request, pages, start, count, _ in sequences:
            needed = -(-(start + count) // self._page_size)
            if self._owners[request.seat] is not pages or self._sent[request.seat] < needed:
                self._send_table(request.seat, pages, needed)
        tokens = self._small_graphs.bucket(sum(item.num_tokens for item in sequences))
        self._small.fill(sequences, tokens)
        x = self._small_graphs.run(tokens)
        rows, slots = self._small.sampled(sum(item.samples for item in sequences))
        if not len(slots):
            return x, slots
        return self._model.logits(x.index_select(0, rows), self._logits), slots

    def _small_step(self, tokens: int) -> Tensor:
        """What a graph holds: the layers of a step of this many tokens, padding included."""
        batch = self._small.batch(tokens)
        x = self._model.embedding.index_select(0, batch.token_ids)
        return self._model.run_layers(x, batch, self._caches)

    def _start_large(self, sequences: Sequence[ScheduledSequence]) -> tuple[Tensor, Tensor]:
        batch = build_batch(sequences, self._page_size, self._device)
        seats = np.array([item.request.seat for item in sequences], dtype=np.int32)
        lengths = [item.num_tokens for item in sequences]
        on_device = torch.from_numpy(
            np.concatenate((np.repeat(seats, lengths), seats[[item.samples for item in sequences]]))
        )
        on_device = on_device.pin_memory().to(self._device, non_blocking=True)
        seat_of_token, slots = on_device[: sum(lengths)], on_device[sum(lengths) :]
        known = batch.token_ids >= 0
        batch.token_ids.copy_(
            torch.where(known, batch.token_ids, self._last_tokens[seat_of_token].long())
        )
        x = self._model.embedding.index_select(0, batch.token_ids)
        x = self._model.run_layers(x, batch, self._caches)
        if not len(slots):
            return x, slots
        return self._model.logits(x.index_select(0, batch.logit_rows), self._logits), slots


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _decodes(item: ScheduledSequence) -> bool:
    """Whether it is one token that is sampled after, its key in a page of its own."""
    return item.samples and item.num_tokens == 1 and item.start >= item.pages.full_write_start
