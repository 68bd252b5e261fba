"""Small steps at fixed addresses are the steps that `build_batch` makes, with padding around."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.checkpoint.load import load_weights
from ossia.checkpoint.resolve import resolve_model
from ossia.engine.kv_cache import CacheConfig, SequencePages
from ossia.engine.runner import allocate_caches, build_batch
from ossia.engine.small_steps import FAR, SEQUENCES, SIZES, SmallSteps
from ossia.engine.step_plan import ScheduledSequence
from ossia.kernels.select import select_kernels
from ossia.model.gpt_oss import GptOssForCausalLM

from .conftest import request_of

CPU = torch.device("cpu")
PAGE = 16
CACHE = CacheConfig(
    page_size=PAGE,
    num_full_pages=400,
    num_window_pages=400,
    sliding_window=128,
    enable_prefix_caching=True,
    tail_interval=1024,
)
SEATS = 80


def sequence(
    seat: int, start: int, count: int, *, samples: bool, early: int, shared: int, known: bool
) -> ScheduledSequence:
    """`early`: pages of the window that are kept longer than needed; `known`: the last token is."""
    end = start + count
    pages = SequencePages()
    pages.full.extend(1 + (37 * seat + 11 * i) % 399 for i in range(-(-end // PAGE) + 1))
    first = max(0, max(0, start - CACHE.sliding_window + 1) // PAGE - early)
    pages.window_start = first
    pages.window.extend(1 + (53 * seat + 7 * i) % 399 for i in range(-(-end // PAGE) - first))
    pages.full_write_start = shared * PAGE
    known_tokens = end if known or count > 1 else start
    request = request_of([(seat * 1009 + 31 * i) % 500 for i in range(known_tokens)], f"r{seat}")
    request.seat = seat
    return ScheduledSequence(request, pages, start, count, samples)


@st.composite
def steps(draw: st.DrawFn) -> list[ScheduledSequence]:
    seats = draw(st.lists(st.integers(0, SEATS - 1), min_size=1, max_size=12, unique=True))
    left, found = SIZES[-1], []
    for seat in seats:
        count = draw(st.one_of(st.just(1), st.integers(1, 90)))
        if count > left:
            break
        left -= count
        start = draw(st.one_of(st.integers(0, 40), st.integers(0, 700)))
        item = sequence(
            seat,
            start,
            count,
            samples=draw(st.booleans()),
            early=draw(st.integers(0, 3)),
            shared=draw(st.integers(0, 3)),
            known=draw(st.booleans()),
        )
        found.append(item)
    return found


def small_steps() -> tuple[SmallSteps, torch.Tensor, torch.Tensor]:
    tables = torch.zeros(SEATS, 64, dtype=torch.int32)
    last = torch.arange(SEATS, dtype=torch.int32) + 600
    return SmallSteps(CACHE, tables, last, CPU), tables, last


def filled(small: SmallSteps, tables: torch.Tensor, items: list[ScheduledSequence]) -> int:
    """Send a step as the runner does; its size."""
    for request, pages, start, count, _ in items:
        needed = -(-(start + count) // PAGE)
        tables[request.seat, :needed] = torch.tensor(pages.full.tolist()[:needed])
    tokens = next(size for size in SIZES if size >= sum(item.num_tokens for item in items))
    small.fill(items, tokens)
    return tokens


@given(st.lists(steps(), min_size=1, max_size=3))
@settings(deadline=None)
def test_real_tokens_and_sequences_are_those_of_build_batch(history) -> None:
    small, tables, last = small_steps()
    for items in history:
        assert small.takes(items)
        tokens = filled(small, tables, items)
        batch, plain = small.batch(tokens), build_batch(items, PAGE, CPU)
        real, count = len(plain.positions), len(items)
        seats = torch.repeat_interleave(
            torch.tensor([item.request.seat for item in items]),
            torch.tensor([item.num_tokens for item in items]),
        )
        expected = torch.where(plain.token_ids < 0, last[seats].long(), plain.token_ids)
        assert torch.equal(batch.token_ids[:real], expected)
        assert torch.equal(batch.positions[:real], plain.positions)
        rows, slots = small.sampled(len(plain.logit_rows))
        assert rows.tolist() == plain.logit_rows.tolist()
        assert slots.tolist() == [item.request.seat for item in items if item.samples]
        for ours, theirs in ((batch.full, plain.full), (batch.window, plain.window)):
            assert torch.equal(ours.slots[:real], theirs.slots)
            assert torch.equal(ours.kv_lens[:count], theirs.kv_lens)
            assert torch.equal(ours.query_starts[: count + 1], theirs.query_starts)
            assert ours.query_starts[-1] == tokens
            assert (ours.slots[real:] < PAGE).all()  # padding writes to the scratch page
        assert (batch.full.kv_lens[count:] == 0).all()
        assert (batch.full.query_starts[count + 1 :] == tokens).all()
        for i, item in enumerate(items):
            for position in range(item.start + item.num_tokens):
                page = position // PAGE
                assert batch.full.page_table[i, page] == item.pages.full[page]
                if position > item.start - CACHE.sliding_window:
                    first = int(batch.window.first_positions[i])
                    assert first % PAGE == 0
                    place = item.pages.window[page - item.pages.window_start]
                    assert batch.window.page_table[i, (position - first) // PAGE] == place


def test_the_network_computes_the_same_whatever_the_padding() -> None:
    source = resolve_model("demo")
    weights = load_weights(source, dtype=torch.float32, device=CPU)
    model = GptOssForCausalLM(weights, select_kernels(CPU, torch.float32, "TORCH"), CPU)
    cache = replace(CACHE, sliding_window=model.config.sliding_window)
    items = [
        sequence(3, 130, 1, samples=True, early=0, shared=0, known=False),
        sequence(5, 0, 40, samples=True, early=0, shared=0, known=True),
        sequence(9, 200, 30, samples=False, early=0, shared=0, known=True),
    ]
    _, tables, last = small_steps()
    small = SmallSteps(cache, tables, last, CPU)
    tokens = filled(small, tables, items)
    caches = [allocate_caches(model.config, cache, torch.float32, CPU) for _ in range(2)]
    make = torch.Generator().manual_seed(0)
    for layers in zip(*caches, strict=True):
        for name in ("keys", "values"):
            one, other = (getattr(layer, name) for layer in layers)
            one.copy_(torch.randn(one.shape, generator=make))
            other.copy_(one)
    plain = build_batch(items, PAGE, CPU)
    seats = torch.tensor([3] + [5] * 40 + [9] * 30)
    plain.token_ids.copy_(torch.where(plain.token_ids < 0, last[seats].long(), plain.token_ids))
    batch = small.batch(tokens)
    embed = model.embedding.index_select
    ours = model.run_layers(embed(0, batch.token_ids), batch, caches[0])
    theirs = model.run_layers(embed(0, plain.token_ids), plain, caches[1])
    torch.testing.assert_close(ours[: len(theirs)], theirs, rtol=1e-4, atol=1e-4)
    for layer in caches[0]:
        layer.keys[0] = layer.values[0] = float("nan")  # the scratch page
    again = model.run_layers(embed(0, batch.token_ids), batch, caches[0])
    assert torch.equal(again, ours)


def test_a_step_of_padding_alone_can_be_captured() -> None:
    small, *_ = small_steps()
    for tokens in SIZES:
        small.fill((), tokens)
        batch = small.batch(tokens)
        assert batch.full.kv_lens.tolist() == [0] * SEQUENCES
        assert batch.full.query_starts.tolist() == [0] + [tokens] * SEQUENCES


@pytest.mark.parametrize(
    ("items", "taken"),
    [
        ([(0, 0, 512)], True),
        ([(0, 0, 500), (1, 0, 13)], False),
        ([(seat, 5, 1) for seat in range(SEQUENCES - 1)], True),
        ([(seat, 5, 1) for seat in range(SEQUENCES)], False),
        ([(0, FAR - 1, 1), (1, 0, 5)], True),
        ([(0, FAR, 1), (1, 0, 5)], False),
        ([(0, FAR, 2)], True),
    ],
)
def test_what_does_not_fit_is_not_taken(items, taken) -> None:
    small, *_ = small_steps()
    made = [
        sequence(seat, start, count, samples=True, early=0, shared=0, known=True)
        for seat, start, count in items
    ]
    assert small.takes(made) is taken


def test_a_window_that_still_has_a_large_chunk_is_not_taken() -> None:
    small, *_ = small_steps()
    item = sequence(0, 4096, 20, samples=True, early=0, shared=0, known=True)
    item.pages.window.extend([7] * 600)
    assert not small.takes([item])
