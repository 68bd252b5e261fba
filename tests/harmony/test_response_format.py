"""The schema of the answer stands at the end of the developer message, as the format guide says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ossia.harmony.prompt import developer_text, render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import Instructions, OutputFormat, ToolDefinition, Turn, UserMessage

SHOPPING = {
    "properties": {
        "items": {
            "type": "array",
            "description": "entries on the shopping list",
            "items": {"type": "string"},
        }
    },
    "type": "object",
}
SHOPPING_TEXT = (
    '{"properties":{"items":{"type":"array","description":"entries on the shopping list",'
    '"items":{"type":"string"}}},"type":"object"}'
)
HELPFUL = Instructions("You are a helpful shopping assistant")


def test_the_shopping_list_of_the_format_guide(
    tokenizer: Tokenizer, spelled: Callable[[str], list[int]]
) -> None:
    output = OutputFormat("json_schema", schema=SHOPPING, name="shopping_list")
    turn = Turn((HELPFUL, UserMessage("I need to buy coffee, soda and eggs")), output=output)
    assert render_prompt(turn, tokenizer) == spelled(
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, "
        "final. Channel must be included for every message.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nYou are a helpful shopping assistant\n\n"
        f"# Response Formats\n\n## shopping_list\n\n{SHOPPING_TEXT}<|end|>"
        "<|start|>user<|message|>I need to buy coffee, soda and eggs<|end|><|start|>assistant"
    )


def test_the_description_is_a_comment_above_the_schema(tokenizer: Tokenizer) -> None:
    output = OutputFormat("json_schema", schema=True, name="any", description="One.\nTwo.")
    text = developer_text(Turn((), output=output), tokenizer)
    assert text == "# Response Formats\n\n## any\n\n// One.\n// Two.\ntrue"


def test_the_format_comes_after_the_tools(tokenizer: Tokenizer) -> None:
    turn = Turn((HELPFUL,), (ToolDefinition("f"),), output=OutputFormat("json_object"))
    text = developer_text(turn, tokenizer)
    headings = [line for line in text.splitlines() if line.startswith("# ")]
    assert headings == ["# Instructions", "# Tools", "# Response Formats"]
    assert text.endswith('\n\n## json_object\n\n{"type":"object"}')


def test_signs_of_all_languages_are_shown_as_they_are(tokenizer: Tokenizer) -> None:
    output = OutputFormat("json_schema", schema={"enum": ["Z\u00fcrich", "\ud800"]}, name="city")
    text = developer_text(Turn((), output=output), tokenizer)
    assert text.endswith('{"enum":["Z\u00fcrich","\ufffd"]}')


@pytest.mark.parametrize(
    "output",
    [
        None,
        OutputFormat("regex", pattern="a"),
        OutputFormat("choice", choices=("a",)),
        OutputFormat("lark", pattern='start: "a"'),
    ],
)
def test_what_is_no_json_is_left_to_the_instructions(
    tokenizer: Tokenizer, output: OutputFormat | None
) -> None:
    assert developer_text(Turn((), output=output), tokenizer) == ""
