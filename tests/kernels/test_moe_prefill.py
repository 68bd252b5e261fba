"""The experts of prompts, as far as they can be checked without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.moe import cuda_prefill
from ossia.kernels.moe.cuda_prefill import (
    DEFAULT,
    FEW,
    default_config,
    hidden_rows,
    padded_rows,
    prefill_rows_a_tile,
)
from ossia.kernels.router.groups import group

BLOCK_LIMIT = 227 * 1024  # bytes of shared memory that a block can have on Hopper


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize(
    "config",
    [DEFAULT, FEW, replace(FEW, wait_limit_ns=10**9), replace(DEFAULT, cluster=1, placed=False)],
)
def test_compiles_for_hopper(config, tmp_path):
    code = compile_cuda(
        cuda_prefill.source(),
        architecture="sm_90a",
        defines=cuda_prefill.defines(320, 192, 4, config),
        cache=tmp_path,
    )
    assert b"gate_up_many" in code
    assert b"down_many" in code


@pytest.mark.parametrize("config", [DEFAULT, FEW])
def test_the_ring_fits_a_block_of_hopper(config):
    assert config.shared_bytes <= BLOCK_LIMIT


def test_few_rows_an_expert_get_small_tiles():
    assert prefill_rows_a_tile(640 * 4, 32) == FEW.rows
    assert prefill_rows_a_tile(8000 * 4, 32) == DEFAULT.rows
    assert default_config(128) == default_config(64) == FEW
    assert default_config(256) == DEFAULT


@pytest.mark.parametrize("config", [DEFAULT, FEW])
@pytest.mark.parametrize("tokens", [1, 63, 300, 2000])
@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_padded_tiles_of_hidden_rows_do_not_overlap(tokens, skew, config):
    torch.manual_seed(tokens)
    experts = 32
    scores = torch.rand(tokens, experts) + skew * torch.arange(experts) / experts
    groups = group(scores.topk(4).indices.int(), experts, config.rows)
    end = 0
    for expert, first, rows, _ in groups.work[: groups.num_work.item()].tolist():
        begin = first + 127 * expert
        assert begin >= end
        end = begin + padded_rows(rows, config)
    assert end <= hidden_rows(tokens * 4, experts)
