"""What the grammar of a turn lets the model write, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import GrammarCompiler, turn_grammar
from ossia.harmony.tokenizer import (
    CALL,
    CHANNEL,
    END,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
)
from ossia.turn import OutputFormat, ToolChoice, ToolDefinition, Turn

Spelled = Callable[[str], list[int]]
Held = Any  # the class in conftest.py

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolDefinition("get_weather", parameters=CITY)
CLOCK = ToolDefinition("clock")
TOOLS = (WEATHER, CLOCK)
NEXT = "<|end|><|start|>assistant"
THOUGHT = f"<|channel|>analysis<|message|>Hm.{NEXT}"
FINAL = "<|channel|>final<|message|>Hello.<|return|>"
PREAMBLE = f"<|channel|>commentary<|message|>I look.{NEXT}"
ROME = '{"city":"Rome"}'
CALL_ROME = f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ROME}"


@pytest.fixture
def accepts(compiler: GrammarCompiler, held: Held, spelled: Spelled) -> Callable[..., bool]:
    """accepts(text, tools, **fields of the turn): whether the whole turn may be this text."""

    def check(text: str, *tools: ToolDefinition, **fields: Any) -> bool:
        grammar = compiler.compile(Turn((), tools, **fields)).whole
        return bool(held.accepts(grammar, spelled(text)))

    return check


@pytest.mark.parametrize("thoughts", [0, 1, 2, 16])
def test_any_number_of_thoughts_up_to_sixteen_comes_before_the_answer(
    accepts: Callable[..., bool], thoughts: int
) -> None:
    assert accepts(THOUGHT * thoughts + FINAL)
    assert accepts(THOUGHT * thoughts + FINAL, *TOOLS)


def test_a_chain_of_thoughts_ends(accepts: Callable[..., bool]) -> None:
    assert not accepts(THOUGHT * 17 + FINAL)
    assert not accepts(PREAMBLE * 17 + FINAL, *TOOLS)


@pytest.mark.parametrize("kind", ["", " json", "<|constrain|>json", " <|constrain|>json"])
@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather",
        " to=functions.get_weather<|channel|>commentary",
    ],
)
@pytest.mark.parametrize(
    "arguments", [ROME, '{\n  "city": "Rome"\n}', '{ "city" : "Zo\u00eb \\n"}']
)
def test_a_call_has_the_headers_that_the_model_was_trained_on(
    accepts: Callable[..., bool], header: str, kind: str, arguments: str
) -> None:
    assert accepts(f"{THOUGHT}{header}{kind}<|message|>{arguments}<|call|>", *TOOLS)


@pytest.mark.parametrize(
    "text",
    [
        "Hello.",  # no header
        "<|channel|>final<|message|><|return|>",  # nothing said
        f"<|channel|>analysis<|message|>{NEXT}{FINAL}",  # nothing thought
        "<|channel|>analysis<|message|>Hm.<|return|>",  # a thought is no answer
        "<|channel|>comment<|message|>Hm.<|return|>",
        "<|channel|>final <|message|>Hello.<|return|>",
        "<|channel|>final<|message|>Hello.<|end|>",
        f"<|start|>assistant{FINAL}",
        f"{FINAL}{FINAL}",
        f"{CALL_ROME}<|return|>",
        f"{CALL_ROME}<|call|>{FINAL}",
        f"{CALL_ROME}{NEXT}{FINAL}",
        "<|channel|>analysis to=functions.clock<|message|>{}<|call|>",
        "<|channel|>final to=functions.clock<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.clocks<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.cl<|message|>{}<|call|>",
        "<|channel|>commentary to=python<|message|>{}<|call|>",
        "<|channel|>commentary to=clock<|message|>{}<|call|>",
        " to=functions.clock<|channel|>commentary to=functions.clock<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.clock code<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.clock<|message|><|call|>",
        "<|channel|>commentary to=functions.clock<|message|>[]<|call|>",
        '<|channel|>commentary to=functions.clock<|message|>{"a":1}<|call|>',
        "<|channel|>commentary to=functions.get_weather<|message|>{}<|call|>",
        '<|channel|>commentary to=functions.get_weather<|message|>{"city":"<|end|>"}<|call|>',
        '<|channel|>commentary to=functions.get_weather<|message|>{"city":"a\nb"}<|call|>',
        "<|channel|>commentary<|message|>I look.<|return|>",  # a preamble is no answer
    ],
)
def test_what_is_off_the_format_cannot_be_written(accepts: Callable[..., bool], text: str) -> None:
    assert not accepts(text, *TOOLS)


def test_a_model_thinks_again_after_a_preamble_and_then_calls(accepts: Callable[..., bool]) -> None:
    assert accepts(f"{THOUGHT}{PREAMBLE}{THOUGHT}{CALL_ROME}<|call|>", *TOOLS)


@pytest.mark.parametrize("text", [PREAMBLE + FINAL, f"{CALL_ROME}<|call|>"])
def test_without_tools_there_is_no_commentary(accepts: Callable[..., bool], text: str) -> None:
    assert accepts(text, *TOOLS)
    assert not accepts(text)


def test_several_calls_stand_in_one_turn_only_if_they_may(accepts: Callable[..., bool]) -> None:
    clock = " to=functions.clock<|channel|>commentary<|message|>{}"
    two = f"{CALL_ROME}{NEXT}{clock}<|call|>"
    assert accepts(two, *TOOLS)
    assert not accepts(two, *TOOLS, parallel_tool_calls=False)
    assert accepts(f"{clock}<|call|>", *TOOLS, parallel_tool_calls=False)
    assert not accepts(f"{clock}{NEXT}" * 32 + f"{clock}<|call|>", *TOOLS)


@pytest.mark.parametrize(
    ("choice", "answer", "rome", "clock"),
    [
        (ToolChoice(), True, True, True),
        (ToolChoice("required"), False, True, True),
        (ToolChoice("required", ("clock",)), False, False, True),
        (ToolChoice("auto", ("get_weather",)), True, True, False),
    ],
)
def test_the_tool_choice_decides_how_a_turn_ends(
    accepts: Callable[..., bool], choice: ToolChoice, answer: bool, rome: bool, clock: bool
) -> None:
    assert accepts(THOUGHT + FINAL, *TOOLS, tool_choice=choice) == answer
    assert accepts(f"{CALL_ROME}<|call|>", *TOOLS, tool_choice=choice) == rome
    call = "<|channel|>commentary to=functions.clock<|message|>{}<|call|>"
    assert accepts(call, *TOOLS, tool_choice=choice) == clock


@pytest.mark.parametrize(
    ("tools", "choice"), [((), ToolChoice("required")), (TOOLS, ToolChoice("auto", ("nothing",)))]
)
def test_a_choice_without_such_a_tool_is_refused(
    compiler: GrammarCompiler, tools: tuple[ToolDefinition, ...], choice: ToolChoice
) -> None:
    with pytest.raises(InvalidRequest, match="tool choice") as refusal:
        compiler.compile(Turn((), tools, tool_choice=choice))
    assert refusal.value.param == "tool_choice"


def test_names_that_begin_alike_are_told_apart(accepts: Callable[..., bool]) -> None:
    tools = (ToolDefinition("a"), ToolDefinition("ab", parameters=CITY), ToolDefinition("a.b-c"))
    header = "<|channel|>commentary to=functions."
    assert accepts(f"{header}a<|message|>{{}}<|call|>", *tools)
    assert accepts(f"{header}ab<|message|>{ROME}<|call|>", *tools)
    assert accepts(f"{header}a.b-c<|message|>{{}}<|call|>", *tools)
    assert not accepts(f"{header}a<|message|>{ROME}<|call|>", *tools)


TEXTS = ["", "Hello", "\u00e9\U0001f600", '{"a":', "<|end|>"]


@pytest.mark.parametrize(
    ("header", "exits"),
    [
        (f"{THOUGHT}<|channel|>analysis<|message|>", {END}),
        ("<|channel|>commentary<|message|>", {END}),
        ("<|channel|>final<|message|>", {RETURN}),
    ],
)
def test_free_text_is_any_ordinary_token_and_the_way_out(
    compiler: GrammarCompiler,
    held: Held,
    spelled: Spelled,
    tokenizer: Tokenizer,
    header: str,
    exits: set[int],
) -> None:
    grammar = compiler.compile(Turn((), TOOLS)).whole
    half = [tokenizer.encode("\U000e0001")[0]]
    assert "\ufffd" in tokenizer.decode(half)  # a part of a character
    for text in ([], *map(tokenizer.encode, TEXTS[1:]), half):
        allowed = held.allowed(grammar, [*spelled(header), *text])
        expected = np.arange(FIRST_SPECIAL).tolist() + sorted(exits if text else ())
        assert allowed.tolist() == expected


def test_headers_are_forced_where_there_is_no_choice(
    compiler: GrammarCompiler, held: Held, spelled: Spelled, tokenizer: Tokenizer
) -> None:
    grammar = compiler.compile(Turn((), TOOLS)).whole
    first_word = tokenizer.encode(" to")[0]
    assert set(held.allowed(grammar, [])) == {CHANNEL, first_word}
    assert set(held.allowed(grammar, spelled("<|channel|>analysis"))) == {MESSAGE}
    assert set(held.allowed(grammar, spelled("<|channel|>analysis<|message|>a<|end|>"))) == {START}
    assert set(held.allowed(grammar, spelled(f"{CALL_ROME}"))) == {END, CALL}


def test_no_special_token_stands_inside_of_json(
    compiler: GrammarCompiler, held: Held, spelled: Spelled
) -> None:
    grammar = compiler.compile(Turn((), TOOLS)).whole
    begun = spelled('<|channel|>commentary to=functions.get_weather<|message|>{"city":"a')
    assert held.allowed(grammar, begun).max() < FIRST_SPECIAL


def test_tokens_may_span_the_pieces_of_json(
    compiler: GrammarCompiler, held: Held, spelled: Spelled, tokenizer: Tokenizer
) -> None:
    def one(text: str) -> int:
        [token] = tokenizer.encode(text)
        return token

    grammar = compiler.compile(Turn((), TOOLS)).whole
    header = spelled("<|channel|>commentary to=functions.get_weather<|message|>")
    spanning = [one('{"'), one("city"), one('":"'), one("Rome"), one('"}'), CALL]
    assert held.accepts(grammar, [*header, *spanning])


def test_after_cut_reasoning_the_answer_follows_at_once(
    compiler: GrammarCompiler, held: Held, spelled: Spelled
) -> None:
    grammar = compiler.compile(Turn((), TOOLS)).after_reasoning
    begin = "<|start|>assistant"
    assert held.accepts(grammar, spelled(begin + FINAL))
    assert held.accepts(grammar, spelled(f"{begin}{PREAMBLE}{CALL_ROME}<|call|>"))
    assert not held.begins(grammar, spelled(f"{begin}<|channel|>analysis"))
    assert not held.begins(grammar, spelled("<|channel|>final"))
    plain = compiler.compile(Turn(())).after_reasoning
    assert held.accepts(plain, spelled(begin + FINAL))
    assert not held.begins(plain, spelled(f"{begin}<|channel|>commentary"))


def test_the_body_of_the_answer_has_the_format_and_calls_stay_possible(
    accepts: Callable[..., bool],
) -> None:
    fields: dict[str, Any] = {"output": OutputFormat("json_schema", schema=CITY)}
    assert accepts(f"{THOUGHT}<|channel|>final<|message|>{ROME}<|return|>", *TOOLS, **fields)
    assert accepts(f"{THOUGHT}{PREAMBLE}{CALL_ROME}<|call|>", *TOOLS, **fields)
    assert not accepts(FINAL, *TOOLS, **fields)


def test_a_format_that_cannot_be_reached_is_not_looked_at(compiler: GrammarCompiler) -> None:
    output = OutputFormat("regex", pattern="(")
    compiler.compile(Turn((), TOOLS, tool_choice=ToolChoice("required"), output=output))


@pytest.mark.parametrize("name", ["get_weather", "clock", "dotted.name", "\u00fcber", "a-b_c1"])
def test_text_alone_gives_the_same_grammar_as_the_compiler(
    compiler: GrammarCompiler, tokenizer: Tokenizer, name: str
) -> None:
    turn = Turn((), (ToolDefinition(name, parameters=CITY),))
    assert turn_grammar(turn, tokenizer) == compiler.compile(turn)
