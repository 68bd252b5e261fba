"""The registry from architecture name to class."""

from __future__ import annotations

import pytest

from ossia.errors import CheckpointError
from ossia.model import model_class
from ossia.model.gpt_oss import GptOssForCausalLM


def test_knows_gpt_oss():
    assert model_class("GptOssForCausalLM") is GptOssForCausalLM


def test_refuses_other_architectures_by_name():
    with pytest.raises(CheckpointError, match="serves GptOssForCausalLM only, not LlamaFor"):
        model_class("LlamaForCausalLM")
