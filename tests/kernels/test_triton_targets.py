"""The portable Triton kernels compile for every GPU that they are meant for, and fit it.

No GPU is needed to compile for one. Launches are recorded and compiled as Triton would, for the
shapes of gpt-oss; what the kernels compute is tested elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ossia.model.batch import LayerCache, PagedBatch
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

triton = pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"
)
# Compute capability, and bytes of shared memory that a block can have (CUDA C++ Programming Guide,
# "Technical Specifications per Compute Capability").
GPUS = {
    "Ampere": (80, 163 << 10),
    "Ampere, consumer": (86, 99 << 10),
    "Ada": (89, 99 << 10),
    "Hopper": (90, 227 << 10),
    "Blackwell": (100, 227 << 10),
    "Blackwell, consumer": (120, 99 << 10),
}
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.uint8: "*u8"}
HIDDEN, EXPERTS, K, HEADS, KV_HEADS, HEAD_DIM, PAGE = 2880, 32, 4, 64, 8, 64, 16
OPTIONS = ("num_warps", "num_stages", "maxnreg")

Launch = tuple[Any, tuple[object, ...], dict[str, Any]]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What is launched, instead of a launch."""
    from triton.runtime import JITFunction

    from ossia.kernels.fast_launch import FastKernel

    found: list[Launch] = []

    def recorder(of: Callable[[Any], Any]) -> Any:
        def take(self: Any, grid: object) -> Any:
            del grid
            return lambda *values, **named: found.append((of(self), values, named))

        return take

    monkeypatch.setattr(FastKernel, "__getitem__", recorder(lambda kernel: kernel.kernel))
    monkeypatch.setattr(JITFunction, "__getitem__", recorder(lambda kernel: kernel))
    return found


def compile_for(launch: Launch, capability: int) -> Any:
    """The kernel of a launch, for arguments as aligned as torch makes them."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, values, named = launch
    arguments = dict(zip(kernel.arg_names, values, strict=False)) | {
        name: value for name, value in named.items() if name in kernel.arg_names
    }
    signature, constants, attributes = {}, {}, {}
    for i, param in enumerate(kernel.params):
        value = arguments[param.name]
        if param.is_constexpr:
            signature[param.name], constants[param.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[param.name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[param.name] = "fp32" if isinstance(value, float) else "i32"
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={name: value for name, value in named.items() if name in OPTIONS},
    )


def launch_attention(dtype: torch.dtype, window: int | None, queries: int) -> None:
    from ossia.kernels.attention import triton_paged

    def pool() -> torch.Tensor:
        return torch.zeros(4, PAGE, KV_HEADS, HEAD_DIM, dtype=dtype)

    def int32(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    paged = PagedBatch(
        slots=torch.arange(PAGE, PAGE + queries),
        page_table=int32(1, 2, 3)[None],
        first_positions=int32(0),
        kv_lens=int32(queries),
        query_starts=int32(0, queries),
        max_query_len=queries,
        max_kv_len=queries,
    )
    attend = triton_paged.prepare_attention(paged, PAGE, KV_HEADS, window)
    q = torch.zeros(queries, HEADS, HEAD_DIM, dtype=dtype)
    k = torch.zeros(queries, KV_HEADS, HEAD_DIM, dtype=dtype)
    attend(q, k, k, LayerCache(pool(), pool()), torch.zeros(HEADS, dtype=dtype), 0.125)


def launch_experts(dtype: torch.dtype, tokens: int) -> None:
    from ossia.kernels.moe import triton_portable

    def matrix(rows: int) -> Mxfp4Tensor:
        # One expert's bytes for all: nothing is computed.
        blocks = torch.zeros(1, rows, HIDDEN // 32, 16, dtype=torch.uint8)
        scales = torch.zeros(1, rows, HIDDEN // 32, dtype=torch.uint8)
        return Mxfp4Tensor(blocks.expand(EXPERTS, -1, -1, -1), scales.expand(EXPERTS, -1, -1))

    experts = ExpertWeights(
        gate_up=matrix(2 * HIDDEN),
        gate_up_bias=torch.zeros(EXPERTS, 2 * HIDDEN, dtype=dtype),
        down=matrix(HIDDEN),
        down_bias=torch.zeros(EXPERTS, HIDDEN, dtype=dtype),
    )
    chosen = torch.arange(K).expand(tokens, -1)
    shares = torch.full((tokens, K), 0.25)
    x = torch.zeros(tokens, HIDDEN, dtype=dtype)
    triton_portable.run_experts(x, shares, chosen, experts, 1.702, 7.0)


@pytest.mark.parametrize(
    ("gpu", "dtype"),
    [*((gpu, torch.bfloat16) for gpu in GPUS), ("Ada", torch.float32)],
    ids=[*GPUS, "Ada, float32"],
)
@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(lambda dtype: launch_attention(dtype, None, 1), id="decoding"),
        pytest.param(lambda dtype: launch_attention(dtype, 128, 1), id="decoding, window"),
        pytest.param(lambda dtype: launch_attention(dtype, None, 40), id="prompt"),
        pytest.param(lambda dtype: launch_attention(dtype, 128, 40), id="prompt, window"),
        pytest.param(lambda dtype: launch_experts(dtype, 2), id="experts of few tokens"),
        pytest.param(lambda dtype: launch_experts(dtype, 200), id="experts of many"),
    ],
)
def test_it_compiles_and_fits(
    launches: list[Launch], launch: Callable[[torch.dtype], None], gpu: str, dtype: torch.dtype
) -> None:
    capability, shared_bytes = GPUS[gpu]
    launch(dtype)
    assert launches
    for recorded in launches:
        compiled = compile_for(recorded, capability)
        assert compiled.metadata.shared <= shared_bytes, compiled.metadata.name
