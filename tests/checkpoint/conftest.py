"""Small checkpoints to break and convert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.checkpoint.convert import convert
from ossia.checkpoint.resolve import ModelSource
from ossia.config import ModelConfig

TINY = ModelConfig(
    vocab_size=320,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    num_experts=4,
    experts_per_token=2,
    intermediate_size=96,
)


@pytest.fixture
def tiny() -> ModelConfig:
    """A network of two layers with MXFP4 experts."""
    return TINY


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes random weights as a checkpoint directory; options are those of `convert`."""

    def make(name: str = "model", config: ModelConfig = TINY, **options: object) -> Path:
        source = ModelSource(None, "tiny", "dummy", config)
        return convert(source, tmp_path / name, **options).path  # type: ignore[arg-type]

    return make
