"""The routing kernels for Hopper without a GPU; `tests/gpu/test_groups.py` runs them."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.router import cuda_route


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("experts", [32, 128])
def test_compiles_for_hopper(experts, tmp_path):
    source, defines = cuda_route.route_source(2880, experts, 4)
    code = compile_cuda(source, architecture="sm_90", defines=defines, cache=tmp_path)
    for name in (
        b"route_logits",
        b"route_choose",
        b"route_choose_part",
        b"route_place",
        b"route_fused",
    ):
        assert name in code


def test_python_and_cuda_agree_on_sizes():
    source, _ = cuda_route.route_source(2880, 32, 4)
    for name, value in {
        "ROWS": cuda_route.ROWS,
        "TOKENS": cuda_route.TOKENS,
        "PIECE": cuda_route.PIECE,
        "MOST_TOKENS": cuda_route.ONE_BLOCK_TOKENS,
        "PART": cuda_route.PART,
        "FUSED_TOKENS": cuda_route.FUSED_TOKENS,
        "MOST_TILES": cuda_route.MOST_TILES,
    }.items():
        assert f"constexpr int {name} = {value};" in " ".join(source.split())


@pytest.mark.parametrize(("hidden", "warps"), [(2880, 15), (64, 2), (4096, 16)])
def test_warps_share_the_columns_evenly(hidden, warps):
    assert cuda_route.logit_warps(hidden) == warps


def test_rows_on_a_cpu_do_not_fit():
    assert not cuda_route.fits(torch.zeros(2, 64, dtype=torch.bfloat16), 32, 4)
