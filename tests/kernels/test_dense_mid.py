"""The dense products of 65 to 256 tokens on Hopper, without a GPU.

`tests/gpu/test_dense_mid.py` runs them.
"""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.linear.cuda_mid import (
    MAPS,
    MOST_SHARED_BYTES,
    MidShape,
    can_multiply,
    groups_for,
    mid_source,
)

pytest.importorskip("triton", reason="its norm comes before the head")

from ossia.kernels.attention_out import cuda_mid as out_mid
from ossia.kernels.lm_head import cuda_mid as head_mid
from ossia.kernels.qkv import cuda_mid as qkv_mid

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2880, 64, 8, 64, 201_088
ROWS = (HEADS + 2 * KV_HEADS) * HEAD_DIM
DEFAULTS = [qkv_mid.default_shape, out_mid.default_shape, head_mid.default_shape]


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize(("folder", "tokens"), [("qkv", 256), ("attention_out", 65)])
def test_compiles_for_hopper(folder, tokens, tmp_path):
    module = {"qkv": qkv_mid, "attention_out": out_mid}[folder]
    shape = module.default_shape(tokens)
    macros = {
        "qkv": qkv_mid.macros(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, shape),
        "attention_out": {**shape.macros(HEADS * HEAD_DIM), "HIDDEN": HIDDEN},
    }[folder]
    code = compile_cuda(
        mid_source(folder), architecture="sm_90a", defines=macros, name=folder, cache=tmp_path
    )
    assert {"qkv": b"project_qkv_mid", "attention_out": b"project_out_mid"}[folder] in code


@pytest.mark.parametrize("tokens", [1, 64, 65, 128, 129, 200, 256, 1000])
@pytest.mark.parametrize("default", DEFAULTS)
def test_defaults_fit_a_multiprocessor_and_hold_the_tokens(default, tokens):
    shape = default(tokens)
    assert shape.shared_bytes <= MOST_SHARED_BYTES
    assert shape.tokens >= min(tokens, 256)
    assert shape.stages >= 3
    # What blocks of a cluster hand each other lies where the ring was.
    exchange = shape.splits * -(-shape.rows // 16 // shape.splits) * shape.groups * 128 * 32
    assert shape.splits == 1 or exchange <= shape.shared_bytes - 1024 - 16 * shape.stages


def test_gpt_oss_fills_the_multiprocessors_of_an_h100_once():
    for tokens in (65, 128, 256):
        assert qkv_mid.default_shape(tokens).grid(ROWS, tokens) == (120, 1)
        assert out_mid.default_shape(tokens).grid(HIDDEN, tokens) == (120, 1)


def test_tiles_that_share_tokens_come_in_whole_clusters():
    assert MidShape(rows=128, groups=4, stages=4, share=2).grid(VOCAB, 256) == (1572, 1)
    assert MidShape(rows=128, groups=2, stages=4).grid(VOCAB, 200) == (1571, 2)


def test_a_group_is_64_tokens():
    assert [groups_for(tokens) for tokens in (1, 64, 65, 192, 193, 256, 300)] == [
        1,
        1,
        2,
        3,
        4,
        4,
        4,
    ]


def test_descriptions_are_the_last_parameter_of_each_kernel():
    assert MAPS == "Q" * 32
    for folder in ("qkv", "attention_out", "lm_head"):
        assert "const __grid_constant__ Maps maps) {" in mid_source(folder)


def test_rows_on_a_cpu_do_not_fit():
    x = torch.zeros(65, 192, dtype=torch.bfloat16)
    assert not can_multiply(torch.zeros(128, 192, dtype=torch.bfloat16), x, MidShape(128, 2, 4))
