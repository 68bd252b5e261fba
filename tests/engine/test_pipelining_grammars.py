"""Grammars, phases that are cut and loops with one step in flight, on the real runner.

`LateRunner` feeds tokens that the host does not know yet as a device does: it alone has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ossia.engine import start
from ossia.engine.messages import Constraint, PhaseLimit
from ossia.engine.request import Request
from ossia.engine.runner import Flight, Runner
from ossia.engine.sampling_state import SamplingState
from ossia.engine.step_plan import ScheduledSequence
from ossia.engine.step_runner import StepResult

RETURN, CHANNEL, START, END = 200002, 200005, 200006, 200007
TEXT = "<[0-199997]>"
TAIL = f"start: <[{START}]> {TEXT}* <[{RETURN}]>"
THINK = f"start: <[{CHANNEL}]> {TEXT}* <[{END}]> <[{START}]> {TEXT}* <[{RETURN}]>"
RECORD = """start: %json {"type": "object", "properties": {"age": {"type": "integer"},
    "kind": {"enum": ["cat", "dog", "tortoise"]}}, "required": ["age", "kind"]} <[200002]>"""
LIMIT = PhaseLimit(opening=[CHANNEL], closing=END, then=TAIL, max_tokens=9)
JOBS = [
    (None, {"seed": 3}),
    (None, {"temperature": 0.0, "ignore_eos": True, "max_tokens": 1}),
    (Constraint(grammar=RECORD), {"seed": 1, "temperature": 2.0}),
    (Constraint(grammar=RECORD), {"temperature": 0.0, "presence_penalty": 1.0, "logprobs": 1}),
    (Constraint(grammar=RECORD), {"seed": 7, "min_tokens": 20}),
    (Constraint(grammar=THINK), {"seed": 2}),
    (Constraint(grammar=THINK, limit=LIMIT), {"seed": 5, "top_k": 50}),
    (Constraint(grammar=THINK, limit=LIMIT), {"seed": 6, "logit_bias": {END: -100.0}}),
    (Constraint(grammar="start: missing_rule"), {}),
]


class LateRunner(Runner):
    """The synchronous runner, but steps can be started ahead."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pipelined = True
        self.ahead = 0
        self._rows: dict[int, list[Request]] = {}  # that sample, by flight
        self._tokens: dict[Request, int] = {}  # of the last step

    def start(
        self, sequences: Sequence[ScheduledSequence], states: Sequence[SamplingState]
    ) -> Flight:
        unknown = [item.request for item in sequences if item.start == len(item.request.tokens)]
        self.ahead += bool(unknown)
        for request in unknown:
            request.tokens.append(self._tokens[request])
        try:
            flight = super().start(sequences, [])
        finally:
            for request in unknown:
                request.tokens.pop()
        self._rows[id(flight)] = [item.request for item in sequences if item.samples]
        return flight

    def sample(self, flight: Flight, states: Sequence[SamplingState | None]) -> None:
        live = [row for row, state in enumerate(states) if state is not None]
        wanted = [state for state in states if state is not None]
        self.masks.start([state.follower for state in wanted if state.follower is not None])
        part = Flight(flight.logits[live])
        super().sample(part, wanted)
        assert part.result is not None
        result = StepResult([0] * len(states))
        for row, token in zip(live, part.result.tokens, strict=True):
            result.tokens[row] = token
        result.logprobs.update((live[row], found) for row, found in part.result.logprobs.items())
        result.errors.update((live[row], found) for row, found in part.result.errors.items())
        flight.result = result
        rows = self._rows.pop(id(flight))
        self._tokens = {r: max(0, t) for r, t in zip(rows, result.tokens, strict=True)}


@pytest.fixture
def make_late_runs(
    make_wide_runs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Engines that start steps ahead."""

    def make(**options: Any) -> Any:
        monkeypatch.setattr(start, "Runner", LateRunner)
        return make_wide_runs(**options)

    return make


def run_jobs(runs: Any, sampling: Callable[..., Any]) -> dict[str, list[Any]]:
    """All chunks of all jobs, without the prefix hits, which depend on who came first."""
    for i, (held_to, options) in enumerate(JOBS):
        params = sampling(**{"ignore_eos": False, "max_tokens": 40, **options})
        runs.add(str(i), list(range(1, 20 + 9 * i)), params, held_to)
    runs.finish()
    assert not runs.core._states
    return {
        name: [(c.token_ids, c.logprobs, c.finish_reason, c.error, c.cut) for c in chunks]
        for name, chunks in runs.chunks.items()
    }


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 32, "max_num_seqs": 4}])
def test_chunks_are_the_same_with_a_step_in_flight(
    make_wide_runs: Callable[..., Any],
    make_late_runs: Callable[..., Any],
    sampling: Callable[..., Any],
    options: dict[str, int],
) -> None:
    expected = run_jobs(make_wide_runs(), sampling)
    late = make_late_runs(**options)
    assert run_jobs(late, sampling) == expected
    assert late.core._runner.ahead > 35
    assert late.core.stats.cuts_by_limit > 0


def test_an_endless_repetition_ends_with_the_next_step_in_flight(
    make_late_runs: Callable[..., Any],
    sampling: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = make_late_runs()
    model = runs.core._runner._model

    class Repeats:
        config, dtype = model.config, model.dtype

        def forward(self, batch: Any, caches: Any) -> Any:
            logits = model.forward(batch, caches)
            for row, token in enumerate(batch.logit_rows.tolist()):
                logits[row, 1000 + int(batch.positions[token]) % 40] = 1000.0
            return logits

    monkeypatch.setattr(runs.core._runner, "_model", Repeats())
    held_to = Constraint(grammar=f"start: {TEXT}* <[{RETURN}]>", stop_loops=True)
    runs.add("a", [1], sampling(max_tokens=1500, ignore_eos=False), held_to)
    runs.finish()
    assert runs.reason("a") == "loop"
    assert not runs.core._states
    assert runs.core.stats.full_pages_used == 0
