"""Which kernels are chosen, and what is said where a wish cannot be met."""

from __future__ import annotations

import pytest
import torch

from ossia.errors import ConfigError
from ossia.kernels.select import select_kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", ["auto", "TORCH"])
def test_a_cpu_runs_torch_and_does_not_mix_requests(wanted):
    kernels = select_kernels(CPU, torch.float32, wanted)
    assert kernels.attention_backend == "TORCH"
    assert kernels.batch_invariant


@pytest.mark.parametrize("wanted", ["TRITON", "FLASH_ATTN_3"])
def test_a_cpu_refuses_gpu_backends_and_names_what_works(wanted):
    with pytest.raises(ConfigError, match=rf"{wanted} .*use auto or TORCH\.$"):
        select_kernels(CPU, torch.float32, wanted)


def test_flash_attention_3_is_refused_on_a_gpu_too():
    with pytest.raises(ConfigError, match=r"use auto(, TRITON)? or TORCH\.$"):
        select_kernels(torch.device("cuda"), torch.bfloat16, "FLASH_ATTN_3")


def test_unknown_backends_are_refused():
    with pytest.raises(ConfigError, match="must be auto, TRITON, FLASH_ATTN_3, TORCH, not FLASH"):
        select_kernels(CPU, torch.float32, "FLASH")
