"""From a step's plan to sampled tokens: builds the batch, runs the network, samples. Synchronous.

Owns the tensors of the KV cache. Knows pages and token ids; which of them belong to whom is the
scheduler's business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.config import ModelConfig
from ossia.engine.kv_cache import CacheConfig
from ossia.engine.mask_worker import MaskWorker
from ossia.engine.sampler import sample
from ossia.engine.sampling_state import SamplingState
from ossia.engine.step_plan import ScheduledSequence
from ossia.engine.step_runner import StepResult
from ossia.model.batch import ForwardBatch, LayerCache, PagedBatch
from ossia.model.gpt_oss import GptOssForCausalLM

Ints = NDArray[np.int64]

UNKNOWN = -1  # in place of a token's id


@dataclass(slots=True)
class Flight:
    """A step under way."""

    logits: Tensor  # float32 [sequences that sample, vocab]
    result: StepResult | None = None  # once it is sampled


class Runner:
    """The network and its cache on one device; a `StepRunner` that waits for every step.

    Attributes:
        pipelined: never.
        model_seconds: time spent in the network so far.
        masks: computes the masks of constrained sequences.
    """

    def __init__(
        self,
        model: GptOssForCausalLM,
        cache: CacheConfig,
        masks: MaskWorker,
        *,
        device: torch.device,
    ) -> None:
        self._model = model
        self._device = device
        self._page_size = cache.page_size
        self._caches = allocate_caches(model.config, cache, model.dtype, device)
        self.pipelined = False
        self.model_seconds = 0.0
        self.masks = masks

    @torch.inference_mode()
    def start(
        self, sequences: Sequence[ScheduledSequence], states: Sequence[SamplingState]
    ) -> Flight:
        """Run the network. The masks of the step are begun before, because tokens are known."""
        self.masks.start([state.follower for state in states if state.follower is not None])
        batch = build_batch(sequences, self._page_size, self._device)
        started = time.perf_counter()
        logits = self._model.forward(batch, self._caches)
        self.model_seconds += time.perf_counter() - started
        return Flight(logits)

    @torch.inference_mode()
    def sample(self, flight: Flight, states: Sequence[SamplingState | None]) -> None:
        """Choose the tokens; nobody can have ended since `start`."""
        wanted = [state for state in states if state is not None]
        assert len(wanted) == len(states), "a request ended in the middle of a step"
        if not wanted:
            flight.result = StepResult([])
            return
        self.masks.wait()
        sampled = sample(flight.logits, wanted, [state.mask for state in wanted])
        flight.result = StepResult(
            [row.token for row in sampled],
            {i: row.logprobs for i, row in enumerate(sampled) if row.logprobs is not None},
            {i: row.error for i, row in enumerate(sampled) if row.error is not None},
        )

    def finish(self, flight: Flight) -> StepResult:
        """What `sample` chose."""
        assert flight.result is not None
        return flight.result

    def prepare_ahead(self) -> bool:
        """Nothing: what a step needs is there."""
        return False

    def drop(self, flight: Flight) -> None:
        """Nothing to do: whatever began is over."""


def allocate_caches(
    model: ModelConfig, cache: CacheConfig, dtype: torch.dtype, device: torch.device
) -> list[LayerCache]:
    """Zeroed keys and values of every layer, each in the pool of its kind."""
    caches = []
    for kind in model.layer_types:
        pages = cache.num_window_pages if kind == "sliding_attention" else cache.num_full_pages
        shape = (pages, cache.page_size, model.num_kv_heads, model.head_dim)
        caches.append(LayerCache(_zeros(shape, dtype, device), _zeros(shape, dtype, device)))
    return caches


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy gets zeroed memory from the system, which is resident only once it is written.
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)


def build_batch(
    sequences: Sequence[ScheduledSequence], page_size: int, device: torch.device
) -> ForwardBatch:
    """The tensors of one step. Call before the scheduler changes page tables again.

    A token that is not known yet, because the step before samples it, is -1.
    """
    starts = np.array([item.start for item in sequences], dtype=np.int64)
    lengths = np.array([item.num_tokens for item in sequences], dtype=np.int64)
    query_starts = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum(lengths, out=query_starts[1:])
    owner = np.repeat(np.arange(len(sequences)), lengths)  # sequence of each token
    positions = np.arange(query_starts[-1]) + (starts - query_starts[:-1])[owner]
    ends = starts + lengths

    tokens: list[int] = []
    for request, _, start, count, _ in sequences:
        if count > 1:
            tokens += request.tokens[start : start + count]
        else:
            tokens.append(request.tokens[start] if start < len(request.tokens) else UNKNOWN)

    full_tables = [
        np.frombuffer(item.pages.full, np.int32, count=-(-end // page_size))
        for item, end in zip(sequences, ends.tolist(), strict=True)
    ]
    window_tables = [np.frombuffer(item.pages.window, np.int32) for item in sequences]
    window_first = np.array([item.pages.window_start for item in sequences]) * page_size
    write_start = np.array([item.pages.full_write_start for item in sequences])

    num_decodes = int(np.cumprod(lengths == 1).sum())  # the first sequences, with a token each

    def paged(tables: Sequence[NDArray[np.int32]], first: Ints, shared: Ints | None) -> PagedBatch:
        table = _stack(tables)
        page = (positions - first[owner]) // page_size
        slots = table[owner, page].astype(np.int64) * page_size + positions % page_size
        if shared is not None and (starts < shared).any():
            # Already in shared pages: the scratch page 0 takes them.
            slots = np.where(positions < shared[owner], positions % page_size, slots)
        return PagedBatch(
            slots=to(slots),
            page_table=to(table),
            first_positions=to(first.astype(np.int32)),
            kv_lens=to(ends.astype(np.int32)),
            query_starts=to(query_starts.astype(np.int32)),
            max_query_len=int(lengths.max()),
            max_kv_len=int(ends.max()),
            num_decodes=num_decodes,
        )

    def to(values: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(values)
        if device.type == "cuda":
            tensor = tensor.pin_memory()  # or a long copy would wait for queued steps
        return tensor.to(device, non_blocking=True)

    rows = [i for i, item in enumerate(sequences) if item.samples]
    return ForwardBatch(
        token_ids=to(np.array(tokens, dtype=np.int64)),
        positions=to(positions),
        full=paged(full_tables, np.zeros_like(starts), write_start),
        window=paged(window_tables, window_first, None),
        logit_rows=to(query_starts[1:][rows] - 1),
    )


def _stack(tables: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """[seqs, pages] with 0 where a table is shorter than the longest."""
    stacked = np.zeros((len(tables), max(map(len, tables))), dtype=np.int32)
    for row, table in zip(stacked, tables, strict=True):
        row[: len(table)] = table
    return stacked
