"""The experts of 65 to 512 tokens, as far as they can be checked without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.moe.cuda_decode_mid import (
    MID_ROWS_A_TILE,
    mid_config,
    mid_rows_a_tile,
    mid_source,
)


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.parametrize("sizes", [(2880, 2880), (448, 320), (64, 64)])
@pytest.mark.parametrize("rows", MID_ROWS_A_TILE)
def test_every_size_of_items_has_a_launch_shape(rows, sizes):
    config = mid_config(rows, *sizes)
    assert config.rows_a_tile == rows
    assert config.fits(*sizes)


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tokens", [65, 128, 256, 300])
def test_most_experts_fit_one_item(tokens, experts):
    rows = mid_rows_a_tile(tokens, 4, experts)
    assert rows in MID_ROWS_A_TILE
    assert rows >= 1.5 * tokens * 4 / experts


def test_other_sizes_are_refused():
    config = replace(mid_config(48, 2880, 2880), chunks=2)
    with pytest.raises(ValueError, match="does not fit"):
        mid_source(2880, 2880, 4, config)


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("rows", [24, 48])
def test_compiles_for_hopper(rows, tmp_path):
    config = replace(mid_config(rows, 2880, 2880), wait_limit_ns=10**9)
    source, defines = mid_source(2880, 2880, 4, config)
    code = compile_cuda(source, architecture="sm_90a", defines=defines, cache=tmp_path)
    assert b"mid_gate_up" in code
    assert b"mid_down" in code
