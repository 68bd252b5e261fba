"""Sequences with a grammar: what they may say, how they start, and how they fail."""

import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine import mask_worker
from ossia.engine.follower import ENDLESS, Follower
from ossia.engine.grammars import BEGINNINGS, SMALL_MASK, CompiledGrammar
from ossia.engine.loops import EVERY, LEAST
from ossia.engine.masks import Nothing, only
from ossia.engine.messages import Constraint, PhaseLimit
from ossia.engine.vocabulary import FIRST_SPECIAL

RETURN, CHANNEL, START, END, MESSAGE = 200002, 200005, 200006, 200007, 200008
TEXT = f"<[0-{FIRST_SPECIAL - 1}]>"
THINK = Constraint(
    grammar=f"start: <[{CHANNEL}]> {TEXT}* <[{END}]> <[{START}]> {TEXT}* <[{RETURN}]>"
)
RECORD = """start: %json {"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"},
    "kind": {"enum": ["cat", "dog", "tortoise"]}},
    "required": ["name", "age", "kind"], "additionalProperties": false} <[200002]>"""
BROKEN = Constraint(grammar="start: missing_rule")


def constraint(grammar: str, **limit) -> Constraint:
    return Constraint(grammar=grammar, limit=PhaseLimit(**limit) if limit else None)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(1024) for _ in range(length)]


@pytest.fixture(scope="module")
def free(sampling):
    """Parameters that a grammar can go with."""
    return lambda **options: sampling(**{"ignore_eos": False, "max_tokens": 40, **options})


@pytest.fixture(scope="module")
def wide(make_wide_runs):
    """One engine for the tests that leave nothing behind."""
    return make_wide_runs()


@pytest.fixture
def runs(wide):
    wide.chunks.clear()
    yield wide
    stats = wide.core.stats
    assert (stats.running, stats.waiting, stats.compiling, stats.full_pages_used) == (0, 0, 0, 0)
    assert not wide.core._states
    assert not wide.core._compiling


@pytest.fixture
def says(runs, monkeypatch):
    """Makes the network say these tokens, as far as it may."""

    def script(tokens: list[int]) -> None:
        model = runs.core._runner._model

        class Scripted:
            config, dtype = model.config, model.dtype

            def forward(self, batch, caches):
                logits = model.forward(batch, caches)
                for row, token in enumerate(batch.logit_rows.tolist()):
                    place = int(batch.positions[token])
                    if place < len(tokens):
                        logits[row, tokens[place]] = 1000.0
                return logits

        monkeypatch.setattr(runs.core._runner, "_model", Scripted())

    return script


SPECIALS = (200003, 200005, 200006, 200007, 200008)
TOKENS = st.integers(0, FIRST_SPECIAL - 1)
JSON = (
    '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},'
    '"required":["a"],"additionalProperties":false}',
    '{"type":"array","items":{"enum":["x","y z",12,null]},"maxItems":5}',
    '{"type":"string","pattern":"^[a-f]{2,9}$"}',
    '{"anyOf":[{"type":"number"},{"type":"boolean"}]}',
)
PARTS = st.one_of(
    st.sampled_from(SPECIALS).map(lambda token: f"<[{token}]> {TEXT}* <[{token}]>"),
    st.sampled_from(SPECIALS).map(lambda token: f"<[{token}]> {TEXT}+ <[{token}]>"),
    st.lists(TOKENS, min_size=1, max_size=4).map(lambda ts: " ".join(f"<[{t}]>" for t in ts)),
    st.tuples(TOKENS, TOKENS).map(lambda ends: f"<[{min(ends)}-{max(ends)}]>{{1,4}}"),
    st.sampled_from(JSON).map(lambda schema: f"%json {schema}"),
    st.sampled_from((r"/[a-z]{1,9}/", r"/(.|\n){2,20}/", r"/[^q]*x/", '"word" " of" / \\w+/')),
)
GRAMMARS = st.lists(
    st.one_of(PARTS, st.tuples(PARTS, PARTS).map(lambda p: f"({p[0]} | {p[1]} <[200003]>)")),
    min_size=1,
    max_size=4,
).map(lambda parts: "start: " + f" <[{END}]> ".join(parts) + f" <[{RETURN}]>")


