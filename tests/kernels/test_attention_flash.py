"""FlashAttention of other packages, stood in for by fakes with the signatures of the real ones.

Signatures: kernels-community/vllm-flash-attn3 and sgl-flash-attn3, flash-attn-4 4.0.0b36,
flashinfer-python 0.7.2, fa3-fwd 0.0.3. A fake computes what the arguments say by the reference.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType

import pytest
import torch

from ossia.kernels.attention import flash, reference
from ossia.kernels.attention.interface import write_cache
from ossia.model.batch import LayerCache, PagedBatch

HOPPER = (9, 0)
CACHED, NEW = [20, 0, 5, 300], [1, 40, 9, 3]


def by_reference(q, keys, values, lengths, table, starts, scale, window, sinks):
    """Attention of sequences whose first key lies in the first page."""
    nothing = keys.new_empty(0, *keys.shape[2:])
    paged = PagedBatch(
        slots=torch.empty(0, dtype=torch.int64),
        page_table=table,
        first_positions=torch.zeros_like(lengths),
        kv_lens=lengths,
        query_starts=starts,
        max_query_len=0,
        max_kv_len=0,
    )
    attend = reference.prepare_attention(paged, keys.shape[1], keys.shape[2], window)
    return attend(q, nothing, nothing, LayerCache(keys, values), sinks, scale)


def vllm_flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
    cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
    cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None,
    q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, scheduler_metadata=None,
    num_splits=0, pack_gqa=None, sm_margin=0, return_softmax_lse=False, s_aux=None,
    cp_world_size=1, cp_rank=0, cp_tot_seqused_k=None,
):  # fmt: skip
    assert causal
    assert max_seqlen_q == max(b - a for a, b in pairwise(cu_seqlens_q.tolist()))
    assert s_aux.dtype == q.dtype
    assert window_size[1] == (-1 if window_size[0] == -1 else 0)
    window = None if window_size[0] == -1 else window_size[0] + 1
    return by_reference(
        q, k_cache, v_cache, cache_seqlens, page_table, cu_seqlens_q, softmax_scale, window, s_aux
    )


def sgl_flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
    cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
    cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None,
    q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False,
    window_size=(-1, -1), attention_chunk=None, softcap=0.0, rotary_interleaved=True,
    scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, return_softmax_lse=False,
    sinks=None,
):  # fmt: skip
    return vllm_flash_attn_with_kvcache(
        q, k_cache, v_cache, cache_seqlens=cache_seqlens, page_table=page_table,
        cu_seqlens_q=cu_seqlens_q, max_seqlen_q=max_seqlen_q, softmax_scale=softmax_scale,
        causal=causal, window_size=window_size, s_aux=sinks,
    )  # fmt: skip


def plain_flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
    cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None,
    cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None,
    q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False,
    window_size=(-1, -1), attention_chunk=0, softcap=0.0, rotary_interleaved=True,
    scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, return_softmax_lse=False,
):  # fmt: skip
    raise AssertionError("has no sinks")


def flash_4_varlen_func(
    q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
    min_seqlen_k=None, seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None,
    softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0,
    num_splits=1, pack_gqa=None, deterministic=False, score_mod=None, score_mod_bwd=None,
    mask_mod=None, block_sparse_tensors=None, aux_tensors=None, aux_scalars=None, return_lse=False,
    scheduler_metadata=None, seqlen_k_per_split=None, disable_scheduler_metadata=False,
    gather_bwd_recompute_p=False, gather_bwd_token_chunk=None,
):  # fmt: skip
    assert causal
    assert cu_seqlens_k is None
    assert max_seqlen_k >= seqused_k.max()
    window = None if window_size == (None, None) else window_size[0] + 1
    return (
        by_reference(
            q, k, v, seqused_k, page_table, cu_seqlens_q, softmax_scale, window, learnable_sink
        ),
        None,
    )


class SinkWrapper:
    """Of flashinfer.attention."""

    plans = 0

    def __init__(
        self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, qo_indptr_buf=None,
        paged_kv_indptr_buf=None, paged_kv_indices_buf=None, paged_kv_last_page_len_buf=None,
        custom_mask_buf=None, mask_indptr_buf=None, backend="auto", pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
        head_dim_qk=128, head_dim_vo=128, window_left=-1,
    ):  # fmt: skip
        assert (kv_layout, backend) == ("NHD", "fa3")
        assert head_dim_qk == head_dim_vo == 16
        self.window_left = window_left

    def plan(
        self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads,
        num_kv_heads, head_dim_qk, page_size, head_dim_vo=None, custom_mask=None,
        packed_custom_mask=None, causal=False, pos_encoding_mode="NONE",
        use_fp16_qk_reduction=False, sm_scale=None, window_left=-1, logits_soft_cap=None,
        rope_scale=None, rope_theta=None, q_data_type="float16", kv_data_type=None,
        o_data_type=None, non_blocking=True,
    ):  # fmt: skip
        assert causal
        assert window_left == self.window_left
        assert {t.dtype for t in (paged_kv_indptr, paged_kv_indices)} == {torch.int32}
        assert paged_kv_last_page_len.dtype == torch.int32
        counts = paged_kv_indptr.diff()
        self.lengths = (counts - 1) * page_size + paged_kv_last_page_len
        self.table = torch.zeros(len(counts), int(counts.max()), dtype=torch.int32)
        for row, pages in enumerate(paged_kv_indices.split(counts.tolist())):
            self.table[row, : len(pages)] = pages
        self.starts = qo_indptr
        SinkWrapper.plans += 1

    def run(self, q, paged_kv_cache, *args, out=None, lse=None, return_lse=False):
        sinks, scale = args
        assert sinks.dtype == torch.float32
        window = None if self.window_left < 0 else self.window_left + 1
        return by_reference(q, *paged_kv_cache, self.lengths, self.table, self.starts, scale,
                            window, sinks)  # fmt: skip


@pytest.fixture
def install(monkeypatch):
    """Make a module importable."""

    def add(name: str, **contents: object) -> None:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        for key, value in contents.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)

    return add


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch, tmp_path):
    """Whatever this machine has does not count."""
    for name in ("kernels", "flash_attn", "flash_attn.cute", "flashinfer", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", None)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))


@pytest.fixture
def hub(install, tmp_path):
    """A kernel of the hub in the local cache."""

    def add(kernel: str, function: object, kind: str = "models") -> None:
        root = tmp_path / f"{kind}--kernels-community--{kernel}"
        (root / "snapshots" / "0" / "build").mkdir(parents=True)
        module = ModuleType(kernel)
        module.flash_attn_with_kvcache = function

        def get_local_kernel(repo_path, *, backend=None, trust_remote_code=False, user_agent=None):
            assert repo_path == root / "snapshots" / "0"
            return module

        install("kernels", get_local_kernel=get_local_kernel)

    return add


def check(backend, case):
    """The backend agrees with the reference."""
    write_cache(case.cache, case.paged, case.k, case.v)
    scale = case.q.shape[-1] ** -0.5
    out = backend.attend_prefill(case.q, case.cache, case.paged, case.sinks, scale, case.window)
    torch.testing.assert_close(out, case.run(reference.prepare_attention), rtol=1e-5, atol=1e-5)


@pytest.fixture(params=[None, 24], ids=["full", "window"])
def case(request, attention_case):
    return attention_case(CACHED, NEW, window=request.param)


@pytest.mark.parametrize(
    ("kernel", "function"),
    [
        ("vllm-flash-attn3", vllm_flash_attn_with_kvcache),
        ("sgl-flash-attn3", sgl_flash_attn_with_kvcache),
    ],
)
def test_a_kernel_of_the_hub_is_used_from_the_local_cache(hub, case, kernel, function):
    hub(kernel, function)
    backend = flash.find_flash(HOPPER)
    assert backend.name == f"kernels-community/{kernel}"
    check(backend, case)


def test_flash_4_is_used(install, case):
    install("flash_attn")
    install("flash_attn.cute", flash_attn_varlen_func=flash_4_varlen_func)
    backend = flash.find_flash(HOPPER)
    assert backend.name == "flash-attn-4"
    check(backend, case)


def test_flashinfer_is_used_and_plans_a_step_once(install, case):
    install("flashinfer")
    install("flashinfer.attention", BatchAttentionWithAttentionSinkWrapper=SinkWrapper)
    backend = flash.find_flash(HOPPER)
    assert backend.name == "FlashInfer"
    before = SinkWrapper.plans
    check(backend, case)
    check(backend, case)
    assert SinkWrapper.plans == before + 1


def test_a_build_without_sinks_is_refused(install, hub):
    hub("flash-attn3", plain_flash_attn_with_kvcache)
    install("fa3_fwd_interface", flash_attn_with_kvcache=plain_flash_attn_with_kvcache)
    assert flash.find_flash(HOPPER) is None
    reasons = [c.reason for c in flash.flash_candidates(HOPPER)]
    for name, reason in (("kernels-community/flash-attn3", reasons[0]), ("fa3_fwd", reasons[3])):
        assert name in reason
        assert "this build has no argument for attention sinks" in reason


def test_a_package_that_fails_to_import_is_a_reason(install):
    install("flash_attn")
    install("flash_attn.cute")  # an empty one
    candidate = flash.flash_candidates(HOPPER)[1]
    assert candidate.backend is None
    assert candidate.reason.startswith("flash-attn-4 cannot be used: ")


def test_every_candidate_says_why_it_cannot_be_used(install):
    install("kernels")
    for capability in (HOPPER, (8, 0), None):
        for candidate in flash.flash_candidates(capability):
            assert candidate.backend is None
            assert candidate.reason.endswith("."), candidate


def test_the_error_says_what_to_install():
    assert "pip install --pre flash-attn-4" in flash.missing_flash(HOPPER)
    assert "auto or TRITON" in flash.missing_flash(HOPPER)
    for capability in ((8, 9), None):
        assert "needs a Hopper GPU" in flash.missing_flash(capability)
