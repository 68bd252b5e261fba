"""Page tables of single sequences: what they hold, what they share, what comes back."""

from __future__ import annotations

import pytest

from ossia.engine.kv_cache import CacheConfig, KVCache, SequencePages
from ossia.errors import ConfigError


def make_cache(
    *,
    page_size: int = 16,
    window: int = 128,
    full: int = 64,
    window_pages: int = 64,
    caching: bool = True,
    tail_interval: int = 10**6,
) -> KVCache:
    return KVCache(
        CacheConfig(page_size, full + 1, window_pages + 1, window, caching, tail_interval)
    )


def compute(cache: KVCache, pages: SequencePages, tokens: list[int], start: int, end: int) -> None:
    """What a step that runs positions start .. end - 1 does to the cache."""
    assert cache.extend(pages, end)
    cache.advance(pages, tokens, start, end)


def run(cache: KVCache, tokens: list[int]) -> tuple[SequencePages, int]:
    """Start a sequence and compute all its tokens in one step; also where it had to start."""
    match = cache.match(tokens)
    assert cache.admits(match)
    pages = cache.start(tokens, match, cache.turn_boundary(len(tokens)))
    start = match.num_resumed * cache.config.page_size
    compute(cache, pages, tokens, start, len(tokens))
    return pages, start


def run_and_release(cache: KVCache, tokens: list[int]) -> int:
    """Run a sequence to its end; how many of its tokens were found in the cache."""
    pages, start = run(cache, tokens)
    cache.release(pages, tokens, len(tokens))
    cache.check_invariants([])
    return start


def test_window_pages_are_freed_after_128_tokens() -> None:
    cache = make_cache(caching=False)
    tokens = list(range(400))
    pages = cache.start(tokens[:1], cache.match(tokens[:1]), 0)
    held = {}
    for position in range(400):
        compute(cache, pages, tokens, position, position + 1)
        held[position + 1] = len(pages.window)
    assert held[128] == 8  # 128 tokens fill 8 pages, and all may still be seen
    assert held[143] == 9
    assert held[144] == 8  # the query at 144 sees keys from 17 on: the first page was freed
    assert pages.window_start == (400 - 128) // 16
    assert max(held.values()) == 9
    assert cache.window.in_use == len(pages.window) == 8
    assert cache.full.in_use == len(pages.full) == 25


def test_a_long_chunk_holds_all_its_window_pages_only_while_it_runs() -> None:
    cache = make_cache()
    tokens = list(range(512))
    pages = cache.start(tokens, cache.match(tokens), 0)
    assert cache.extend(pages, 512)
    assert len(pages.window) == 32
    cache.advance(pages, tokens, 0, 512)
    assert len(pages.window) == 8


@pytest.mark.parametrize(("window", "reach"), [(1, 0), (2, 1), (16, 1), (17, 1), (18, 2), (128, 8)])
def test_the_window_reaches_back_as_many_pages_as_its_first_query_sees(
    window: int, reach: int
) -> None:
    config = CacheConfig(16, 100, 100, window)
    first_query = 320  # the first of its page
    first_key = first_query - window + 1
    assert config.window_reach == reach == first_query // 16 - first_key // 16


def test_everything_comes_back_when_a_sequence_is_released_uncached() -> None:
    cache = make_cache(caching=False)
    run_and_release(cache, list(range(300)))
    assert cache.full.num_free == cache.full.capacity
    assert cache.window.num_free == cache.window.capacity


def test_a_sequence_in_the_middle_of_a_step_can_be_released() -> None:
    cache = make_cache()
    tokens = list(range(300))
    pages = cache.start(tokens, cache.match(tokens), 0)
    compute(cache, pages, tokens, 0, 100)
    assert cache.extend(pages, 200)  # planned, never advanced
    cache.release(pages, tokens, 100)
    cache.check_invariants([])
    assert cache.full.in_use == cache.window.in_use == 0
    assert cache.full.num_cached == 6  # the pages that 100 tokens completed


def test_extend_changes_nothing_when_the_full_pool_is_used_up() -> None:
    cache = make_cache(full=4)
    tokens = list(range(64))
    pages, _ = run(cache, tokens)
    assert not cache.extend(pages, 65)
    assert len(pages.full) == len(pages.window) == 4
    cache.check_invariants([(pages, 64)])


def test_room_counts_pages_that_only_tails_hold() -> None:
    cache = make_cache(window_pages=9)
    run_and_release(cache, list(range(144)))
    assert cache.window.num_free == 0  # two tails, at 128 and at 144
    tokens = list(range(1000, 1400))
    pages = cache.start(tokens, cache.match(tokens), 0)
    assert cache.room(pages, 0) == 9 * 16
    compute(cache, pages, tokens, 0, 9 * 16)
    assert cache.room(pages, 9 * 16) == 16


def test_a_window_pool_too_small_for_one_sequence_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs at least 10"):
        KVCache(CacheConfig(16, 100, 9, 128))
    KVCache(CacheConfig(16, 100, 10, 128))


def test_the_scratch_page_is_never_given_out() -> None:
    cache = make_cache(full=10, window_pages=10)
    pages, _ = run(cache, list(range(160)))
    assert sorted(pages.full) == list(range(1, 11))
    assert 0 not in pages.window
