"""Which prompts find their start in the cache, which pages they share, and what is evicted."""

from __future__ import annotations

from ossia.engine.kv_cache import CacheConfig, KVCache, SequencePages

PAGE = 4
WINDOW = 8  # reaches 2 pages back
SYSTEM = list(range(100, 120))  # 5 pages


def make_cache(
    *, full: int = 64, window_pages: int = 64, tail_interval: int = 10**6, caching: bool = True
) -> KVCache:
    return KVCache(CacheConfig(PAGE, full + 1, window_pages + 1, WINDOW, caching, tail_interval))


def start(cache: KVCache, tokens: list[int]) -> tuple[SequencePages, int]:
    match = cache.match(tokens)
    assert cache.admits(match)
    return cache.start(tokens, match, cache.turn_boundary(len(tokens))), match.num_resumed * PAGE


def finish(
    cache: KVCache, pages: SequencePages, tokens: list[int], begin: int, *, keep: bool = True
) -> None:
    assert cache.extend(pages, len(tokens))
    cache.advance(pages, tokens, begin, len(tokens))
    cache.release(pages, tokens, len(tokens), keep=keep)
    cache.check_invariants([])


def run(cache: KVCache, prompt: list[int], answer: list[int] | None = None) -> int:
    """Run a prompt and its answer to the end; how many prompt tokens were in the cache."""
    pages, found = start(cache, prompt)
    assert cache.extend(pages, len(prompt))
    cache.advance(pages, prompt, found, len(prompt))
    tokens = prompt + (answer or [])
    for position in range(len(prompt), len(tokens)):
        assert cache.extend(pages, position + 1)
        cache.advance(pages, tokens, position, position + 1)
    cache.release(pages, tokens, len(tokens))
    cache.check_invariants([])
    return found


def test_the_same_prompt_again_computes_only_its_last_page() -> None:
    cache = make_cache()
    assert run(cache, [*SYSTEM, 1, 2]) == 0
    assert run(cache, [*SYSTEM, 1, 2]) == 20


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache = make_cache()
    run(cache, SYSTEM, answer=[1, 2, 3, 4])
    assert run(cache, SYSTEM) == 16
    assert run(cache, [*SYSTEM, 1]) == 20


def test_the_next_turn_goes_on_where_the_answer_ended() -> None:
    cache = make_cache()
    answer = list(range(11))
    run(cache, [*SYSTEM, 7], answer)  # 32 tokens
    assert run(cache, [*SYSTEM, 7, *answer, 50, 51, 52]) == 32


def test_the_end_of_an_answer_is_kept_even_in_the_middle_of_a_page() -> None:
    cache = make_cache()
    for length in range(1, 9):
        prompt = [length * 1000 + i for i in range(21)]
        answer = list(range(length))
        run(cache, prompt, answer)
        found = run(cache, [*prompt, *answer, 5, 5, 5, 5])
        assert found == (21 + length) // PAGE * PAGE


def test_a_turn_that_drops_the_answer_goes_on_where_the_prompt_ended() -> None:
    cache = make_cache()
    run(cache, [*SYSTEM, 7], answer=list(range(30)))
    assert run(cache, [*SYSTEM, 7, 60, 61]) == 20


def test_one_other_token_at_the_start_finds_nothing() -> None:
    cache = make_cache()
    run(cache, [*SYSTEM, 1])
    assert run(cache, [99, *SYSTEM[1:], 1]) == 0


def test_equal_pages_after_different_starts_are_told_apart() -> None:
    cache = make_cache()
    first, _ = start(cache, [1, 1, 1, 1, 5, 5, 5, 5, 9])
    finish(cache, first, [1, 1, 1, 1, 5, 5, 5, 5, 9], 0)
    other = cache.match([2, 2, 2, 2, 5, 5, 5, 5, 9])
    assert other.nodes == []


def test_full_pages_beyond_the_last_tail_are_shared_but_computed_for_the_window() -> None:
    cache = make_cache()
    run(cache, SYSTEM + list(range(20)))
    pages, found = start(cache, [*SYSTEM, 77, 78])
    assert found == 0  # no tail was kept at the end of SYSTEM
    assert pages.full_write_start == len(SYSTEM)
    assert len(pages.nodes) == 5
    assert cache.full.in_use == 6  # five shared pages and one of its own


def test_where_prompts_part_a_tail_is_kept_for_the_third() -> None:
    cache = make_cache()
    assert run(cache, SYSTEM + [1] * 9) == 0
    assert run(cache, SYSTEM + [2] * 9) == 0
    assert run(cache, SYSTEM + [3] * 9) == 20


def test_tails_are_kept_at_intervals() -> None:
    cache = make_cache(tail_interval=8)
    run(cache, list(range(40)))
    assert run(cache, [*range(27), 99, 98, 97, 96]) == 24
    sparse = make_cache()
    run(sparse, list(range(40)))
    assert run(sparse, [*range(27), 99, 98, 97, 96]) == 0


def test_a_resumed_sequence_shares_the_tail_and_the_full_pages() -> None:
    cache = make_cache()
    run(cache, [*SYSTEM, 1])
    first, found = start(cache, [*SYSTEM, 1, 2])
    second, _ = start(cache, [*SYSTEM, 1, 3])
    assert found == 20
    assert first.full[:5] == second.full[:5]
    assert first.full[5] != second.full[5]
    assert first.window == second.window
    assert first.window_start == 3
    assert len(first.window) == 2
    assert cache.full.in_use == 7
    assert cache.window.in_use == 2


