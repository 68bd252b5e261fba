"""Teach a trained model more of some functions on a CPU, without touching its experts.

    python -m training.demo.refine --start src/ossia/demo --topics "Draw a chart" --minutes 15

For functions that were added to the generator after the training, or that go wrong too often: half
of the documents ask for one of them, half are any, so that nothing else is forgotten. Experts stay
as they are: they are in MXFP4 already, and their gradients would be most of the work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ossia.harmony.tokenizer import Tokenizer
from training.demo.batches import make_source, row_table, writable
from training.demo.conversation import converse
from training.demo.documents import documents
from training.demo.everyday import everyday
from training.demo.export import export, load
from training.demo.network import DemoNetwork, Packed
from training.demo.topics import TOPICS, Topic

BATCH = 10  # documents
LONGEST = 420  # tokens of a document
RATE = 1e-4

Rows = tuple[np.ndarray, np.ndarray]  # rows [n] and weights [n] of a document


def pack(items: list[Rows]) -> tuple[Packed, Tensor, Tensor, Tensor]:
    """Some documents as one batch, with learned positions, their targets and weights."""
    lengths = [len(rows) for rows, _ in items]
    rows = torch.from_numpy(np.concatenate([r for r, _ in items]).astype(np.int64))
    weights = torch.from_numpy(np.concatenate([w for _, w in items]).astype(np.float32))
    numbers = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])
    chosen = (weights[1:] > 0).nonzero().squeeze(-1)
    return Packed(rows, numbers, positions), chosen, rows[chosen + 1], weights[chosen + 1]


def some_documents(seed: str, topics: Sequence[Topic], tokenizer: Tokenizer) -> Iterator[Rows]:
    """Generated documents that ask for a function of these topics; of any skill without topics."""
    table = row_table()
    source = make_source(seed, tokenizer, held_out=False)
    while True:
        if topics:
            conversation = converse(source, "function", everyday(source, source.choice(topics)))
        else:
            conversation = converse(source)
        for document in documents(source, conversation, tokenizer):
            if len(document.ids) <= LONGEST and writable(document):
                weights = np.asarray(document.weights, dtype=np.float32)
                yield table[document.ids], np.where(weights == 1, weights, 0)


def refine(
    network: DemoNetwork, topics: Sequence[Topic], minutes: float, tokenizer: Tokenizer
) -> None:
    """Adam on all but the experts, with a rate that falls to 0 with the clock."""
    network.rounded = True  # exported experts are in MXFP4
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in ("gate_up", "down"))
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    streams = (
        some_documents("refine", topics, tokenizer),
        some_documents("refine any", (), tokenizer),
    )
    begun, step = time.time(), 0
    while (done := (time.time() - begun) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 30, 1.5 * (1 - done))
        batch, chosen, targets, weights = pack([next(streams[i % 2]) for i in range(BATCH)])
        logits = network.logits(network.hidden(batch)[0][chosen])
        losses = F.cross_entropy(logits, targets, reduction="none")
        (losses * weights).mean().mul(20).backward()
        torch.nn.utils.clip_grad_norm_(learned, 20.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0:
            ours = batch.documents[chosen] % 2 == 0
            print(
                f"{step} {time.time() - begun:.0f} s, loss of chosen documents "
                f"{losses[ours].mean().item():.4f}, of any {losses[~ours].mean().item():.4f}",
                flush=True,
            )
        step += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--start", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--out", type=Path, default=Path("runs/refined"))
    parser.add_argument("--topics", nargs="+", required=True, help="how descriptions begin")
    parser.add_argument("--minutes", type=float, default=15.0)
    options = parser.parse_args()
    topics = [t for t in TOPICS if t.name.startswith(tuple(options.topics))]
    if not topics:
        parser.error(f"no topic's description begins with {' or '.join(options.topics)}")
    network, ids = load(options.start, torch.float32)
    refine(network, topics, options.minutes, Tokenizer())
    export(network, ids, options.out)


if __name__ == "__main__":
    main()
