"""The sampling kernels against the reference, on a CPU by Triton's interpreter.

A process of its own runs the tests in the interpreter, as in `test_attention_triton.py`. A drawn
token is right if the draw falls into its share of the mass, up to the rounding of float32 sums.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
import torch

from ossia.kernels.sampling import reference
from ossia.kernels.sampling.interface import Edits, Rows, new_result, stride_of, unpack

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
VOCAB = 500  # not a multiple of a chunk
STRIDE = 512  # of the logits; what lies past VOCAB is never chosen
CHUNK = 128
WORDS = 16
LOG2_E = math.log2(math.e)


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


@pytest.fixture
def kernels():
    from ossia.kernels.sampling import triton_sampling

    return triton_sampling


def rows_of(count: int, rng: torch.Generator, kinds: list[dict], masked: bool) -> Rows:
    """Rows of these kinds in turn, with random draws."""
    buffer = torch.zeros(8 * stride_of(count), dtype=torch.int32)
    made = [kinds[i % len(kinds)] for i in range(count)]
    searches = any("k" in kind or "p" in kind for kind in made)
    filters = searches or any("min" in kind for kind in made)
    rows = unpack(buffer, count, filters=filters, searches=searches)
    for i, kind in enumerate(made):
        temperature = kind.get("t", 1.0)
        rows.draws[i] = torch.rand((), generator=rng, dtype=torch.float64) if temperature else -1.0
        rows.scales[i] = LOG2_E / temperature if temperature else 1.0
        rows.masks[i] = i % 4 - 1 if masked else -1
        rows.forced[i] = kind.get("forced", -1)
        rows.top_ks[i] = kind.get("k", 0)
        rows.top_ps[i] = kind.get("p", 1.0)
        rows.min_ps[i] = kind.get("min", 0.0)
    return rows


def logits_of(count: int, rng: torch.Generator, scale: float = 3.0) -> torch.Tensor:
    logits = torch.full((count, STRIDE), math.nan)
    logits[:, :VOCAB] = torch.randn(count, VOCAB, generator=rng) * scale
    return logits


def table_of(rng: torch.Generator) -> torch.Tensor:
    """Three masks: about half of the tokens, one token, most tokens."""
    table = torch.randint(-(2**31), 2**31, (3, WORDS), generator=rng).int()
    table[1] = 0
    table[1, 7] = 1 << 9
    table[2] = -1
    table[2, 3] = 5
    return table


def run(sample_rows, logits, rows, table, **options):
    """Tokens [rows], largest logits [rows]; what is not written is -77."""
    count = len(logits)
    result = new_result(count, logits.device).fill_(-77)
    slots = torch.arange(count, dtype=torch.int32).flip(0) * 2
    slots[0] = -1
    last = torch.full((2 * count,), -77, dtype=torch.int32)
    sample_rows(logits, rows, table, result, slots, last, columns=VOCAB, **options)
    tokens = result[0, :count]
    assert torch.equal(last[slots[1:].long()], tokens[1:])
    assert (last == -77).sum() == count + 1, "only the slots are written"
    return tokens.tolist(), result[1].view(torch.float32)[:count]


def check(logits, rows, table, tokens, tops) -> None:
    for i, token in enumerate(tokens):
        x = reference.allowed(logits[i, :VOCAB], table, int(rows.masks[i]))
        assert float(tops[i]) == float(x.max())
        if int(rows.forced[i]) >= 0:
            assert token == int(rows.forced[i])
        elif float(rows.draws[i]) < 0:
            assert token == int(x.argmax())
        else:
            w = reference.kept_weights(x, rows, i)
            sums = w.cumsum(0) / w.sum()
            assert w[token] > 0, f"row {i} took a token that is filtered out"
            draw = float(rows.draws[i])
            assert float(sums[token] - w[token] / w.sum()) - 1e-6 <= draw <= sums[token] + 1e-6


PLAIN = [{}, {"t": 0.0}, {"t": 0.3}, {"t": 2.0}, {"t": 2e-5}, {"forced": 17}]
FILTERS = [
    {"k": 1},
    {"k": 7},
    {"k": 300},
    {"k": 5000},
    {"p": 0.9},
    {"p": 0.3, "t": 1.7},
    {"p": 0.001},
    {"p": 0.99999},
    {"min": 0.05},
    {"min": 1.0},
    {"k": 40, "p": 0.8, "min": 0.02, "t": 1.3},
    {"k": 300, "p": 0.95, "t": 0.2},
    {"k": 3, "p": 0.5},
    {},
    {"t": 0.0},
]


@interpreted
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunk", [64, 1024])
def test_triton_draws_by_the_inverse_of_the_cumulative_sum(kernels, masked, chunk):
    rng = torch.Generator().manual_seed(chunk)
    logits, table = logits_of(13, rng), table_of(rng)
    rows = rows_of(13, rng, PLAIN, masked)
    check(logits, rows, table, *run(kernels.sample_rows, logits, rows, table, chunk=chunk))


@interpreted
@pytest.mark.parametrize(("masked", "scale"), [(True, 0.3), (False, 3.0)])
def test_triton_filters_as_the_reference_does(kernels, masked, scale):
    rng = torch.Generator().manual_seed(5)
    kinds = FILTERS[masked::2]
    logits, table = logits_of(len(kinds), rng, scale), table_of(rng)
    rows = rows_of(len(kinds), rng, kinds, masked)
    check(logits, rows, table, *run(kernels.sample_rows, logits, rows, table, chunk=CHUNK))


@interpreted
def test_triton_keeps_ties_and_finds_thresholds_in_rows_too_flat_to_list(kernels, monkeypatch):
    from ossia.kernels.sampling import triton_filters

    rng = torch.Generator().manual_seed(6)
    kinds = [FILTERS[1], FILTERS[3], FILTERS[4], FILTERS[11]]
    logits, table = logits_of(len(kinds), rng).round(), table_of(rng)
    rows = rows_of(len(kinds), rng, kinds, masked=False)
    for tile, capacity in ((128, 4), (64, 512)):
        monkeypatch.setattr(triton_filters, "TILE", tile)
        monkeypatch.setattr(triton_filters, "CAPACITY", capacity)
        check(logits, rows, table, *run(kernels.sample_rows, logits, rows, table, chunk=CHUNK))


@interpreted
@pytest.mark.parametrize("kinds", [PLAIN[:3], FILTERS[3:11:3]], ids=["plain", "filters"])
def test_triton_reports_rows_that_are_not_finite_or_allow_nothing(kernels, kinds):
    rng = torch.Generator().manual_seed(7)
    count = 3 * len(kinds)
    logits, table = logits_of(count, rng), table_of(rng)
    rows = rows_of(count, rng, kinds, masked=False)
    logits[1::3, 77] = torch.tensor([math.nan, math.inf])[torch.arange(len(kinds)) % 2]
    logits[2::3, :VOCAB] = -math.inf
    tokens, tops = run(kernels.sample_rows, logits, rows, table, chunk=CHUNK)
    assert tops[1::3].isnan().all()
    assert (tops[2::3] == -math.inf).all()
    assert all(0 <= token < VOCAB for token in tokens), "the next step looks them up"
    good = torch.arange(0, count, 3)
    kept = {name: getattr(rows, name)[good] for name in rows.__slots__[:7]}
    check(logits[good], replace(rows, **kept), table, [tokens[i] for i in good], tops[good])


@interpreted
def test_triton_edits_as_the_reference_does(kernels):
    rng = torch.Generator().manual_seed(8)
    logits = logits_of(4, rng)
    seen = torch.randperm(VOCAB, generator=rng)[:300].int()
    tokens = torch.cat((seen, seen[:2], torch.tensor([9, 11]), seen[5:6], torch.tensor([9, 499])))
    values = torch.cat((torch.randint(0, 4, (300,), generator=rng).float(), torch.randn(7)))
    edits = Edits(
        rows=torch.tensor([[2, 0, 300, 302, 302, 0, 0, 0], [0, 302, 302, 304, 307, 0, 0, 0]]).int(),
        penalties=torch.tensor([[1.7, 0.25, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]]),
        tokens=tokens.int(),
        values=values,
    )
    want = logits.clone()
    reference.edit(want, edits, columns=VOCAB)
    kernels.edit(logits, edits, columns=VOCAB)
    torch.testing.assert_close(logits, want, rtol=0, atol=0, equal_nan=True)
    assert (logits[0, [9, 499, int(seen[5])]] == -math.inf).all()


@pytest.mark.parametrize("masked", [False, True])
def test_the_reference_draws_by_its_own_definition(masked):
    rng = torch.Generator().manual_seed(9)
    kinds = PLAIN + FILTERS
    logits, table = logits_of(len(kinds), rng), table_of(rng)
    rows = rows_of(len(kinds), rng, kinds, masked)
    check(logits, rows, table, *run(reference.sample_rows, logits, rows, table))
