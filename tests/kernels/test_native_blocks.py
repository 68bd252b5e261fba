"""The native library's norm, router, rotary and attention agree with the references."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.attention import reference as attention_reference
from ossia.kernels.moe import reference as moe_reference
from ossia.kernels.native import block_operations as native
from ossia.kernels.native.blocks import Heads, Pages
from ossia.kernels.native.library import open_context, status
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.rotary.reference import rotate
from ossia.model.batch import LayerCache, PagedBatch

pytestmark = pytest.mark.skipif(not status().available, reason=status().sentence)
PAGE = 16


@pytest.fixture(params=status().levels)
def context(request):
    return open_context(level=request.param, threads=2)


def test_norm(context):
    x, weight = torch.randn(9, 2880), torch.randn(2880)
    found = native.rms_norm(context, x, weight, 1e-5)
    assert torch.allclose(found, rms_norm(x.double(), weight.double(), 1e-5).float(), atol=1e-5)
    assert torch.equal(native.rms_norm(context, x[3:4], weight, 1e-5), found[3:4])


@pytest.mark.parametrize(("experts", "hidden"), [(32, 2880), (8, 64), (5, 48)])
def test_routing(context, experts, hidden):
    x, router, bias = torch.randn(11, hidden), torch.randn(experts, hidden), torch.randn(experts)
    shares, chosen = native.route(context, x, router, bias, 4)
    logits = torch.nn.functional.linear(x.double(), router.double(), bias.double())
    wanted_shares, wanted = moe_reference.route(logits, 4)
    assert torch.equal(chosen.long(), wanted)
    assert torch.allclose(shares.double(), wanted_shares, atol=1e-4)
    alone = native.route(context, x[6:7], router, bias, 4)
    assert torch.equal(alone[0], shares[6:7])


def test_equal_logits_go_to_the_lower_number(context):
    shares, chosen = native.route(context, torch.zeros(1, 32), torch.ones(6, 32), torch.ones(6), 4)
    assert chosen.tolist() == [[0, 1, 2, 3]]
    assert shares.tolist() == [[0.25] * 4]


@pytest.mark.parametrize("window", [None, 128, 20], ids=["full", "window", "short window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(16, 2, 64), (8, 2, 16), (6, 2, 32), (3, 3, 128)], ids=str)
def test_attention_over_pages(context, shape, dtype, window):
    heads, kv_heads, dim = shape
    lengths, new = [700, 300, 33, 1, 530], [1, 70, 33, 1, 1]
    step = _Step(lengths, new, window, kv_heads, dim, dtype)
    qkv = torch.randn(sum(new), (heads + 2 * kv_heads) * dim)
    sinks = torch.randn(heads)
    truth = _reference(step, qkv, shape, sinks, window)

    geometry = Heads(heads, kv_heads, dim, window)
    pages = Pages(step.paged, step.cos, step.sin)
    native.rotate_and_write(context, qkv, geometry, pages, step.cache)
    q = qkv[:, : heads * dim].unflatten(1, (heads, dim))
    found = native.attend(context, q, geometry, pages, step.cache, sinks)
    assert not found.isnan().any()
    assert (found - truth).norm() < 1e-5 * truth.norm()


def test_bits_do_not_depend_on_the_chunk_or_the_threads():
    heads, kv_heads, dim = 8, 1, 64
    whole = _Step([600], [600], None, kv_heads, dim, torch.float32)
    q = torch.randn(600, heads, dim)
    sinks = torch.randn(heads)
    whole.cache.keys.normal_()
    whole.cache.values.normal_()
    geometry = Heads(heads, kv_heads, dim, None)

    def run(threads, first, count):
        paged = PagedBatch(
            slots=whole.paged.slots[first : first + count],
            page_table=whole.paged.page_table,
            first_positions=whole.paged.first_positions,
            kv_lens=torch.tensor([first + count], dtype=torch.int32),
            query_starts=torch.tensor([0, count], dtype=torch.int32),
            max_query_len=count,
            max_kv_len=first + count,
        )
        pages = Pages(paged, whole.cos, whole.sin)
        context = open_context(threads=threads)
        part = q[first : first + count]
        return native.attend(context, part, geometry, pages, whole.cache, sinks)

    together = run(1, 0, 600)
    assert torch.equal(run(16, 599, 1), together[599:])  # keys are divided among the threads
    assert torch.equal(run(1, 599, 1), together[599:])
    assert torch.equal(run(2, 500, 37), together[500:537])


def _reference(step, qkv, shape, sinks, window):
    heads, kv_heads, dim = shape
    parts = qkv.unflatten(1, (heads + 2 * kv_heads, dim))
    turned = rotate(parts[:, : heads + kv_heads], step.cos, step.sin)
    cache = LayerCache(step.cache.keys.clone(), step.cache.values.clone())
    attend = attention_reference.prepare_attention(step.paged, PAGE, kv_heads, window)
    return attend(
        turned[:, :heads],
        turned[:, heads:],
        parts[:, heads + kv_heads :],
        cache,
        sinks,
        dim**-0.5,
    )


class _Step:
    """Sequences with cached keys and new tokens; places that nobody may read hold NaN."""

    def __init__(self, lengths, new, window, kv_heads, dim, dtype):
        firsts = [
            0 if window is None else max(0, n - m - window + 1) // PAGE * PAGE
            for n, m in zip(lengths, new, strict=True)
        ]
        counts = [-(-(n - first) // PAGE) for n, first in zip(lengths, firsts, strict=True)]
        order = torch.randperm(sum(counts) + 3).tolist()
        shape = (len(order), PAGE, kv_heads, dim)
        keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
        table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
        slots = []
        for s, count in enumerate(counts):
            pages = torch.tensor([order.pop() for _ in range(count)])
            table[s, :count] = pages
            at = torch.arange(firsts[s], lengths[s]) - firsts[s]
            places = pages[at // PAGE] * PAGE + at % PAGE
            slots.append(places[len(places) - new[s] :])
            for pool in (keys, values):
                pool.flatten(0, 1)[places] = torch.randn(len(places), kv_heads, dim).to(dtype)
        tokens = sum(new)
        angles = torch.rand(tokens, dim // 2) * 6
        self.cos, self.sin = angles.cos(), angles.sin()
        self.cache = LayerCache(keys, values)
        self.paged = PagedBatch(
            slots=torch.cat(slots),
            page_table=table,
            first_positions=torch.tensor(firsts, dtype=torch.int32),
            kv_lens=torch.tensor(lengths, dtype=torch.int32),
            query_starts=torch.tensor([0, *new]).cumsum(0).to(torch.int32),
            max_query_len=max(new),
            max_kv_len=max(lengths),
        )
