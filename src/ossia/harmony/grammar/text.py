"""What the model may write in one turn, as a grammar over token ids.

    turn     := (analysis | preamble){0,16} (final | calls)
    analysis := <|channel|>analysis<|message|> text <|end|><|start|>assistant
    preamble := <|channel|>commentary<|message|> text <|end|><|start|>assistant
    final    := <|channel|>final<|message|> body <|return|>
    calls    := call (<|end|><|start|>assistant call)* <|call|> | builtin <|call|>
    call     :=  to=functions.NAME<|channel|>commentary type <|message|> arguments
              | <|channel|>commentary to=functions.NAME type <|message|> arguments
    builtin  := the same on analysis, to=NAME, of type code as well: tools gpt-oss was trained on
    type     := nothing |  json | <|constrain|>json |  <|constrain|>json

Headers are token ids in the one spelling that the tokenizer gives them. Text is any ordinary token,
at least one, so that the mask inside of text is always the same. Arguments and a formatted body are
grammars of their own, named by `@`. Where the answer has a format, preambles may only stand right
before calls: both are visible text, and nothing but the format belongs there. What a turn does not
have (no tools: no calls, no preambles) is not in its grammar.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ossia.errors import InvalidRequest
from ossia.harmony.grammar.formats import Part, arguments_part, output_part
from ossia.harmony.grammar.paths import CHAT_PATHS, FieldPaths
from ossia.harmony.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
    replace_surrogates,
)
from ossia.turn import ToolDefinition, Turn

MAX_MESSAGES = 16  # before the last one: thoughts and preambles
MAX_CALLS = 32  # in one turn
MAX_FUNCTIONS = 1_024  # that may be called in one turn


@dataclass(frozen=True, slots=True)
class TurnGrammar:
    """Grammars of llguidance (JSON text) for one turn.

    `whole` begins after the prompt's `<|start|>assistant`. `after_reasoning` begins after the
    `<|end|>` of an analysis message that was cut short, and allows no further analysis.
    """

    whole: str
    after_reasoning: str


def turn_grammar(turn: Turn, tokenizer: Tokenizer, paths: FieldPaths = CHAT_PATHS) -> TurnGrammar:
    """The grammar of this turn. Cheap: llguidance is not asked whether it can be compiled.

    Raises:
        InvalidRequest: a tool choice without such a tool, or a format that cannot be enforced;
            `paths` names the fields as the API at hand does.
    """
    return join_parts(turn, tokenizer, turn_parts(turn, paths))


def turn_parts(turn: Turn, paths: FieldPaths) -> list[Part]:
    """The grammars inside of the turn's: of the arguments, and of a formatted final body.

    Raises:
        InvalidRequest: as `turn_grammar`.
    """
    parts = [
        arguments_part(
            f"arguments_{index}", turn.tools[index], turn.tools[index].path or paths.tool(index)
        )
        for index in _callable(turn, paths)
    ]
    for number, builtin in enumerate(turn.builtins):
        if _may_call_builtins(turn) and builtin.parameters is not None:
            as_function = ToolDefinition(builtin.name, "", builtin.parameters)
            parts.append(arguments_part(f"builtin_{number}", as_function, paths.tools))
    if turn.output is not None and _may_end_in_final(turn):
        parts.append(output_part("body", turn.output, paths))
    return parts


def join_parts(turn: Turn, tokenizer: Tokenizer, parts: Sequence[Part]) -> TurnGrammar:
    """The rules of the turn and the grammars inside of it."""
    of_tools = [part.name for part in parts if part.name.startswith("arguments_")]
    indices = [int(name.removeprefix("arguments_")) for name in of_tools]
    writer = _TurnWriter(turn, indices, tokenizer)
    inner = [part.grammar() for part in parts]
    return TurnGrammar(
        whole=join_grammars(writer.whole(), inner),
        after_reasoning=join_grammars(writer.after_reasoning(), inner),
    )


def join_grammars(lark: str, named: Sequence[dict[str, Any]]) -> str:
    """One grammar of llguidance: Lark rules, and the grammars that they name."""
    grammars = [{"lark_grammar": lark}, *named]
    text = json.dumps({"grammars": grammars}, ensure_ascii=False, separators=(",", ":"))
    return replace_surrogates(text)


def _callable(turn: Turn, paths: FieldPaths) -> list[int]:
    """Indices of the tools that may be called."""
    names = turn.tool_choice.names
    missing = set(names or ()) - {tool.name for tool in turn.tools}
    if missing:
        raise InvalidRequest(
            f"The tool choice names {min(missing)!r}, which is not among the tools; "
            "declare it or choose another.",
            param=paths.tool_choice,
        )
    indices = [i for i, tool in enumerate(turn.tools) if names is None or tool.name in names]
    if len(indices) > MAX_FUNCTIONS:
        raise InvalidRequest(
            f"There are {len(indices)} functions to call; at most {MAX_FUNCTIONS} are possible.",
            param=paths.tools,
        )
    if turn.tool_choice.mode == "required" and not (indices or _may_call_builtins(turn)):
        raise InvalidRequest(
            "The tool choice requires a call, but there is no tool that may be called; "
            "declare one or choose 'auto'.",
            param=paths.tool_choice,
        )
    return indices


def _may_end_in_final(turn: Turn) -> bool:
    return turn.tool_choice.mode == "auto"


def _may_call_builtins(turn: Turn) -> bool:
    return bool(turn.builtins) and turn.tool_choice.builtins


class _TurnWriter:
    """Writes the rules of one turn in llguidance's variant of Lark."""

    def __init__(self, turn: Turn, tools: Sequence[int], tokenizer: Tokenizer) -> None:
        self._turn = turn
        self._tools = tools  # indices of those that may be called
        self._builtins = turn.builtins if _may_call_builtins(turn) else ()
        self._tokenizer = tokenizer

    def whole(self) -> str:
        """The grammar of the turn from its first token."""
        times = f"{{0,{MAX_MESSAGES}}}"
        if not self._has_calls or self._turn.output is not None:
            return self._rules(f"analysis{times} last", analysis=True)
        return self._rules(f"(analysis | preamble){times} last", analysis=True)

    def after_reasoning(self) -> str:
        """The same without analysis, from the start of a message."""
        before = self._preambles() if self._has_calls and self._turn.output is None else ""
        return self._rules(f"begin {before}last", analysis=False)

    @property
    def _has_calls(self) -> bool:
        return bool(self._tools or self._builtins)

    def _preambles(self) -> str:
        return f"preamble{{0,{MAX_MESSAGES}}} "

    def _rules(self, start: str, *, analysis: bool) -> str:
        rules = {"start": start, "begin": f"{_id(START)} {self._ids('assistant')}"}
        rules["text"] = f"<[0-{FIRST_SPECIAL - 1}]>+"
        if analysis:
            rules["analysis"] = self._message("analysis")
        last = []
        if _may_end_in_final(self._turn):
            last.append("final")
            body = "text" if self._turn.output is None else "@body"
            rules["final"] = f"{self._header('final')} {body} {_id(RETURN)}"
        if self._has_calls:
            # A preamble is visible text: where the answer has a format, it may not stand before it.
            last.append("calls" if self._turn.output is None else f"{self._preambles()}calls")
            rules["preamble"] = self._message("commentary")
            rules |= self._calls()
        rules["last"] = " | ".join(last)
        return "".join(f"{name}: {body}\n" for name, body in rules.items())

    def _message(self, channel: str) -> str:
        return f"{self._header(channel)} text {_id(END)} begin"

    def _header(self, channel: str) -> str:
        return f"{_id(CHANNEL)} {self._ids(channel)} {_id(MESSAGE)}"

    def _calls(self) -> dict[str, str]:
        more = f" ({_id(END)} begin call){{0,{MAX_CALLS - 1}}}"
        kinds = []
        rules = {}
        if self._tools:
            kinds.append(f"call{more if self._turn.parallel_tool_calls else ''}")
            rules["call"] = " | ".join(f"call_{index}" for index in self._tools)
        if self._builtins:
            kinds.append("builtin")
            names = (f"builtin_call_{number}" for number in range(len(self._builtins)))
            rules["builtin"] = " | ".join(names)
        rules["calls"] = f"({' | '.join(kinds)}) {_id(CALL)}"
        for index in self._tools:
            header = self._call_header(f"functions.{self._turn.tools[index].name}", "commentary")
            rules[f"call_{index}"] = f"{header} type? {_id(MESSAGE)} @arguments_{index}"
        for number, tool in enumerate(self._builtins):
            header = self._call_header(tool.name, "analysis")
            body = "text" if tool.parameters is None else f"@builtin_{number}"
            code = f"(type | {self._ids(' code')})?"
            rules[f"builtin_call_{number}"] = f"{header} {code} {_id(MESSAGE)} {body}"
        constrained = f"{self._ids(' ')}? {_id(CONSTRAIN)} {self._ids('json')}"
        rules["type"] = f"{self._ids(' json')} | {constrained}"
        return rules

    def _call_header(self, recipient: str, channel: str) -> str:
        to, on = self._ids(f" to={recipient}"), f"{_id(CHANNEL)} {self._ids(channel)}"
        return f"({to} {on} | {on} {to})"

    def _ids(self, text: str) -> str:
        return " ".join(map(_id, self._tokenizer.encode(text)))


def _id(token: int) -> str:
    return f"<[{token}]>"
