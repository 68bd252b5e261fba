"""The Triton attention kernel on a GPU, against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.attention import reference
from ossia.kernels.select import select_kernels
from ossia.kernels.self_test import self_test
from ossia.model.batch import LayerCache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}  # of values around 1


@pytest.fixture
def triton_prepare():
    from ossia.kernels.attention.triton_paged import prepare_attention

    return prepare_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize(
    ("cached", "new"),
    [
        ([0, 0], [300, 1]),
        ([700, 0, 5000, 127, 128], [1, 1, 1, 1, 1]),
        ([20, 0, 1000, 90, 64], [1, 400, 170, 3, 1]),
    ],
    ids=["prefill", "decode", "mixed"],
)
def test_matches_the_reference_in_the_geometry_of_gpt_oss(
    triton_prepare, attention_case, cached, new, window, dtype
):
    case = attention_case(
        cached, new, window=window, heads=64, kv_heads=8, head_dim=64, page_size=16, dtype=dtype
    )
    on_gpu = replace(
        case,
        paged=replace(
            case.paged,
            **{
                name: getattr(case.paged, name).cuda()
                for name in ("slots", "page_table", "first_positions", "kv_lens", "query_starts")
            },
        ),
        q=case.q.cuda(),
        k=case.k.cuda(),
        v=case.v.cuda(),
        cache=LayerCache(case.cache.keys.cuda(), case.cache.values.cuda()),
        sinks=case.sinks.cuda(),
    )
    truth = case.run(reference.prepare_attention)
    torch.testing.assert_close(
        on_gpu.run(triton_prepare).cpu(), truth, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["auto", "TRITON", "TORCH"])
def test_every_backend_passes_the_self_test(dtype, backend):
    device = torch.device("cuda")
    kernels = select_kernels(device, dtype, backend)
    assert kernels.attention_backend == ("TORCH" if backend == "TORCH" else "TRITON")
    self_test(kernels, device, dtype)
