"""Teach a trained model more words and habits on a CPU, without touching its experts.

    python -m training.demo.refine --start src/ossia/demo --minutes 20 --out runs/refined

For words that the vocabulary gained after the training, and words that the model was found not to
copy: their rows of embedding and head learn at a high rate, attention, router and norms at a low
one, and the experts and all other rows stay as they are. Half of the documents are chosen for the
rows to teach, half are any.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import ToolDefinition, Turn, UserMessage
from training.demo import vocabulary
from training.demo.batches import make_source, row_table, writable
from training.demo.conversation import converse
from training.demo.documents import Document, completion, documents
from training.demo.exchange import Call
from training.demo.export import export, load, with_rows
from training.demo.network import DemoNetwork, Packed
from training.demo.words import EVERY_LIST

BATCH = 10  # documents
LONGEST = 420  # tokens of a document
DENSE_RATE = 1e-4


def freeze_experts(network: DemoNetwork) -> None:
    """Exported experts are in MXFP4 already, so rounding them again is left out."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.rounded = True


def pack(items: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Packed, Tensor, Tensor, Tensor]:
    """Rows and weights of some documents as one batch, with positions, targets and weights."""
    lengths = [len(rows) for rows, _ in items]
    rows = torch.from_numpy(np.concatenate([r for r, _ in items]).astype(np.int64))
    weights = torch.from_numpy(np.concatenate([w for _, w in items]).astype(np.float32))
    numbers = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])
    chosen = (weights[1:] > 0).nonzero().squeeze(-1)
    return Packed(rows, numbers, positions), chosen, rows[chosen + 1], weights[chosen + 1]


@torch.no_grad()
def unknown_words(network: DemoNetwork, words: list[str], tokenizer: Tokenizer) -> list[str]:
    """Those of `words` that the model does not copy from a request into a call."""
    table = row_table()
    schema = {"type": "object", "properties": {"tiny_word": {"type": "string"}}}
    schema |= {"required": ["tiny_word"]}
    tool = ToolDefinition("copy_note", "Copy a note.", schema)
    failed: list[str] = []
    for start in range(0, len(words), BATCH):
        group = words[start : start + BATCH]
        items = []
        for word in group:
            turn = Turn((UserMessage(f"Copy the note: tiny word {word}."),), tools=(tool,))
            arguments = json.dumps({"tiny_word": word}, separators=(",", ":"))
            own = completion(
                Call(f"copy_note fits: tiny word {word}.", tool.name, arguments, ""), tokenizer
            )
            prompt = render_prompt(turn, tokenizer)
            weights = np.array([0.0] * len(prompt) + [1.0] * len(own))
            items.append((table[prompt + own], weights))
        batch, chosen, targets, _ = pack(items)
        right = network.logits(network.hidden(batch)[0][chosen]).argmax(-1) == targets
        for index, word in enumerate(group):
            if not bool(right[batch.documents[chosen] == index].all()):
                failed.append(word)
    return failed


def rows_to_teach(
    failed: list[str], known: list[str], added: list[int], tokenizer: Tokenizer
) -> Tensor:
    """bool [rows]: added tokens, and tokens of failed words that no known word has."""
    table = row_table()
    encode = tokenizer.encode
    safe = {t for word in known for t in (*encode(word), *encode(f" {word}"))}
    tokens = {t for word in failed for t in (*encode(word), *encode(f" {word}"))} - safe
    mask = torch.zeros(len(vocabulary.stored_ids()) + 1, dtype=torch.bool)
    mask[torch.from_numpy(table[sorted(tokens | set(added))].astype(np.int64))] = True
    mask[-1] = False
    return mask


