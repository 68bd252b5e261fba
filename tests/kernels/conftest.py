"""Random paged steps for attention kernels; Triton kernels in Triton's interpreter.

The interpreter must be chosen before Triton is first imported, so a file's kernel tests run in a
process of their own, which one test of the file starts with `run_in_the_interpreter`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from ossia.kernels.attention.interface import PrepareAttention
from ossia.model.batch import LayerCache, PagedBatch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def run_in_the_interpreter() -> Callable[..., None]:
    """Runs a file's tests, those that `select` names if it is given, and expects them to pass."""
    if INTERPRETING:
        pytest.skip("this is the process that it starts")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed (it comes with torch for CUDA)")

    def run(file: str, select: str | None = None) -> None:
        chosen = () if select is None else ("-k", select)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen, file],
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout

    return run


@pytest.fixture(autouse=INTERPRETING)
def _patched_interpreter(monkeypatch):
    """Triton 3.6's interpreter made to work with NumPy 2.4.

    It turns loop bounds, arrays of one element, into ints in a way that NumPy now refuses.
    """
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class AttentionCase:
    """One layer's attention in one step."""

    paged: PagedBatch
    page_size: int
    window: int | None
    q: Tensor
    k: Tensor
    v: Tensor
    cache: LayerCache
    sinks: Tensor

    def run(self, prepare: PrepareAttention) -> Tensor:
        cache = LayerCache(self.cache.keys.clone(), self.cache.values.clone())
        attend = prepare(self.paged, self.page_size, self.k.shape[1], self.window)
        out = attend(self.q, self.k, self.v, cache, self.sinks, self.q.shape[-1] ** -0.5)
        slots = self.paged.slots
        assert torch.equal(cache.keys.flatten(0, 1)[slots], self.k.to(cache.keys.dtype))
        assert torch.equal(cache.values.flatten(0, 1)[slots], self.v.to(cache.values.dtype))
        return out

    def with_padding(self, tokens: int) -> AttentionCase:
        """The same with a sequence of tokens that see no keys, and a last one without tokens."""
        paged, zeros = self.paged, torch.zeros(2, dtype=torch.int32, device=self.q.device)
        used = set(paged.page_table.flatten().tolist())
        spare = next(page for page in range(len(self.cache.keys)) if page not in used)
        slots = spare * self.page_size + torch.arange(tokens, device=self.q.device)
        assert tokens <= self.page_size
        ends = torch.full_like(zeros, len(self.q) + tokens)
        padded = replace(
            paged,
            slots=torch.cat((paged.slots, slots)),
            page_table=torch.cat(
                (paged.page_table, torch.zeros_like(paged.page_table[:1])[[0, 0]])
            ),
            first_positions=torch.cat((paged.first_positions, zeros)),
            kv_lens=torch.cat((paged.kv_lens, zeros)),
            query_starts=torch.cat((paged.query_starts, ends)),
            max_query_len=max(paged.max_query_len, tokens),
        )
        q, k, v = (
            torch.cat((x, torch.full_like(x[:1], 3).expand(tokens, -1, -1)))
            for x in (self.q, self.k, self.v)
        )
        return replace(self, paged=padded, q=q, k=k, v=v)


@pytest.fixture
def attention_case() -> Callable[..., AttentionCase]:
    return make_case


def make_case(
    cached: list[int],
    new: list[int],
    *,
    window: int | None = None,
    heads: int = 8,
    kv_heads: int = 2,
    head_dim: int = 16,
    page_size: int = 4,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> AttentionCase:
    """Sequences with `cached` tokens in the cache and `new` ones to come, pages in random order.

    Slots that hold no key of any sequence are NaN.
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(device, dtype)

    lengths = [c + n for c, n in zip(cached, new, strict=True)]
    firsts = [
        0 if window is None else max(0, c - window + 1) // page_size * page_size for c in cached
    ]
    counts = [-(-(n - f) // page_size) for n, f in zip(lengths, firsts, strict=True)]
    pages = sum(counts) + 3
    free = torch.randperm(pages, generator=rng).tolist()
    table = torch.zeros(len(new), max(counts), dtype=torch.int32)
    keys = torch.full(
        (pages * page_size, kv_heads, head_dim), torch.nan, device=device, dtype=dtype
    )
    values = keys.clone()
    slots = []
    for s, count in enumerate(counts):
        own = torch.tensor([free.pop() for _ in range(count)])
        table[s, :count] = own
        at = torch.arange(lengths[s] - firsts[s])
        places = own[at // page_size] * page_size + at % page_size
        old = places[: cached[s] - firsts[s]]
        keys[old], values[old] = (normal(len(old), kv_heads, head_dim) for _ in range(2))
        slots.append(places[cached[s] - firsts[s] :])

    def int32(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    paged = PagedBatch(
        slots=torch.cat(slots).to(device),
        page_table=table.to(device),
        first_positions=int32(firsts),
        kv_lens=int32(lengths),
        query_starts=int32([0, *torch.tensor(new).cumsum(0).tolist()]),
        max_query_len=max(new),
        max_kv_len=max(lengths),
    )
    shape = (pages, page_size, kv_heads, head_dim)
    return AttentionCase(
        paged=paged,
        page_size=page_size,
        window=window,
        q=normal(sum(new), heads, head_dim),
        k=normal(sum(new), kv_heads, head_dim),
        v=normal(sum(new), kv_heads, head_dim),
        cache=LayerCache(keys.view(shape), values.view(shape)),
        sinks=normal(heads),
    )
