"""Ossia: an inference server for OpenAI's gpt-oss models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ossia.sampling import SamplingParams

if TYPE_CHECKING:
    from ossia.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    # The API process imports this package but must not pay for importing torch.
    if name == "LLM":
        from ossia.llm import LLM

        return LLM
    raise AttributeError(f"module 'ossia' has no attribute {name!r}")
