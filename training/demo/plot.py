"""The loss of a training run as a picture: python -m training.demo.plot log.jsonl loss.png"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot(log: Path, picture: Path) -> None:
    """Loss and wrong tokens over what the model writes itself, by million tokens seen."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    tokens = [line["tokens"] / 1e6 for line in lines]
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=90)
    axes.semilogy(tokens, [line["loss"] for line in lines], linewidth=1, label="loss (nats)")
    wrong = [max(1 - line["accuracy"], 1e-5) for line in lines]
    axes.semilogy(tokens, wrong, linewidth=1, label="share of wrong tokens")
    axes.set_xlabel("million tokens")
    axes.set_title("Demo model: fresh synthetic conversations, model's own tokens")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture)


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