@settings(max_examples=40)
@given(st.lists(GRAMMARS, min_size=1, max_size=4), st.integers(0, 2**32))
def test_whatever_a_grammar_says_the_answer_follows_it(wide, free, accepts, grammars, seed):
    wide.chunks.clear()
    for i, grammar in enumerate(grammars):
        params = free(temperature=2.0, seed=seed + i, logprobs=1 if i % 2 else None)
        wide.add(str(i), prompt_of(3, i), params, Constraint(grammar=grammar))
    wide.finish()
    for i, grammar in enumerate(grammars):
        tokens = wide.tokens(str(i))
        assert wide.chunks[str(i)][-1].error is None
        assert accepts(grammar, tokens, whole=wide.reason(str(i)) == "stop")


JOBS = [
    (RECORD, {"seed": 1, "temperature": 2.0}),
    (THINK.grammar, {"seed": 2}),
    (None, {"seed": 3}),
    (RECORD, {"seed": 4, "top_p": 0.9, "logprobs": 1}),
    (THINK.grammar, {"seed": 5, "top_k": 50, "logit_bias": {END: 20.0}}),
    (RECORD, {"temperature": 0.0, "presence_penalty": 1.0}),
    (RECORD, {"seed": 7, "min_p": 0.001, "min_tokens": 30}),
    ("start: /[a-p ]*/ <[200002]>", {"seed": 8, "temperature": 1.5, "top_p": 0.8}),
]


def run_jobs(runs, free, *, alone: bool) -> list[list[int]]:
    for i, (grammar, options) in enumerate(JOBS):
        limit = PhaseLimit(opening=[CHANNEL], closing=END, then=TAIL, max_tokens=9)
        held_to = None
        if grammar is not None:
            held_to = Constraint(grammar=grammar, limit=limit if i == 4 else None)
        runs.add(str(i), prompt_of(20 + 9 * i, i), free(**options), held_to)
        if alone:
            runs.finish()
    runs.finish()
    return [runs.tokens(str(i)) for i in range(len(JOBS))]


TAIL = f"start: <[{START}]> {TEXT}* <[{RETURN}]>"


@pytest.fixture(scope="module")
def by_itself(make_wide_runs, free):
    """What each job yields when nothing else runs, on a fresh cache, in one piece."""
    return run_jobs(make_wide_runs(enable_prefix_caching=False), free, alone=True)


def test_tokens_are_the_same_alone_and_in_a_batch(make_wide_runs, free, by_itself):
    assert run_jobs(make_wide_runs(), free, alone=False) == by_itself


def test_tokens_are_the_same_with_chunked_prefill(make_wide_runs, free, by_itself):
    runs = make_wide_runs(max_num_batched_tokens=17)
    assert run_jobs(runs, free, alone=False) == by_itself


def test_a_grammar_survives_preemption(make_wide_runs, free, by_itself):
    page_bytes = 1 * 2 * 2 * 32 * 4 * 16  # layers * (key, value) * kv heads * size * bytes * tokens
    runs = make_wide_runs(
        max_num_batched_tokens=64,
        enable_prefix_caching=False,
        max_num_seqs=8,
        max_model_len=160,
        kv_cache_memory=70 * page_bytes,
    )
    assert run_jobs(runs, free, alone=False) == by_itself
    assert runs.core.stats.preemptions > 0


def test_a_grammar_that_does_not_compile_fails_its_request_alone(runs, free):
    runs.add("bad", [1, 2], free(), BROKEN)
    runs.add("good", [1, 2], free(), THINK)
    runs.add("bad too", [1, 2], free(), BROKEN)
    runs.finish()
    for name in ("bad", "bad too"):
        assert runs.reason(name) == "error"
        assert "missing_rule" in runs.chunks[name][0].error
        assert runs.tokens(name) == []
    assert runs.tokens("good")[0] == CHANNEL


def test_a_matcher_that_breaks_in_the_middle_fails_its_request_alone(runs, free, monkeypatch):
    advance = Follower.advance

    def breaking(self):
        if self.grammar.result().matcher is broken and self._unseen:
            raise RuntimeError("broken")
        return advance(self)

    grammar = f"start: <[7]> {TEXT}* <[{RETURN}]>"
    broken = runs.core._grammars.compile(grammar).result().matcher
    monkeypatch.setattr(Follower, "advance", breaking)
    runs.add("bad", [1, 2], free(), Constraint(grammar=grammar))
    runs.add("good", [1, 2], free(), THINK)
    runs.finish()
    assert runs.tokens("bad") == [7]
    assert "RuntimeError" in runs.chunks["bad"][-1].error
    assert runs.reason("good") in ("stop", "length")


