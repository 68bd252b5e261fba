"""The network, and the registry from architecture name to class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ossia.config import ARCHITECTURE
from ossia.errors import CheckpointError

if TYPE_CHECKING:
    from ossia.model.gpt_oss import GptOssForCausalLM

# Architecture (as in config.json) to module; imported when asked for, because the module needs
# the kernels and those need the types in this package.
MODELS = {ARCHITECTURE: "ossia.model.gpt_oss"}


def model_class(architecture: str) -> type[GptOssForCausalLM]:
    """The class that runs this architecture.

    Raises:
        CheckpointError: Ossia has no such network.
    """
    if architecture not in MODELS:
        raise CheckpointError(f"Ossia serves {', '.join(MODELS)} only, not {architecture}.")
    found: type[GptOssForCausalLM] = getattr(import_module(MODELS[architecture]), architecture)
    return found
