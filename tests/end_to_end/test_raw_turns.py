"""The tokens themselves, before the parser makes the best of them: every turn has the format.

A model with random weights, at temperature 2, in this process. The format is spelled out here once
more, as a regular expression, so that it does not depend on the grammar under test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ossia import LLM, SamplingParams
from ossia.harmony import tokenizer as tokens
from ossia.harmony.tokenizer import CALL, END, FIRST_SPECIAL, RETURN, Tokenizer
from ossia.turn import OutputFormat, ToolChoice

# Special tokens as characters that no text of these tests has.
SPECIAL = ("START", "END", "MESSAGE", "CHANNEL", "CONSTRAIN", "RETURN", "CALL")
MARKS = {getattr(tokens, name): chr(0xF0000 + place) for place, name in enumerate(SPECIAL)}
START_, END_, MESSAGE_, CHANNEL_, CONSTRAIN_, RETURN_, CALL_ = MARKS.values()
TEXT = f"[^{''.join(MARKS.values())}]+"
NAMES = ("get", "get_weather", "a.b-c")
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in NAMES]
GO_ON = f"{END_}{START_}assistant"
THOUGHT = f"{CHANNEL_}analysis{MESSAGE_}{TEXT}{GO_ON}"
PREAMBLE = f"{CHANNEL_}commentary{MESSAGE_}{TEXT}{GO_ON}"
FINAL = f"{CHANNEL_}final{MESSAGE_}{TEXT}{RETURN_}"
BIAS = {END: 20.0, RETURN: 20.0, CALL: 20.0}


def call(names: tuple[str, ...]) -> str:
    to = f" to=functions\\.(?:{'|'.join(map(re.escape, names))})"
    header = f"(?:{to}{CHANNEL_}commentary|{CHANNEL_}commentary{to})"
    return f"{header}(?: json| ?{CONSTRAIN_}json)?{MESSAGE_}\\s*{{\\s*}}\\s*"


def calls(names: tuple[str, ...], *, parallel: bool = True) -> str:
    more = f"(?:{GO_ON}{call(names)})*" if parallel else ""
    return f"{call(names)}{more}{CALL_}"


BETWEEN = f"(?:{THOUGHT}|{PREAMBLE})*"
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no tools": ({}, f"(?:{THOUGHT})*{FINAL}"),
    "tools": ({"tools": TOOLS}, f"{BETWEEN}(?:{FINAL}|{calls(NAMES)})"),
    "one call": (
        {"tools": TOOLS, "parallel_tool_calls": False},
        f"{BETWEEN}(?:{FINAL}|{calls(NAMES, parallel=False)})",
    ),
    "required": (
        {"tools": TOOLS, "tool_choice": ToolChoice("required")},
        f"{BETWEEN}{calls(NAMES)}",
    ),
    "named": (
        {"tools": TOOLS, "tool_choice": ToolChoice("required", ("get_weather",))},
        f"{BETWEEN}{calls(('get_weather',))}",
    ),
    "allowed": (
        {"tools": TOOLS, "tool_choice": ToolChoice("auto", ("get", "a.b-c"))},
        f"{BETWEEN}(?:{FINAL}|{calls(('get', 'a.b-c'))})",
    ),
    "choice": (
        {"output": OutputFormat("choice", choices=("yes", "no"))},
        f"(?:{THOUGHT})*{CHANNEL_}final{MESSAGE_}(?:yes|no){RETURN_}",
    ),
    "schema and tools": (
        {"tools": TOOLS, "output": OutputFormat("json_schema", schema={"type": "boolean"})},
        f"(?:{THOUGHT})*(?:{CHANNEL_}final{MESSAGE_}(?:true|false){RETURN_}"
        f"|(?:{PREAMBLE})*{calls(NAMES)})",
    ),
}


def load(model: Path, *, turn_grammar: bool) -> LLM:
    options = {"load_format": "dummy", "device": "cpu", "kv_cache_memory": 64 << 20}
    return LLM(str(model), turn_grammar=turn_grammar, **options)


@pytest.fixture(scope="module")
def llm(random_model: Path) -> LLM:
    return load(random_model, turn_grammar=True)


def raw(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    """The tokens as text, with a character of its own for each special token."""
    parts: list[list[int] | str] = [[]]
    for token in token_ids:
        if token >= FIRST_SPECIAL:
            parts += [MARKS.get(token, "\U000fffff"), []]
        else:
            parts[-1].append(token)  # type: ignore[union-attr]
    return "".join(p if isinstance(p, str) else tokenizer.decode(p) for p in parts)


def ended_turns(llm: LLM, **options: Any) -> list[str]:
    """Turns that were not cut off by the token limit."""
    conversations = [[{"role": "user", "content": f"Number {i}"}] for i in range(12)]
    params = [
        SamplingParams(temperature=2.0, seed=seed, max_tokens=400, logit_bias=BIAS)
        for seed in range(12)
    ]
    outputs = llm.chat(conversations, params, use_tqdm=False, **options)
    return [raw(llm.tokenizer, o.token_ids) for o in outputs if o.finish_reason != "length"]


@pytest.mark.parametrize("name", CASES)
def test_every_turn_has_the_format(llm: LLM, name: str) -> None:
    options, pattern = CASES[name]
    turns = ended_turns(llm, **options)
    assert len(turns) >= 6
    for turn in turns:
        assert re.fullmatch(pattern, turn, re.DOTALL), turn


def test_without_the_grammar_no_turn_has_the_format(random_model: Path) -> None:
    options, pattern = CASES["tools"]
    turns = ended_turns(load(random_model, turn_grammar=False), **options)
    assert len(turns) >= 6
    for turn in turns:
        assert not re.fullmatch(pattern, turn, re.DOTALL), turn