def test_a_grammar_that_gets_slower_with_each_token_fails_its_request_alone(
    runs, free, monkeypatch
):
    monkeypatch.setattr(mask_worker, "MASK_SECONDS", 0.003)
    ambiguous = Constraint(grammar='start: e "!" <[200002]>\ne: e e | e e e | "x"')
    runs.add("bad", [1], free(max_tokens=300, logit_bias={87: 100.0}), ambiguous)
    runs.add("good", [1, 2], free(max_tokens=300, logit_bias={END: -100.0}), THINK)
    runs.finish()
    assert "too long" in runs.chunks["bad"][-1].error
    assert runs.reason("good") == "length"


def test_requests_without_a_grammar_pass_one_that_compiles(make_wide_runs, free, vocabulary):
    gate = threading.Event()
    runs = make_wide_runs(lambda: gate.wait() and vocabulary)
    runs.add("late", [1, 2], free(), THINK)
    runs.add("free", [1, 2], free(max_tokens=6))
    while not runs.chunks.get("free") or runs.reason("free") is None:
        runs.step()
    assert runs.core.stats.compiling == 1
    assert runs.core.stats.waiting == 1
    steps = runs.core.stats.steps
    begun = time.perf_counter()
    for _ in range(20):
        runs.step()
    assert time.perf_counter() - begun > 0.01, "an engine that waits does not spin"
    assert runs.core.stats.steps == steps
    gate.set()
    runs.finish()
    assert runs.tokens("late")[0] == CHANNEL


def test_a_vocabulary_that_cannot_be_made_fails_constrained_requests_only(make_wide_runs, free):
    def missing():
        raise ImportError("no llguidance")

    runs = make_wide_runs(missing)
    runs.add("bad", [1], free(), THINK)
    runs.add("good", [1], free(max_tokens=3))
    runs.finish()
    assert "ImportError" in runs.chunks["bad"][0].error
    assert runs.reason("good") == "length"


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 9])
def test_an_abort_at_any_stage_leaves_nothing(runs, free, steps):
    limit = {"opening": [CHANNEL], "closing": END, "then": TAIL, "max_tokens": 3}
    names = [str(i) for i in range(4)]
    for i, name in enumerate(names):
        grammar = f"start: <[{CHANNEL}]> {TEXT}+ <[{END}]> <[{i}]> <[{RETURN}]>"
        runs.add(name, prompt_of(9, i), free(), constraint(grammar, **limit))
    runs.add("kept", [5], free(), THINK)
    for _ in range(steps):
        runs.step()
    runs.core.abort(names)
    runs.finish()
    assert runs.tokens("kept")[0] == CHANNEL


def test_an_abort_while_the_grammar_compiles_leaves_nothing(make_wide_runs, free, vocabulary):
    gate = threading.Event()
    runs = make_wide_runs(lambda: gate.wait() and vocabulary)
    runs.add("a", [1, 2], free(), THINK)
    runs.step()
    runs.core.abort(["a"])
    assert not runs.core.has_work
    assert runs.core.stats.compiling == 0
    gate.set()


def test_equal_grammars_are_compiled_once(make_wide_runs, free):
    runs = make_wide_runs()
    for i in range(6):
        runs.add(str(i), [1, i], free(max_tokens=3), THINK)
    runs.finish()
    stats = runs.core.stats
    assert (stats.constrained, stats.grammars_compiled) == (6, 1)
    assert stats.grammar_compile_seconds > 0
    assert stats.masks_computed > 0


def test_free_text_needs_no_masks(make_wide_runs, free, says):
    runs = make_wide_runs()
    runs.add("a", [1], free(logit_bias={END: -100.0}), THINK)
    runs.finish()
    assert len(runs.tokens("a")) == 40
    assert runs.core.stats.masks_computed == 1, "the first one comes with the grammar"


def test_beginnings_of_a_known_grammar_need_no_masks(make_wide_runs, free):
    runs = make_wide_runs()
    said = []
    for name in "abc":
        runs.add(name, [1], free(temperature=0, logit_bias={END: 100.0}), THINK)
        runs.finish()
        said.append((runs.tokens(name), runs.core.stats.masks_computed))
    assert said[0] == said[1] == said[2]
    assert END in said[0][0]
    assert said[0][1] > 1


