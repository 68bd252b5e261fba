"""The experts of decoding, as far as they can be checked without a GPU."""

from __future__ import annotations

import pytest

from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.moe.cuda_decode import (
    ARCHITECTURE,
    ROWS_A_TILE,
    FewConfig,
    OneConfig,
    few_config,
    few_source,
    one_source,
    rows_a_tile,
)


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("rows", [8, 32])
def test_few_compiles_for_hopper(rows, tmp_path):
    source, defines = few_source(320, 192, 4, few_config(rows, 320, 192))
    code = compile_cuda(source, architecture=ARCHITECTURE, defines=defines, cache=tmp_path)
    assert b"few_gate_up" in code
    assert b"few_down" in code


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("config", [OneConfig(5, 5, 3, 3), OneConfig(5, 5, 3, 3, 1, 4)])
def test_one_compiles_for_hopper(config, tmp_path):
    source, defines = one_source(320, 192, 32, 4, config)
    code = compile_cuda(source, architecture=ARCHITECTURE, defines=defines, cache=tmp_path)
    assert b"one_gate_up" in code
    assert b"one_down" in code


@pytest.mark.parametrize("rows", ROWS_A_TILE)
def test_the_usual_shapes_fit_a_block_of_hopper(rows):
    config = few_config(rows, 2880, 2880)
    assert config.rows_a_tile == rows
    assert config.chunks > 1  # the shape meant for gpt-oss, not the one for any size
    assert config.threads <= 1024


@pytest.mark.parametrize(
    ("tokens", "num_experts", "rows"),
    [
        (1, 32, 8),
        (16, 32, 8),
        (32, 32, 16),
        (64, 32, 32),
        (128, 32, 32),
        (256, 32, 32),
        (64, 128, 8),
        (128, 128, 16),
        (512, 128, 32),
    ],
)
def test_tiles_hold_the_usual_load_of_an_expert(tokens, num_experts, rows):
    assert rows_a_tile(tokens, 4, num_experts) == rows


def test_a_shape_too_large_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        few_source(2880, 2880, 4, FewConfig(32, 16, 1, 2, 5, 5))
