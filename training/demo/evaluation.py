"""Held-out prompts, what is right for each, and greedy generation without the server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import CALL, RETURN, Tokenizer
from ossia.turn import ReasoningEffort, Turn
from training.demo import vocabulary
from training.demo.batches import make_source, row_table
from training.demo.conversation import converse
from training.demo.documents import call_items, completion, with_items
from training.demo.exchange import Answer, Call
from training.demo.network import DemoNetwork, Packed

SKILLS = (
    *("chat", "off topic", "addition", "arithmetic", "calculator", "function", "result"),
    *("echo", "time", "schema", "recall", "far recall"),
)
LONGEST_ANSWER = 400  # tokens
_HEAD = r"(?:<\|channel\|>analysis<\|message\|>(?P<thought>.*?)<\|end\|><\|start\|>assistant)?"
_FINAL = re.compile(_HEAD + r"<\|channel\|>final<\|message\|>(?P<text>.*)<\|return\|>", re.S)
_CALL = re.compile(
    _HEAD + r"<\|channel\|>commentary to=functions\.(?P<name>\S+) <\|constrain\|>json"
    r"<\|message\|>(?P<arguments>.*)<\|call\|>",
    re.S,
)


@dataclass(frozen=True)
class Case:
    """A prompt and the step that is right after it."""

    skill: str
    turn: Turn
    step: Call | Answer


@dataclass(frozen=True)
class Outcome:
    """How an answer was: in the format, with the right content, and how long the thought was."""

    well_formed: bool
    right: bool
    thought_tokens: int


def cases(skill: str, count: int, tokenizer: Tokenizer) -> list[Case]:
    """Held-out conversations of a skill, the same on every call."""
    source = make_source(f"evaluation/{skill}", tokenizer, held_out=True)
    kind = {"off topic": "chat", "addition": "arithmetic", "result": "function"}
    kind = kind.get(skill, "recall" if skill == "far recall" else skill)
    out: list[Case] = []
    while len(out) < count:
        conversation = converse(source, kind)
        exchange, turn = conversation.exchange, conversation.turn
        if skill in ("chat", "off topic") and exchange.skill != skill:
            continue
        if skill == "addition" and not re.match(r"\d\d \+ \d\d =", exchange.answer.text):
            continue
        step: Call | Answer = exchange.calls[0] if exchange.calls else exchange.answer
        if skill == "result":
            step = exchange.answer
            for index, call in enumerate(exchange.calls):
                turn = with_items(
                    turn, call_items(call, index, tokenizer, as_written=index % 2 == 0)
                )
        if skill == "far recall" and len(render_prompt(turn, tokenizer)) < 2000:
            continue
        if not vocabulary.writable_ids().issuperset(completion(step, tokenizer)):
            continue  # cannot be written with the stored rows
        out.append(Case(skill, turn, step))
    return out


def judge(case: Case, output: Sequence[int], tokenizer: Tokenizer) -> Outcome:
    """Compare what the model wrote after `<|start|>assistant` with the right step."""
    text = tokenizer.decode(output)
    final, call = _FINAL.fullmatch(text), _CALL.fullmatch(text)
    match = final or call
    if match is None:
        return Outcome(False, False, 0)
    thought = len(tokenizer.encode(match["thought"] or ""))
    if call:
        declared = {tool.name for tool in case.turn.tools}
        try:
            arguments = json.loads(call["arguments"])
        except ValueError:
            return Outcome(False, False, thought)
        well_formed = call["name"] in declared and isinstance(arguments, dict)
        right = (
            isinstance(case.step, Call)
            and call["name"] == case.step.name
            and arguments == json.loads(case.step.arguments)
        )
        return Outcome(well_formed, right, thought)
    assert final is not None
    right = isinstance(case.step, Answer) and final["text"] == case.step.text
    return Outcome(True, right, thought)


Generate = Callable[[list[list[int]]], list[list[int]]]  # prompts -> tokens up to the stop token


def evaluate(generate: Generate, count: int, tokenizer: Tokenizer) -> dict[str, object]:
    """Run all skills; prints failures and a table and returns shares and examples."""
    everything = [case for skill in SKILLS for case in cases(skill, count, tokenizer)]
    outputs = generate([render_prompt(case.turn, tokenizer) for case in everything])
    outcomes = [judge(c, o, tokenizer) for c, o in zip(everything, outputs, strict=True)]
    table: dict[str, dict[str, float]] = {}
    failures: list[dict[str, str]] = []
    for skill in SKILLS:
        mine = [o for c, o in zip(everything, outcomes, strict=True) if c.skill == skill]
        table[skill] = {
            "prompts": len(mine),
            "well_formed": sum(o.well_formed for o in mine) / len(mine),
            "right": sum(o.right for o in mine) / len(mine),
        }
        print(
            f"{skill:12} {table[skill]['well_formed']:8.2%} {table[skill]['right']:8.2%}",
            flush=True,
        )
    for case, output, outcome in zip(everything, outputs, outcomes, strict=True):
        if not outcome.right:
            asked = tokenizer.decode(render_prompt(case.turn, tokenizer))[-700:]
            failures.append(
                {
                    "skill": case.skill,
                    "prompt": asked,
                    "output": tokenizer.decode(output),
                    "expected": str(case.step),
                }
            )
    thoughts = {}
    for effort in ReasoningEffort:
        lengths = [
            o.thought_tokens
            for c, o in zip(everything, outcomes, strict=True)
            if c.turn.effort is effort
        ]
        thoughts[effort.value] = sum(lengths) / len(lengths)
    share = sum(o.well_formed for o in outcomes) / len(outcomes)
    print(f"well-formed {share:.2%}; thought tokens by effort {thoughts}", flush=True)
    return {"well_formed": share, "skills": table, "thought_tokens": thoughts, "failures": failures}


def evaluate_network(
    network: DemoNetwork, ids: list[int], count: int, tokens: int
) -> dict[str, object]:
    """Evaluate with the trainer's network, without a cache: quick on a GPU."""
    table = torch.from_numpy(row_table().astype("int64"))
    compute = network.hidden
    if network.head.is_cuda:
        compute = torch.compile(network.hidden, dynamic=False)

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        texts = [table[torch.tensor(p)].tolist() for p in prompts]
        starts = [len(t) for t in texts]
        active = list(range(len(texts)))
        while active:
            nexts = _next_rows(network, compute, [texts[i] for i in active], tokens)
            still = []
            for index, row in zip(active, nexts, strict=True):
                texts[index].append(row)
                token = ids[row] if row < len(ids) else -1
                done = (
                    token in (RETURN, CALL) or len(texts[index]) - starts[index] >= LONGEST_ANSWER
                )
                if not done and len(texts[index]) < tokens:
                    still.append(index)
            active = still
        unknown = 199997  # stands for the shared row
        return [
            [ids[r] if r < len(ids) else unknown for r in text[start:]]
            for text, start in zip(texts, starts, strict=True)
        ]

    return evaluate(generate, count, Tokenizer())


@torch.no_grad()
def _next_rows(
    network: DemoNetwork, compute: Callable[..., object], texts: list[list[int]], tokens: int
) -> list[int]:
    """The likeliest next row of each text; packs texts into rows of `tokens`."""
    device = network.head.device
    out: list[int] = []
    group: list[list[int]] = []

    def run() -> None:
        rows, numbers, positions, ends = [], [], [], []
        for number, text in enumerate(group):
            rows += text
            numbers += [number] * len(text)
            positions += range(len(text))
            ends.append(len(rows) - 1)
        rest = tokens - len(rows)
        batch = Packed(
            torch.tensor(rows + [0] * rest, device=device),
            torch.tensor(numbers + [len(group)] * rest, dtype=torch.int32, device=device),
            torch.tensor(positions + [0] * rest, device=device),
        )
        states, _ = compute(batch)
        out.extend(network.logits(states[torch.tensor(ends, device=device)]).argmax(-1).tolist())

    size = 0
    for text in texts:
        if size + len(text) > tokens:
            run()
            group, size = [], 0
        group.append(text)
        size += len(text)
    run()
    return out