def test_without_its_tail_a_prefix_is_computed_again() -> None:
    cache = make_cache(window_pages=6)
    run(cache, [*SYSTEM, 1])
    run(cache, list(range(24)))  # needs the window pages of the tail
    assert run(cache, [*SYSTEM, 1]) == 0


def test_the_least_recently_used_tail_is_evicted_first() -> None:
    cache = make_cache(window_pages=9)
    run(cache, [1] * 17)
    run(cache, [2] * 17)
    assert run(cache, [1] * 16 + [3] * 5) == 16  # now the tail of the twos is the older one
    assert cache.window.num_free == 4
    running, _ = start(cache, [4] * 20)
    assert cache.extend(running, 20)
    assert cache.match([1] * 17).num_resumed == 4
    assert cache.match([2] * 17).num_resumed == 0


def test_a_prefix_whose_tail_would_leave_no_page_to_write_has_to_wait() -> None:
    cache = make_cache(window_pages=4)
    run(cache, [1] * 9)
    running, _ = start(cache, [2] * 8)
    assert cache.extend(running, 8)
    assert cache.match([1] * 9).num_resumed == 2
    assert not cache.admits(cache.match([1] * 9))  # two pages, and the tail has two
    cache.release(running, [2] * 8, 0)
    assert cache.admits(cache.match([1] * 9))


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    cache = make_cache(full=12)
    old, new = [1] * 17, [2] * 17
    run(cache, old)
    run(cache, new)
    assert run(cache, old) == 16  # now `new` is the older one
    run(cache, [3] * 17)
    assert len(cache.match(old).nodes) == 4
    assert len(cache.match(new).nodes) < 4


def test_a_prefix_is_evicted_from_its_end() -> None:
    cache = make_cache(full=8)
    run(cache, [1] * 25)
    run(cache, [2] * 16)
    assert len(cache.match([1] * 25).nodes) == 4
    run(cache, [3] * 12)
    assert len(cache.match([1] * 25).nodes) == 1


def test_pages_of_running_sequences_are_never_evicted() -> None:
    cache = make_cache(full=8)
    tokens = [1] * 17
    pages, _ = start(cache, tokens)
    assert cache.extend(pages, 17)
    cache.advance(pages, tokens, 0, 17)
    match = cache.match([2] * 16)
    assert not cache.admits(match)  # 5 of 8 pages are in use, 4 are wanted
    assert cache.admits(cache.match([2] * 12))


def test_two_sequences_that_computed_the_same_leave_one_copy() -> None:
    cache = make_cache()
    tokens = [*SYSTEM, 1]
    first, _ = start(cache, tokens)
    second, _ = start(cache, tokens)
    assert cache.full.in_use == 12
    for pages in (first, second):
        assert cache.extend(pages, 21)
        cache.advance(pages, tokens, 0, 21)
    assert list(second.full) != list(first.full)  # a running page table does not change
    longer = [*tokens, 2, 3, 4]
    for pages in (second, first):
        assert cache.extend(pages, 24)
        cache.advance(pages, longer, 21, 24)
        cache.release(pages, longer, 24)
    cache.check_invariants([])
    assert cache.full.num_cached == 6
    assert run(cache, [*longer, 9]) == 24


def test_an_error_leaves_nothing_of_the_sequence_in_the_cache() -> None:
    cache = make_cache()
    tokens = SYSTEM + list(range(9))
    pages, begin = start(cache, tokens)
    finish(cache, pages, tokens, begin, keep=False)
    assert cache.full.num_free == cache.full.capacity
    assert cache.window.num_free == cache.window.capacity
    assert run(cache, tokens) == 0


def test_an_error_leaves_what_others_use() -> None:
    cache = make_cache()
    run(cache, [*SYSTEM, 1, 2, 3])
    running, _ = start(cache, [*SYSTEM, 1, 2, 3])
    failing, begin = start(cache, [*SYSTEM, 4, 5, 6, 7, 8])
    assert cache.extend(failing, 25)
    cache.advance(failing, [*SYSTEM, 4, 5, 6, 7, 8], begin, 25)
    cache.release(failing, [*SYSTEM, 4, 5, 6, 7, 8], 25, keep=False)
    cache.check_invariants([(running, 20)])
    assert len(cache.match([*SYSTEM, 4, 5, 6, 7, 8]).nodes) == 5


def test_reset_forgets_what_no_running_sequence_uses() -> None:
    cache = make_cache()
    run(cache, [*SYSTEM, 1])
    run(cache, list(range(30)))
    running, found = start(cache, [*SYSTEM, 2])
    assert found == 20
    cache.reset_prefix_cache()
    cache.check_invariants([(running, 20)])
    assert cache.full.num_cached == 0
    assert cache.match(list(range(30))).nodes == []
    assert cache.match([*SYSTEM, 3]).num_resumed == 0


def test_with_caching_off_nothing_is_found() -> None:
    cache = make_cache(caching=False)
    run(cache, [*SYSTEM, 1])
    assert run(cache, [*SYSTEM, 1]) == 0
    assert cache.full.num_cached == 0
