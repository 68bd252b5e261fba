"""Worker processes that write conversations without end and pack them into rows of tokens."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ossia.harmony.tokenizer import VOCAB_SIZE, Tokenizer
from training.demo import vocabulary
from training.demo.conversation import converse
from training.demo.documents import Document, documents
from training.demo.network import Packed
from training.demo.words import Source

LEARNED = 0.375  # share of the positions that are learned from
LONGEST_DOCUMENT = 4608  # tokens; longer ones are left out


@dataclass(frozen=True)
class Arrays:
    """One packed row of tokens, and the positions whose next token is learned."""

    rows: np.ndarray  # [tokens]
    documents: np.ndarray  # [tokens]
    positions: np.ndarray  # [tokens]
    chosen: np.ndarray  # [tokens * LEARNED]
    targets: np.ndarray  # as many
    weights: np.ndarray  # as many

    def to(self, device: torch.device) -> tuple[Packed, Tensor, Tensor, Tensor]:
        """The batch, the chosen positions, their targets and weights."""

        def move(array: np.ndarray, dtype: torch.dtype) -> Tensor:
            tensor = torch.from_numpy(array)
            if device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True).to(dtype)

        batch = Packed(
            move(self.rows, torch.int64),
            move(self.documents, torch.int32),
            move(self.positions, torch.int64),
        )
        chosen = move(self.chosen, torch.int64)
        return batch, chosen, move(self.targets, torch.int64), move(self.weights, torch.float32)


def row_table() -> np.ndarray:
    """int16 [VOCAB_SIZE]: the stored row of each token id; the last row for all that have none."""
    ids = vocabulary.stored_ids()
    table = np.full(VOCAB_SIZE, len(ids), dtype=np.int16)
    table[ids] = np.arange(len(ids), dtype=np.int16)
    return table


def writable(document: Document) -> bool:
    """Whether all that the model is to write has stored rows."""
    own = {i for i, weight in zip(document.ids, document.weights, strict=True) if weight == 1}
    return own <= vocabulary.writable_ids()


def make_source(seed: int | str, tokenizer: Tokenizer, *, held_out: bool) -> Source:
    """Randomness with the vocabulary's words at hand."""
    return Source(
        seed,
        held_out=held_out,
        strange=vocabulary.strange_words(tokenizer),
        pieces=vocabulary.pieces(tokenizer),
    )


def packed_rows(seed: int | str, tokens: int) -> Iterator[Arrays]:
    """Batches of `tokens` tokens each, without end; the last document of each is cut off."""
    tokenizer = Tokenizer()
    source = make_source(seed, tokenizer, held_out=False)
    table = row_table()
    generator = np.random.default_rng(source.integer(0, 2**31))
    shared = len(vocabulary.stored_ids())
    while True:
        ids, weights, numbers, positions = [], [], [], []
        count = 0
        while len(ids) <= tokens:
            for document in documents(source, converse(source), tokenizer):
                rows = table[document.ids]
                own = np.asarray(document.weights, dtype=np.float32)
                if len(rows) > LONGEST_DOCUMENT or not writable(document):
                    continue
                own[rows == shared] = 0
                own[0] = 0  # nothing before it to predict it from
                ids.extend(rows.tolist())
                weights.extend(own.tolist())
                numbers.extend([count] * len(rows))
                positions.extend(range(len(rows)))
                count += 1
        row = np.asarray(ids[: tokens + 1], dtype=np.int16)
        weight = np.asarray(weights[1 : tokens + 1], dtype=np.float32)
        # What the model writes itself comes first, then others at random.
        order = np.argsort(generator.random(tokens) - 2 * (weight == 1), kind="stable")
        chosen = np.sort(order[: int(tokens * LEARNED)])
        yield Arrays(
            row[:-1],
            np.asarray(numbers[:tokens], dtype=np.int16),
            np.asarray(positions[:tokens], dtype=np.int16),
            chosen.astype(np.int32),
            row[1:][chosen],
            weight[chosen],
        )


def _work(seed: str, tokens: int, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    for arrays in packed_rows(seed, tokens):
        queue.put(arrays)


class Workers:
    """Processes that keep a queue of batches filled; close with `stop`."""

    def __init__(self, seed: int | str, tokens: int, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue = context.Queue(maxsize=8 * count)
        self._processes = [
            context.Process(target=_work, args=(f"{seed}/{i}", tokens, self._queue), daemon=True)
            for i in range(count)
        ]
        for process in self._processes:
            process.start()

    def next(self) -> Arrays:
        arrays: Arrays = self._queue.get()
        return arrays

    @property
    def waiting(self) -> int:
        """Batches ready; 0 means that training waits for data."""
        return self._queue.qsize()

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
