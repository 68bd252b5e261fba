"""Turns at random, from a model with random weights at temperature 2: none is malformed.

Random tools, choices of tools, formats, efforts, budgets and messages, streamed and whole, 32 at a
time. OSSIA_RANDOM_TURNS=2000 asks for that many turns instead of 150.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import regex

from ossia.harmony.tokenizer import CALL, END, RETURN, Tokenizer

TURNS = int(os.environ.get("OSSIA_RANDOM_TURNS", "150"))
STREAMS = 32
SCHEMAS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in (Path(__file__).parents[1] / "schemas").glob("*.json")
}
REALISTIC = list(SCHEMAS["realistic"].values())
PARAMETERS = [
    *REALISTIC,
    *(SCHEMAS["objects"][name] for name in ("properties", "required", "additionalProperties schema",
      "names with quotes", "names of special tokens", "names of other scripts", "eight levels")),
    *(SCHEMAS["references"][name] for name in ("linked list", "tree from the root")),
    {},
    None,
]  # fmt: skip
# Grammars with a regular expression that says the same.
PATTERNS = [r"[a-z]{1,5}", r"\d{4}-\d{2}-\d{2}", r"(yes|no)( please)?", r"#[0-9a-f]{6}", r"[^a]{2}"]
LARK = [('start: "a" B+\nB: /[0-9]/', r"a[0-9]+"), ('start: "x" start "y" | "z"', r"(x(?R)y|z)")]
EBNF = [('root ::= "on" | "off"', r"on|off"), ("root ::= [a-c]+", r"[a-c]+")]
WORDS = ["Hello", "What is 2 + 2?", "天気", "<|end|><|start|>system", "🦩", '{"a": 1}', "a" * 300]
CLOSERS = ('"', '"}', '"]', "}", "]", '",', ",", '":', '":"', "}}", "null", "true", "false")


@dataclass
class Ask:
    """A request, and what may come back."""

    body: dict[str, Any]
    callable: dict[str, Any] = field(default_factory=dict)  # name -> schema of what may be called
    must_call: bool = False
    one_call: bool = False
    content: Callable[[str], str | None] = lambda text: None if text else "is empty"


@dataclass
class Answer:
    """One choice, streamed or whole."""

    content: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    finish_reason: str | None = None
    details: dict[str, Any] | None = None
    reasoning: str = ""
    reasoning_tokens: int = 0
    completion_tokens: int = 0


def any_name(draw: random.Random) -> str:
    common = ["get", "get_weather", "get_weather_2", "a.b", "x-y", "final", "analysis", "json"]
    letters = string.ascii_letters + string.digits + "_.-"
    made_up = "".join(draw.choices(letters, k=draw.randint(1, 64)))
    return draw.choice([*common, made_up])


def with_tools(ask: Ask, draw: random.Random) -> None:
    tools = {any_name(draw): draw.choice(PARAMETERS) for _ in range(draw.randint(1, 6))}
    functions = []
    for name, parameters in tools.items():
        functions.append({"name": name, "description": draw.choice(WORDS)})
        if parameters is not None:
            functions[-1]["parameters"] = parameters
        if draw.random() < 0.5:
            functions[-1]["strict"] = draw.random() < 0.5
    named = [{"type": "function", "function": {"name": name}} for name in tools]
    ask.body["tools"] = [{"type": "function", "function": f} for f in functions]
    ask.callable = dict(tools)
    match draw.randrange(6):
        case 0:
            ask.body["tool_choice"] = "none"
            ask.callable = {}
        case 1:
            ask.body["tool_choice"] = "required"
            ask.must_call = True
        case 2:
            choice = draw.choice(named)
            ask.body["tool_choice"] = choice
            ask.callable = {name: tools[name] for name in [choice["function"]["name"]]}
            ask.must_call = True
        case 3:
            some = draw.sample(named, draw.randint(1, len(named)))
            mode = draw.choice(["auto", "required"])
            allowed = {"mode": mode, "tools": some}
            ask.body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
            ask.callable = {s["function"]["name"]: tools[s["function"]["name"]] for s in some}
            ask.must_call = mode == "required"
        case 4:
            ask.body["tool_choice"] = "auto"
    parallel = draw.choice([None, True, False])
    if parallel is not None:
        ask.body["parallel_tool_calls"] = parallel
        ask.one_call = not parallel


def with_format(ask: Ask, draw: random.Random, violation: Callable[[Any, str], str | None]) -> None:
    kind = draw.choice(["json_object", "json_schema", "regex", "choice", "lark", "ebnf", "text"])
    form: dict[str, Any] = {"type": kind}

    def matches(pattern: str) -> Callable[[str], str | None]:
        return lambda text: None if regex.fullmatch(pattern, text) else f"does not match {pattern}"

    match kind:
        case "json_object":
            ask.content = lambda text: violation({"type": "object"}, text)
        case "json_schema":
            schema = draw.choice(REALISTIC)
            form["json_schema"] = {"name": "it", "schema": schema, "strict": True}
            ask.content = lambda text: violation(schema, text)
        case "regex":
            form["pattern"] = draw.choice(PATTERNS)
            ask.content = matches(form["pattern"])
        case "choice":
            choices = draw.sample(WORDS, draw.randint(1, 4))
            form["choices"] = choices
            ask.content = lambda text: None if text in choices else f"is none of {choices}"
        case "lark" | "ebnf":
            grammar, pattern = draw.choice(LARK if kind == "lark" else EBNF)
            form = {"type": "grammar", "syntax": kind, "grammar": grammar}
            ask.content = matches(pattern)
    ask.body["response_format"] = form


def any_ask(
    draw: random.Random, tokenizer: Tokenizer, violation: Callable[[Any, str], str | None]
) -> Ask:
    messages = [{"role": "user", "content": draw.choice(WORDS)} for _ in range(draw.randint(1, 3))]
    if draw.random() < 0.4:
        messages.insert(0, {"role": draw.choice(["system", "developer"]), "content": "Be kind."})
    ask = Ask({"messages": messages, "temperature": 2, "seed": draw.getrandbits(32)})
    if draw.random() < 0.7:
        with_tools(ask, draw)
    if draw.random() < 0.5:
        with_format(ask, draw, violation)
    body = ask.body
    body["max_tokens"] = draw.choice([1, 10, 60, 120, 200, 300])
    if draw.random() < 0.8:
        body["max_reasoning_tokens"] = draw.choice([1, 3, 10, 40])
    if draw.random() < 0.5:
        body["reasoning_effort"] = draw.choice(["low", "medium", "high"])
    if draw.random() < 0.5:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if draw.random() < 0.2:
        body["logprobs"] = True
    strength = draw.choice([0, 12, 19, 22, 25])  # a random model does not end anything of itself
    if strength:
        ends = [END, RETURN, CALL, *(tokenizer.encode(text)[0] for text in CLOSERS)]
        body["logit_bias"] = {str(token): strength for token in ends}
    return ask


def with_results(ask: Ask, answer: Answer, draw: random.Random) -> Ask:
    """The same again, after the functions that were called have answered."""
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in answer.calls
    ]
    said = {"role": "assistant", "content": answer.content or None, "tool_calls": calls}
    if draw.random() < 0.5:
        said["reasoning"] = answer.reasoning
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": draw.choice(WORDS)}
        for call in answer.calls
    ]
    messages = [*ask.body["messages"], said, *results]
    return replace(ask, body={**ask.body, "messages": messages, "seed": draw.getrandbits(32)})


async def answer_of(http: httpx.AsyncClient, body: dict[str, Any]) -> Answer | httpx.Response:
    """The answer, or what was answered instead."""
    response = await http.post("/v1/chat/completions", json=body)
    if response.status_code != 200:
        return response
    answer = Answer()
    if not body.get("stream"):
        whole = response.json()
        (choice,) = whole["choices"]
        _add(answer, choice, choice["message"], whole["usage"])
        return answer
    lines = [line for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            return httpx.Response(500, json=chunk)
        for choice in chunk["choices"] or [{"delta": {}}]:
            _add(answer, choice, choice["delta"], chunk["usage"])
    return answer


def _add(
    answer: Answer, choice: dict[str, Any], message: dict[str, Any], usage: dict[str, Any] | None
) -> None:
    answer.content += message.get("content") or ""
    answer.reasoning += message.get("reasoning") or ""
    for position, call in enumerate(message.get("tool_calls") or ()):
        if "id" in call:
            assert call.get("index", position) == len(answer.calls)
            name = call["function"]["name"]
            answer.calls.append({"id": call["id"], "name": name, "arguments": ""})
        answer.calls[call.get("index", position)]["arguments"] += call["function"]["arguments"]
    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    answer.details = choice.get("finish_details") or answer.details
    if usage:
        answer.completion_tokens = usage["completion_tokens"]
        answer.reasoning_tokens = usage["completion_tokens_details"]["reasoning_tokens"]


def malformed(ask: Ask, answer: Answer, violation: Callable[[Any, str], str | None]) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    reason = answer.finish_reason
    if reason not in ("stop", "length", "tool_calls"):
        return f"finish reason {reason}"
    for number, call in enumerate(answer.calls):
        if call["name"] not in ask.callable:
            return f"calls {call['name']!r}, which was not offered"
        if reason == "length" and number == len(answer.calls) - 1:
            continue
        schema = ask.callable[call["name"]] or {"type": "object"}
        if broken := violation(schema, call["arguments"]):
            return f"arguments {call['arguments']!r}: {broken}"
    if ask.one_call and len(answer.calls) > 1:
        return "several calls, and parallel_tool_calls is false"
    if answer.reasoning_tokens > ask.body.get("max_reasoning_tokens", 1000):
        return f"{answer.reasoning_tokens} tokens of reasoning"
    if reason == "length":
        if answer.completion_tokens != ask.body["max_tokens"]:
            return f"length after {answer.completion_tokens} tokens"
        if not answer.details or not answer.details["message"]:
            return "length without a word about where"
        return None
    if reason == "tool_calls":
        return None if answer.calls else "finish reason tool_calls without a call"
    if ask.must_call or answer.calls:
        return f"finish reason stop with {len(answer.calls)} calls"
    broken = ask.content(answer.content)
    return broken and f"content {answer.content!r}: {broken}"


def test_no_turn_is_malformed(
    random_url: str,
    violation: Callable[[Any, str], str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = Tokenizer()
    counts: Counter[str] = Counter()
    faults: list[str] = []

    async def turn(ask: Ask, label: str, http: httpx.AsyncClient) -> Answer | None:
        answer = await answer_of(http, ask.body)
        if isinstance(answer, httpx.Response):
            counts[f"status {answer.status_code}"] += 1
            faults.append(f"turn {label}: status {answer.status_code}: {answer.text}")
            return None
        counts[f"{answer.finish_reason}"] += 1
        counts["calls"] += len(answer.calls)
        counts["reasoning cut"] += (answer.details or {}).get("type") == "reasoning_cut"
        if fault := malformed(ask, answer, violation):
            counts["malformed"] += 1
            faults.append(f"turn {label}: {fault}; asked for {json.dumps(ask.body)[:2000]}")
        return answer

    async def conversation(number: int, http: httpx.AsyncClient, gate: asyncio.Semaphore) -> None:
        draw = random.Random(number)
        ask = any_ask(draw, tokenizer, violation)
        async with gate:
            answer = await turn(ask, f"{number}", http)
            if answer and answer.finish_reason == "tool_calls" and draw.random() < 0.5:
                counts["turns with the results of calls"] += 1
                await turn(with_results(ask, answer, draw), f"{number}, second", http)

    async def all_turns() -> None:
        gate = asyncio.Semaphore(STREAMS)
        limits = httpx.Limits(max_connections=STREAMS)
        async with httpx.AsyncClient(base_url=random_url, timeout=120, limits=limits) as http:
            await asyncio.gather(*(conversation(n, http, gate) for n in range(TURNS)))

    asyncio.run(all_turns())
    with capsys.disabled():
        print(f"\n{TURNS} random conversations, {len(faults)} faults: {dict(counts)}")
    assert not faults, "\n".join(faults[:20])
    assert counts["stop"] + counts["tool_calls"] > TURNS / 4
