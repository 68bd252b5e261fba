"""Compiling CUDA C++ without a GPU; skipped where NVRTC is not installed."""

from __future__ import annotations

import pytest

from ossia.kernels.cuda import compiler
from ossia.kernels.cuda.compiler import CudaCompileError, compile_cuda, nvrtc_version
from ossia.kernels.moe.cuda_decode import (
    OneConfig,
    few_config,
    few_source,
    one_source,
    rows_a_tile,
)

SOURCE = 'extern "C" __global__ void fill(float* out) { out[threadIdx.x] = VALUE; }'


@pytest.fixture
def _nvrtc():
    try:
        nvrtc_version()
    except CudaCompileError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("_nvrtc")
def test_code_is_compiled_once(tmp_path, monkeypatch):
    def compile_fill(value: int) -> bytes:
        return compile_cuda(SOURCE, architecture="sm_90a", defines={"VALUE": value}, cache=tmp_path)

    first = compile_fill(1)
    assert first.startswith(b"\x7fELF")
    assert b"fill" in first
    monkeypatch.setattr(
        compiler._Nvrtc, "compile", lambda *_: pytest.fail("this was compiled before")
    )
    assert compile_fill(1) == first
    assert [file.suffix for file in tmp_path.iterdir()] == [".cubin"]


@pytest.mark.usefixtures("_nvrtc")
def test_other_macros_are_other_code(tmp_path):
    one, two = (
        compile_cuda(SOURCE, architecture="sm_90a", defines={"VALUE": value}, cache=tmp_path)
        for value in (1, 2)
    )
    assert one != two


@pytest.mark.usefixtures("_nvrtc")
def test_an_error_has_the_compilers_words(tmp_path):
    with pytest.raises(CudaCompileError, match="VALUE"):
        compile_cuda(SOURCE, architecture="sm_90a", name="fill.cu", cache=tmp_path)


@pytest.mark.usefixtures("_nvrtc")
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    compile_cuda(
        SOURCE, architecture="sm_90a", defines={"VALUE": 3}, cache=tmp_path / "file" / "kernels"
    )


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch, tmp_path):
    compiler._nvrtc.cache_clear()
    monkeypatch.setattr(compiler, "_candidates", lambda: iter(["libnvrtc-missing.so"]))
    try:
        with pytest.raises(CudaCompileError, match="install torch for CUDA"):
            compile_cuda(SOURCE, architecture="sm_90a", cache=tmp_path)
    finally:
        compiler._nvrtc.cache_clear()


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("num_experts", [32, 128])
def test_the_kernels_of_one_token_compile(num_experts, tmp_path):
    source, defines = one_source(2880, 2880, num_experts, 4, OneConfig())
    code = compile_cuda(source, architecture="sm_90a", defines=defines, cache=tmp_path)
    assert b"one_gate_up" in code
    assert b"one_down" in code


@pytest.mark.usefixtures("_nvrtc")
@pytest.mark.parametrize("size", [2880, 448])
@pytest.mark.parametrize("rows", [8, 32])
def test_the_kernels_of_few_tokens_compile(rows, size, tmp_path):
    source, defines = few_source(size, size, 4, few_config(rows, size, size))
    code = compile_cuda(source, architecture="sm_90a", defines=defines, cache=tmp_path)
    assert b"few_gate_up" in code
    assert b"few_down" in code


@pytest.mark.parametrize(("tokens", "rows"), [(1, 8), (8, 8), (32, 16), (64, 32), (512, 32)])
def test_an_experts_rows_nearly_always_fit_one_tile(tokens, rows):
    assert rows_a_tile(tokens, 4, 32) == rows


def test_shapes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="do not divide"):
        one_source(2880, 2880, 32, 4, OneConfig(up_warps=4))
    with pytest.raises(ValueError, match="does not fit"):
        few_source(448, 448, 4, few_config(8, 2880, 2880))