def test_only_a_few_small_masks_are_kept_for_beginnings():
    compiled = CompiledGrammar(matcher=None, first=only(1))
    compiled.remember((1,), Nothing("It broke."))
    compiled.remember((2,), only(*range(SMALL_MASK + 1)))
    assert compiled.known == {}
    for token in range(2 * BEGINNINGS):
        compiled.remember((token,), only(token))
    assert list(compiled.known) == [(token,) for token in range(BEGINNINGS)]


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_phase_is_closed_when_its_tokens_are_used_up(runs, free, accepts, limit):
    options = {"opening": [CHANNEL], "closing": END, "then": TAIL, "max_tokens": limit}
    runs.add("a", [1], free(logit_bias={END: -100.0}), constraint(THINK.grammar, **options))
    runs.finish()
    tokens = runs.tokens("a")
    assert tokens[0] == CHANNEL
    assert tokens[1 + limit : 3 + limit] == [END, START]
    assert all(token < FIRST_SPECIAL for token in tokens[1 : 1 + limit])
    assert accepts(TAIL, tokens[2 + limit :])
    chunks = [chunk.cut for chunk in runs.chunks["a"]]
    assert chunks.index("max_tokens") == limit, "with the token after which it is closed"
    assert runs.cuts("a") == ["max_tokens"]


def test_a_phase_that_ends_in_time_is_left_alone(runs, free, says, accepts):
    said = [CHANNEL, 5, 6, END, START, 7, RETURN]
    says(said)
    options = {"opening": [CHANNEL], "closing": END, "then": TAIL, "max_tokens": 3}
    runs.add("a", [1], free(), constraint(THINK.grammar, **options))
    runs.finish()
    assert runs.tokens("a") == said
    assert runs.cuts("a") == []
    assert runs.reason("a") == "stop"


def test_a_loop_is_cut_and_the_answer_goes_on(runs, free, says):
    loop = random.Random(3).sample(range(1000, 9000), 40)
    says([CHANNEL, 5, *loop * 40])
    before = runs.core.stats.cuts_by_loop
    options = {"opening": [CHANNEL], "closing": END, "then": TAIL}
    runs.add("a", [1], free(max_tokens=300), constraint(THINK.grammar, **options))
    runs.add("b", [1], free(max_tokens=300), THINK)
    runs.finish()
    tokens = runs.tokens("a")
    assert runs.cuts("a") == ["loop"]
    assert tokens[tokens.index(END) + 1] == START
    assert tokens.index(END) < 250
    assert END not in runs.tokens("b"), "without a limit nothing is watched"
    assert runs.core.stats.cuts_by_loop == before + 1


def test_an_answer_that_never_ends_is_ended(runs, free, says):
    loop = random.Random(4).sample(range(1000, 9000), 40)
    says([5, *loop * 60])
    anything = f"start: {TEXT}* <[{RETURN}]>"
    words = Constraint(grammar=anything, stop_loops=True)
    runs.add("a", [1], free(max_tokens=1000), words)
    runs.add("b", [1], free(max_tokens=1000), constraint(anything))
    runs.finish()
    assert runs.reason("a") == "loop"
    assert ENDLESS * LEAST <= len(runs.tokens("a")) <= ENDLESS * LEAST + 2 * EVERY
    assert runs.reason("b") == "length", "nothing is watched unless it was asked for"
    assert len(runs.tokens("b")) == 1000


def test_a_loop_in_a_phase_does_not_end_the_sequence(runs, free, says):
    loop = random.Random(3).sample(range(1000, 9000), 40)
    says([CHANNEL, 5, *loop * 40])
    options = {"opening": [CHANNEL], "closing": END, "then": TAIL}
    watched = Constraint(grammar=THINK.grammar, limit=PhaseLimit(**options), stop_loops=True)
    runs.add("a", [1], free(max_tokens=300), watched)
    runs.finish()
    assert runs.cuts("a") == ["loop"]
    assert runs.reason("a") != "loop"


def test_a_cut_at_the_very_end_is_none(runs, free):
    options = {"opening": [CHANNEL], "closing": END, "then": TAIL, "max_tokens": 3}
    params = free(max_tokens=4, logit_bias={END: -100.0})
    runs.add("a", [1], params, constraint(THINK.grammar, **options))
    runs.finish()
    assert runs.reason("a") == "length"
    assert runs.cuts("a") == []


def test_a_tail_that_does_not_compile_fails_its_request_when_it_is_needed(runs, free):
    options = {"opening": [CHANNEL], "closing": END, "then": BROKEN.grammar, "max_tokens": 3}
    params = free(logit_bias={END: -100.0})
    runs.add("bad", [1], params, constraint(THINK.grammar, **options))
    runs.add("good", [1], params, THINK)
    runs.finish()
    assert len(runs.tokens("bad")) == 5
    assert "missing_rule" in runs.chunks["bad"][-1].error
    assert runs.reason("good") == "length"


