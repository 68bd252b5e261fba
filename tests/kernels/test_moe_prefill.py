"""The experts of prompts, as far as they can be checked without a GPU."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.moe import cuda_prefill
from ossia.kernels.moe.cuda_prefill import PrefillConfig, hidden_rows
from ossia.kernels.router.groups import group

BLOCK_LIMIT = 227 * 1024  # bytes of shared memory that a block can have on Hopper


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("config", [PrefillConfig(), PrefillConfig(wait_limit_ns=10**9)])
def test_compiles_for_hopper(config, tmp_path):
    code = compile_cuda(
        cuda_prefill.source(),
        architecture="sm_90a",
        defines=cuda_prefill.defines(320, 192, 4, config),
        cache=tmp_path,
    )
    assert b"gate_up_many" in code
    assert b"down_many" in code


def test_the_ring_fits_a_block_of_hopper():
    assert PrefillConfig().shared_bytes <= BLOCK_LIMIT


@pytest.mark.parametrize("tokens", [1, 63, 300, 2000])
@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_padded_tiles_of_hidden_rows_do_not_overlap(tokens, skew):
    torch.manual_seed(tokens)
    experts = 32
    scores = torch.rand(tokens, experts) + skew * torch.arange(experts) / experts
    groups = group(scores.topk(4).indices.int(), experts, cuda_prefill.ROWS_A_TILE)
    end = 0
    for expert, first, rows, _ in groups.work[: groups.num_work.item()].tolist():
        begin = first + 127 * expert
        assert begin >= end
        end = begin + next(size for size in (64, 128, 256) if size >= rows)
    assert end <= hidden_rows(tokens * 4, experts)
