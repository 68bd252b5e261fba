"""A turn as the token ids that the model continues.

    system message     identity, dates, effort, the tools that gpt-oss was trained on, channels
    developer message  instructions, tool declarations, the response format, where there are any
    the conversation   one message per item, chain of thought of ended turns left out
    <|start|>assistant where the model goes on

Headers have the form of the format guide (openai/harmony, docs/format.md): the recipient stands in
the role part, `assistant to=functions.f<|channel|>commentary json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ossia.harmony.builtins import render_builtins
from ossia.harmony.declarations import render_declarations
from ossia.harmony.history import ends_in_final, replay
from ossia.harmony.messages import render_message
from ossia.harmony.tokenizer import CALL, START, Tokenizer, replace_surrogates
from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Instructions,
    Item,
    OutputFormat,
    Reasoning,
    ToolCall,
    ToolResult,
    Turn,
    UserMessage,
)

CHANNELS = (
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
CHANNEL_OF_FUNCTIONS = "Calls to these tools must go to the commentary channel: 'functions'."


def render_prompt(turn: Turn, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the prompt, ending in `<|start|>assistant`. Equal turns give equal ids.

    Chain of thought (`Reasoning`, and analysis inside `GeneratedTokens`) is shown only after the
    last answer on the `final` channel: earlier turns are over and theirs is dropped, while the
    reasoning between the tool calls of the open turn stays.

    Raises:
        InvalidRequest: a tool that cannot be declared.
    """
    ids = render_message(tokenizer, "system", system_text(turn, tokenizer))
    developer = developer_text(turn, tokenizer)
    if developer:
        ids += render_message(tokenizer, "developer", developer)
    ended = _last_final(turn.items, tokenizer)
    for index, item in enumerate(turn.items):
        ids += _render_item(item, tokenizer, keep_reasoning=index > ended)
    return [*ids, START, *tokenizer.encode("assistant")]


def system_text(turn: Turn, tokenizer: Tokenizer) -> str:
    """The system message: who the model is, how it is to speak, the tools it was trained on."""
    head = [turn.identity, f"Knowledge cutoff: {turn.knowledge_cutoff}"]
    if turn.date is not None:
        head.append(f"Current date: {turn.date.isoformat()}")
    channels = f"{CHANNELS}\n{CHANNEL_OF_FUNCTIONS}" if turn.tools else CHANNELS
    sections = ["\n".join(head), f"Reasoning: {turn.effort.value}"]
    if turn.builtins:
        sections.append(render_builtins(turn.builtins, tokenizer))
    return "\n\n".join([*sections, channels])


def developer_text(turn: Turn, tokenizer: Tokenizer) -> str:
    """The developer message; maybe "".

    All instructions joined by empty lines, then the tools, then the response format.

    Raises:
        InvalidRequest: a tool that cannot be declared.
    """
    sections = []
    texts = [item.text for item in turn.items if isinstance(item, Instructions) and item.text]
    if texts:
        sections += ["# Instructions", *texts]
    if turn.tools:
        sections.append(render_declarations(turn.tools, tokenizer))
    if turn.output is not None:
        sections += response_format(turn.output)
    return "\n\n".join(sections)


def response_format(output: OutputFormat) -> list[str]:
    """The `# Response Formats` section, in parts between empty lines; none for what is no JSON.

    A plain JSON object is shown as the schema that it is: a model that knows that JSON is due plans
    its answer so, while one that learns it from the grammar alone is cut off in mid-sentence.
    Patterns, choices and grammars are not part of harmony; their users describe them in the prompt.
    """
    schema: object = output.schema
    name = output.name or "response"
    if output.kind == "json_object" or (output.kind == "json_schema" and schema is None):
        schema, name = {"type": "object"}, output.name or "json_object"
    elif output.kind != "json_schema":
        return []
    text = replace_surrogates(json.dumps(schema, ensure_ascii=False, separators=(",", ":")))
    comments = [f"// {line}" for line in replace_surrogates(output.description).splitlines()]
    return ["# Response Formats", f"## {name}", "\n".join([*comments, text])]


def _last_final(items: Sequence[Item], tokenizer: Tokenizer) -> int:
    """Index of the last item that ended a turn, -1 if none did."""
    for index in reversed(range(len(items))):
        item = items[index]
        if isinstance(item, AssistantMessage) and item.channel == "final":
            return index
        if isinstance(item, GeneratedTokens) and ends_in_final(item.token_ids, tokenizer):
            return index
    return -1


def _render_item(item: Item, tokenizer: Tokenizer, *, keep_reasoning: bool) -> list[int]:
    match item:
        case UserMessage(text):
            return render_message(tokenizer, "user", text)
        case Reasoning(text) if keep_reasoning and text:
            return render_message(tokenizer, "assistant", text, "analysis")
        case AssistantMessage(text, channel):
            return render_message(tokenizer, "assistant", text, channel)
        case ToolCall(name=name, arguments=arguments, builtin=True):
            return render_message(
                tokenizer, f"assistant to={name}", arguments, "analysis code", CALL
            )
        case ToolResult(name=name, output=output, builtin=True):
            return render_message(tokenizer, f"{name} to=assistant", output, "analysis")
        case ToolCall(name=name, arguments=arguments):
            role = f"assistant to=functions.{name}"
            return render_message(tokenizer, role, arguments, "commentary json", CALL)
        case ToolResult(name=name, output=output):
            role = f"functions.{name} to=assistant"
            return render_message(tokenizer, role, output, "commentary")
        case GeneratedTokens(token_ids):
            return replay(token_ids, tokenizer, keep_reasoning=keep_reasoning)
        case Instructions() | Reasoning():
            return []  # instructions all stand in the developer message
