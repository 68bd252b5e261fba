"""The decode kernel on a GPU: against the reference in float64, and inside a CUDA graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.attention import reference
from ossia.kernels.attention.interface import write_cache
from ossia.model.batch import LayerCache, PagedBatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
GEOMETRY = {"heads": 64, "kv_heads": 8, "head_dim": 64}
LENGTHS = [1, 15, 16, 17, 127, 128, 129, 1000, 2050, 7000]
TOLERANCE = 5e-3  # norm of the error over the norm of the truth
SCALE = 64**-0.5


@pytest.fixture
def decode():
    from ossia.kernels.attention import triton_decode

    return triton_decode


@pytest.fixture
def make(attention_case):
    """A case in bfloat16 whose new keys are in the cache."""

    def case_of(lengths, *, window=None, page_size=16, seed=0):
        case = attention_case(
            [n - 1 for n in lengths],
            [1] * len(lengths),
            window=window,
            page_size=page_size,
            dtype=torch.bfloat16,
            device="cuda",
            seed=seed,
            **GEOMETRY,
        )
        write_cache(case.cache, case.paged, case.k, case.v)
        return case

    return case_of


def scratch_for(decode, sequences, **options):
    """Scratch with partial results that no launch has written."""
    scratch = decode.DecodeScratch.allocate(sequences, 64, 8, 64, torch.device("cuda"), **options)
    for partial in (scratch.mixed, scratch.largest, scratch.total):
        partial.fill_(torch.nan)
    return scratch


def run(decode, case, scratch, config=None):
    return decode.attend_decode(
        case.q, case.cache, case.paged, case.sinks, SCALE, case.window, scratch, config=config
    )


def error(out, case):
    """Relative, against the reference in float64. NaN if anything is."""
    wide = replace(
        case,
        q=case.q.double(),
        k=case.k.double(),
        v=case.v.double(),
        sinks=case.sinks.double(),
        cache=LayerCache(case.cache.keys.double(), case.cache.values.double()),
    )
    truth = wide.run(reference.prepare_attention)
    return ((out.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("pdl", [False, None], ids=["plain", "dependent launch"])
@pytest.mark.parametrize("window", [None, 128])
@pytest.mark.parametrize("page_size", [16, 64])
def test_every_length_matches_the_reference(decode, make, window, page_size, pdl):
    case = make(LENGTHS, window=window, page_size=page_size)
    scratch = scratch_for(decode, len(LENGTHS), pdl=pdl)
    assert error(run(decode, case, scratch), case) < TOLERANCE
    assert not scratch.arrived.any()


@pytest.mark.parametrize("sequences", [1, 2, 5, 40, 140])
def test_batches_of_every_size(decode, make, sequences):
    lengths = torch.randint(1, 3000, (sequences,)).tolist()
    for window in (None, 128):
        case = make(lengths, window=window)
        assert error(run(decode, case, scratch_for(decode, sequences)), case) < TOLERANCE, lengths


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("keys", "warps", "stages"), [(64, 4, 3), (128, 4, 2), (128, 8, 2)])
def test_configurations(decode, make, keys, warps, stages, early):
    config = decode.DecodeConfig(
        keys, warps, stages, least=128, most=512, prefetch=not early, early=early
    )
    for window in (None, 128):
        case = make(LENGTHS, window=window)
        scratch = scratch_for(decode, len(LENGTHS))
        assert error(run(decode, case, scratch, config), case) < TOLERANCE


def test_the_same_bits_each_time(decode, make):
    case = make([7000, 900, 130])
    scratch = scratch_for(decode, 3)
    first = run(decode, case, scratch)
    for _ in range(50):
        assert torch.equal(run(decode, case, scratch), first)


def test_one_graph_serves_other_lengths_and_padding(decode, make):
    """A graph of three layers is replayed with tensors that changed in between."""
    wide = make([3000, 5, 700, 64])
    table = wide.paged.page_table.clone()
    lengths = wide.paged.kv_lens.clone()
    paged = replace(wide.paged, page_table=table, kv_lens=lengths)
    scratch = scratch_for(decode, 4)
    q = wide.q.clone()

    def layers():
        out = q
        for _ in range(3):
            out = decode.attend_decode(out, wide.cache, paged, wide.sinks, SCALE, None, scratch)
        return out

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        layers()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            out = layers()
    torch.cuda.synchronize()
    for kept in ([3000, 5, 700, 64], [2999, 0, 17, 33], [128, 1, 0, 64]):
        lengths.copy_(torch.tensor(kept, dtype=torch.int32))
        padding = lengths.eq(0)
        q.copy_(wide.q.masked_fill(padding[:, None, None], torch.nan))
        table.copy_(wide.paged.page_table.masked_fill(padding[:, None], 0))
        out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        truth = wide.q.double()
        for _ in range(3):
            truth = layer(truth, wide, kept)
        difference = (out.double() - truth).norm() / truth.norm()
        assert difference < 2 * TOLERANCE, kept
        assert not out[padding].any()


def layer(q, case, kept):
    """The reference for the first `kept` keys of each sequence; zero where there are none."""
    rows = [s for s, n in enumerate(kept) if n]
    paged = PagedBatch(
        slots=torch.empty(0, dtype=torch.int64, device="cuda"),
        page_table=case.paged.page_table[rows],
        first_positions=case.paged.first_positions[rows],
        kv_lens=torch.tensor([kept[s] for s in rows], dtype=torch.int32, device="cuda"),
        query_starts=torch.arange(len(rows) + 1, dtype=torch.int32, device="cuda"),
        max_query_len=1,
        max_kv_len=max(kept),
    )
    cache = LayerCache(case.cache.keys.double(), case.cache.values.double())
    nothing = cache.keys.new_empty(0, 8, 64)
    attend = reference.prepare_attention(paged, 16, 8, None)
    out = torch.zeros_like(q)
    out[rows] = attend(q[rows], nothing, nothing, cache, case.sinks.double(), SCALE)
    return out