def useful_documents(
    seed: str, words: list[str], mask: Tensor | None, tokenizer: Tokenizer
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generated documents in which rows of `mask` occur, the rarer the better; or any."""
    table = row_table()
    teach = np.zeros(len(vocabulary.stored_ids()) + 1, bool) if mask is None else mask.numpy()
    source = make_source(seed, tokenizer, held_out=False)
    if mask is not None:
        source.pieces = words
    counts = np.zeros(len(teach))
    while True:
        document: Document
        for document in documents(source, converse(source), tokenizer):
            if len(document.ids) > LONGEST:
                continue
            rows = table[document.ids]
            weights = np.asarray(document.weights, dtype=np.float32)
            if not writable(document):
                continue
            # Rare rows are worth more than those that were there many times.
            present = np.unique(rows[teach[rows]])
            worth = (1 / (1 + counts[present] / 10)).sum()
            if mask is not None and worth < 1 and source.random.random() > worth:
                continue
            counts[present] += 1
            yield rows, np.where(weights == 1, weights, 0)


def refine(
    network: DemoNetwork, words: list[str], mask: Tensor, minutes: float, tokenizer: Tokenizer
) -> None:
    """Adagrad on the rows of `mask`, Adam on the dense weights; rates fall to 0 with the clock."""
    tables = (network.embedding, network.head)
    for parameter in tables:
        parameter.requires_grad_(True)
    rates = (0.06, 0.008)  # of embedding and head
    frozen = ("gate_up", "down", "embedding", "head")
    dense = [p for name, p in network.named_parameters() if name not in frozen]
    for parameter in dense:
        parameter.requires_grad_(True)
    adam = torch.optim.AdamW(dense, lr=DENSE_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    optimizer = torch.optim.Adagrad(
        [{"params": [p], "lr": r} for p, r in zip(tables, rates, strict=True)]
    )
    stream = useful_documents("refine", words, mask, tokenizer)
    any_stream = useful_documents("refine any", vocabulary.pieces(tokenizer), None, tokenizer)
    begun, step = time.time(), 0
    while (done := (time.time() - begun) / (60 * minutes)) < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, 1.5 * (1 - done))
        adam.param_groups[0]["lr"] = DENSE_RATE * min(1.0, (step + 1) / 30, 1.5 * (1 - done))
        batch, chosen, targets, weights = pack(
            [next(s) for s in (stream, any_stream) for _ in range(BATCH // 2)]
        )
        logits = network.logits(network.hidden(batch)[0][chosen])
        losses = F.cross_entropy(logits, targets, reduction="none")
        (losses * weights).mean().mul(20).backward()
        for parameter in tables:
            assert parameter.grad is not None
            parameter.grad[~mask] = 0
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.utils.clip_grad_norm_(dense, 20.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        if step % 20 == 0:
            right = (logits.argmax(-1) == targets).float().mean().item()
            half = batch.documents[chosen] < BATCH // 2
            ours, theirs = losses[half].mean().item(), losses[~half].mean().item()
            print(f"{step} {time.time() - begun:.0f} s, loss of chosen documents {ours:.4f}, "
                  f"of any {theirs:.4f}, accuracy {right:.4f}", flush=True)  # fmt: skip
        step += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--start", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    tokenizer = Tokenizer()
    network, old = load(options.start, torch.float32)
    new = vocabulary.stored_ids()
    network = with_rows(network, old, new)
    freeze_experts(network)
    words = vocabulary.pieces(tokenizer)
    failed = unknown_words(network, words, tokenizer)
    known = sorted(set(words) - set(failed))
    # Of the others there are too many to learn in minutes.
    listed = {word for words in EVERY_LIST for word in words}
    failed = [word for word in failed if word in listed]
    added = set(new) - set(old) | vocabulary.read_only_ids()
    mask = rows_to_teach(failed, known, sorted(added), tokenizer)
    print(f"{len(failed)} of {len(words)} words are not copied; {int(mask.sum())} rows to teach")
    print(" ".join(failed[:400]), flush=True)
    refine(network, failed, mask, options.minutes, tokenizer)
    still = unknown_words(network, failed, tokenizer)
    print(f"{len(still)} of {len(failed)} are still not copied: {' '.join(still[:200])}")
    export(network, new, options.out)


if __name__ == "__main__":
    main()
