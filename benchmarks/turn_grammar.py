"""The demo model on held-out calls and schemas, with the turn grammar and without.

python -m benchmarks.turn_grammar --prompts 300

Cases are those of training/demo/evaluation.py. A schema case has its schema in the prompt, as the
model was trained; with the grammar it is enforced as well. An answer that has not ended after
LONGEST_ANSWER tokens is cut off; whether it is well-formed is only asked of the others.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jsonschema

from ossia import LLM, SamplingParams
from ossia.answer.constraint import turn_constraint
from ossia.engine.messages import Constraint
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import Instructions, OutputFormat, Turn
from training.demo.evaluation import LONGEST_ANSWER, Case, cases
from training.demo.exchange import Call

SKILLS = ("function", "calculator", "echo", "time", "schema")
_TEXT = r"(?:(?!<\|).)*"  # without special tokens
_BEFORE = (
    rf"(?:<\|channel\|>(?:analysis|commentary)<\|message\|>{_TEXT}<\|end\|><\|start\|>assistant)*"
)
_FINAL = re.compile(rf"{_BEFORE}<\|channel\|>final<\|message\|>(?P<text>{_TEXT})<\|return\|>", re.S)
_TO, _COMMENTARY = r" to=functions\.(?P<{}>[\w.-]+)", r"<\|channel\|>commentary"
_HEADER = f"(?:{_TO.format('role')}{_COMMENTARY}|{_COMMENTARY}{_TO.format('channel')})"
_CALL = re.compile(
    rf"{_BEFORE}{_HEADER}(?: ?<\|constrain\|>json| json)?<\|message\|>"
    rf"(?P<arguments>{_TEXT})<\|call\|>",
    re.S,
)


@dataclass(frozen=True)
class Outcome:
    """How one answer was."""

    well_formed: bool  # headers, ends, and JSON where JSON belongs
    declared: bool  # calls nothing that was not declared
    valid: bool  # the JSON fits the schema that was given
    right: bool  # the expected function with the expected arguments, or the expected answer


def judge(case: Case, token_ids: Sequence[int], tokenizer: Tokenizer) -> Outcome:
    """Compare what the model wrote after `<|start|>assistant` with the right step."""
    text = tokenizer.decode(token_ids)
    step = case.step
    if call := _CALL.fullmatch(text):
        name = call["role"] or call["channel"]
        schemas = {tool.name: tool.parameters or {"type": "object"} for tool in case.turn.tools}
        value = _json(call["arguments"])
        declared = name in schemas
        valid = declared and value is not None and _fits(value, schemas[name])
        right = isinstance(step, Call) and name == step.name and value == _json(step.arguments)
        return Outcome(value is not None, declared, valid, right)
    final = _FINAL.fullmatch(text)
    if final is None:
        return Outcome(False, True, False, False)
    if isinstance(step, Call):
        return Outcome(True, True, True, False)  # well-formed, and no call was made
    if case.skill != "schema":
        return Outcome(True, True, True, final["text"] == step.text)
    value = _json(final["text"])
    valid = value is not None and _fits(value, schema_of(case.turn))
    return Outcome(value is not None, True, valid, value == _json(step.text))


def shares(outcomes: Sequence[Outcome | None]) -> list[str]:
    """Cut off, well-formed, declared, valid and right; None is an answer that was cut off."""
    ended = [outcome for outcome in outcomes if outcome is not None]
    counts = [(len(outcomes) - len(ended), len(outcomes))]
    for name in ("well_formed", "declared", "valid"):
        counts.append((sum(getattr(outcome, name) for outcome in ended), len(ended)))
    counts.append((sum(outcome.right for outcome in ended), len(outcomes)))
    return [f"{part / whole:.1%}" for part, whole in counts]


def schema_of(turn: Turn) -> dict[str, Any]:
    """The schema at the end of the developer message."""
    texts = [item.text for item in turn.items if isinstance(item, Instructions)]
    section = "\n\n".join(texts).rpartition("# Response Formats")[2]
    schema: dict[str, Any] = json.loads(section[section.index("\n{") :])
    return schema


def constrained(case: Case, compiler: GrammarCompiler) -> Constraint:
    """The grammar that a request for this case gets."""
    turn = case.turn
    if case.skill == "schema":
        turn = replace(turn, output=OutputFormat("json_schema", schema=schema_of(turn)))
    return turn_constraint(compiler, turn)


def _json(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _fits(value: Any, schema: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=300, help="of each skill")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    llm = LLM("demo", device=options.device, max_model_len=8192)
    tokenizer = llm.tokenizer
    compiler = GrammarCompiler(tokenizer)
    everything = [case for skill in SKILLS for case in cases(skill, options.prompts, tokenizer)]
    prompts = [render_prompt(case.turn, tokenizer) for case in everything]
    constraints = [constrained(case, compiler) for case in everything]
    columns = ("temperature", "skill", "grammar", "cut off", "well-formed", "declared")
    print(f"| {' | '.join((*columns, 'fits its schema', 'right'))} |\n{'|---' * 8}|", flush=True)
    for temperature in options.temperature:
        params = [
            SamplingParams(temperature=temperature, seed=seed, max_tokens=LONGEST_ANSWER)
            for seed in range(len(prompts))
        ]
        tables = {}
        for grammar in (False, True):
            outputs = llm.generate(
                prompts, params, constraint=constraints if grammar else None, use_tqdm=False
            )
            tables[grammar] = [
                None
                if output.finish_reason == "length"
                else judge(case, output.token_ids, tokenizer)
                for case, output in zip(everything, outputs, strict=True)
            ]
        for skill in (*SKILLS, "all"):
            for grammar, outcomes in tables.items():
                mine = [
                    outcome
                    for case, outcome in zip(everything, outcomes, strict=True)
                    if skill in (case.skill, "all")
                ]
                row = (f"{temperature:g}", skill, "on" if grammar else "off", *shares(mine))
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