def test_a_grammar_that_allows_stops_only_wins_over_min_tokens(runs, free):
    runs.add("a", [1], free(min_tokens=20), Constraint(grammar=f"start: <[5]> <[6]> <[{RETURN}]>"))
    runs.finish()
    assert runs.tokens("a") == [5, 6, RETURN]
    assert runs.reason("a") == "stop"


def test_no_bias_makes_a_forbidden_token_possible(runs, free, accepts):
    bias = dict.fromkeys((0, 1, END, RETURN, 123), 100.0)
    runs.add("few", [1], free(logit_bias=bias), Constraint(grammar=RECORD))
    runs.add("most", [1], free(logit_bias=bias | {RETURN: -100.0}), THINK)
    runs.finish()
    assert accepts(RECORD, runs.tokens("few"))
    assert accepts(THINK.grammar, runs.tokens("most"))


def test_forced_tokens_have_logprobs_of_the_free_distribution(runs, free):
    runs.add("a", [1], free(logprobs=2), Constraint(grammar=f"start: <[5]> <[{RETURN}]>"))
    runs.finish()
    for chunk in runs.chunks["a"]:
        (found,) = chunk.logprobs
        assert found.logprob < -5, "one of 201,088 tokens of a random network"
        assert 5 not in [token for token, _ in found.top]


def test_a_grammar_goes_neither_with_ignored_stops_nor_with_another_vocabulary(
    runs, make_runs, free
):
    runs.add("a", [1], free(ignore_eos=True), THINK)
    runs.finish()
    assert "ignore_eos" in runs.chunks["a"][0].error
    small = make_runs()
    small.add("a", [1], free(), THINK)
    small.finish()
    assert "1024 tokens" in small.chunks["a"][0].error


def test_masks_are_waited_for_after_a_step_that_broke(runs, free, monkeypatch):
    model = runs.core._runner._model
    broken = threading.Event()

    class Breaks:
        config, dtype = model.config, model.dtype

        def forward(self, batch, caches):
            if len(batch.logit_rows) > 1 and not broken.is_set():
                broken.set()
                raise RuntimeError("once")
            return model.forward(batch, caches)

    monkeypatch.setattr(runs.core._runner, "_model", Breaks())
    for name in "ab":
        runs.add(name, [1, 2], free(), Constraint(grammar=RECORD))
    runs.finish()
    assert broken.is_set()
    assert all(runs.reason(name) in ("stop", "length") for name in "ab")


def test_random_histories_leave_nothing(wide, free, accepts):
    wide.chunks.clear()
    source = random.Random(4)
    grammars = {None: None, "think": THINK, "record": Constraint(grammar=RECORD), "bad": BROKEN}
    kinds: dict[str, str | None] = {}
    options = {"opening": [CHANNEL], "closing": END, "then": TAIL, "max_tokens": 4}
    grammars["limited"] = constraint(THINK.grammar, **options)
    for i in range(60):
        if source.random() < 0.5:
            kinds[str(i)] = kind = source.choice(list(grammars))
            params = free(max_tokens=source.randrange(1, 30), temperature=1.5)
            wide.add(str(i), prompt_of(source.randrange(1, 90), i), params, grammars[kind])
        if kinds and source.random() < 0.2:
            gone = source.choice(list(kinds))
            wide.core.abort([gone])
        if wide.core.has_work:
            wide.step()
            wide.core._scheduler.check_invariants()
    wide.finish()
    stats = wide.core.stats
    assert (stats.full_pages_used, stats.window_pages_used) == (0, 0)
    assert not wide.core._states
    for name, kind in kinds.items():
        if kind in ("think", "record"):
            assert accepts(grammars[kind].grammar, wide.tokens(name))


@pytest.mark.parametrize("at_once", [0.0, 1e9], ids=["in a thread", "at once"])
def test_tokens_are_the_same_wherever_masks_are_computed(
    make_wide_runs, free, by_itself, monkeypatch, at_once
):
    monkeypatch.setattr(mask_worker, "AT_ONCE_SECONDS", at_once)
    runs = make_wide_runs()
    assert run_jobs(runs, free, alone=False) == by_itself
    assert (runs.core._runner.masks._thread is None) == (at_once > 0)
