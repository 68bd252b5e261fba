"""The examples of the harmony format guide, asked for through Chat Completions.

Every prompt of the guide (openai/harmony, docs/format.md) is what a request becomes. Three things
differ on purpose. The guide breaks lines between some messages for reading. It shows a call with
the header that the model wrote; a call that a client sends is rendered as openai-harmony 0.0.8
does, with the recipient in the role part (what the model wrote itself is reused as it was, see
tests/harmony/test_prompt.py). And in its example of a response format a search and replace has put
"Reasoning: high" where the name of the format belongs.

The guide's prompts with built-in tools have no request: Chat Completions has no such tools.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ossia.harmony import tokenizer as tokens
from ossia.harmony.tokenizer import Tokenizer

SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-06-28\n\nReasoning: {effort}\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
WITH_FUNCTIONS = "\nCalls to these tools must go to the commentary channel: 'functions'."
FORMAT = {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}


def function(name: str, description: str, properties: dict[str, Any] | None = None) -> Any:
    declared: dict[str, Any] = {"name": name, "description": description}
    if properties is not None:
        required = [key for key in properties if key != "format"]
        declared["parameters"] = {
            "type": "object",
            "properties": properties,
            "required": required,
        }
    return {"type": "function", "function": declared}


LOCATION = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
LOCATIONS = {
    "type": "array",
    "items": {"type": "string"},
    "description": 'List of city and state, e.g. ["San Francisco, CA", "New York, NY"]',
}
TOOLS = [
    function("get_location", "Gets the location of the user."),
    function(
        "get_current_weather",
        "Gets the current weather in the provided location.",
        {"location": LOCATION, "format": FORMAT},
    ),
    function(
        "get_multiple_weathers",
        "Gets the current weather in the provided list of locations.",
        {"locations": LOCATIONS, "format": FORMAT},
    ),
]
ONE_DECLARED = """# Tools

## functions

namespace functions {

// Gets the current weather in the provided location.
type get_current_weather = (_: {
// The city and state, e.g. San Francisco, CA
location: string,
format?: "celsius" | "fahrenheit", // default: celsius
}) => any;

} // namespace functions<|end|>"""
DECLARED = """# Tools

## functions

namespace functions {

// Gets the location of the user.
type get_location = () => any;

// Gets the current weather in the provided location.
type get_current_weather = (_: {
// The city and state, e.g. San Francisco, CA
location: string,
format?: "celsius" | "fahrenheit", // default: celsius
}) => any;

// Gets the current weather in the provided list of locations.
type get_multiple_weathers = (_: {
// List of city and state, e.g. ["San Francisco, CA", "New York, NY"]
locations: string[],
format?: "celsius" | "fahrenheit", // default: celsius
}) => any;

} // namespace functions<|end|>"""
TONE = "<|start|>developer<|message|># Instructions\n\nUse a friendly tone.\n\n"
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


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def developer(text: str) -> dict[str, Any]:
    return {"role": "developer", "content": text}


def call(call_id: str, name: str, arguments: str, **message: Any) -> dict[str, Any]:
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls, **message}


def result(call_id: str, output: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": output}


def shopping_list(**format_fields: str) -> dict[str, Any]:
    schema = {"name": "shopping_list", "schema": SHOPPING, **format_fields}
    return {
        "messages": [
            developer("You are a helpful shopping assistant"),
            user("I need to buy coffee, soda and eggs"),
        ],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


SUM = "<|start|>user<|message|>What is 2 + 2?<|end|>"
ASK = "<|start|>user<|message|>What is the weather like in SF?<|end|>"
GUIDE: dict[str, tuple[dict[str, Any], str]] = {
    "chat conversation": (
        {"messages": [user("What is 2 + 2?")]},
        SYSTEM.format(effort="medium") + f"<|end|>{SUM}",
    ),
    "reasoning of an answered question is dropped": (
        {
            "messages": [
                user("What is 2 + 2?"),
                {
                    "role": "assistant",
                    "reasoning": 'User asks: "What is 2 + 2?" Simple arithmetic. Provide answer.',
                    "content": "2 + 2 = 4.",
                },
                user("What about 9 / 2?"),
            ]
        },
        SYSTEM.format(effort="medium")
        + f"<|end|>{SUM}"
        + "<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|end|>"
        + "<|start|>user<|message|>What about 9 / 2?<|end|>",
    ),
    "developer message": (
        {"messages": [developer("{instructions}"), user("Hi")], "reasoning_effort": "low"},
        SYSTEM.format(effort="low")
        + "<|end|><|start|>developer<|message|># Instructions\n\n{instructions}<|end|>"
        + "<|start|>user<|message|>Hi<|end|>",
    ),
    "functions": (
        {
            "messages": [
                developer("Use a friendly tone."),
                user("What is the weather like in SF?"),
            ],
            "tools": TOOLS,
            "reasoning_effort": "high",
        },
        SYSTEM.format(effort="high") + WITH_FUNCTIONS + f"<|end|>{TONE}{DECLARED}{ASK}",
    ),
    "handling a call": (
        {
            "messages": [
                developer("Use a friendly tone."),
                user("What is the weather like in SF?"),
                call(
                    "1",
                    "get_weather",
                    '{"location":"San Francisco"}',
                    reasoning="Need to use function get_weather.",
                ),
                result("1", '{"sunny": true, "temperature": 20}'),
            ],
            "tools": TOOLS,
            "reasoning_effort": "high",
        },
        SYSTEM.format(effort="high")
        + WITH_FUNCTIONS
        + f"<|end|>{TONE}{DECLARED}{ASK}"
        + "<|start|>assistant<|channel|>analysis<|message|>Need to use function get_weather.<|end|>"
        + "<|start|>assistant to=functions.get_weather<|channel|>commentary json"
        + '<|message|>{"location":"San Francisco"}<|call|>'
        + "<|start|>functions.get_weather to=assistant<|channel|>commentary"
        + '<|message|>{"sunny": true, "temperature": 20}<|end|>',
    ),
    "preamble": (
        {
            "messages": [
                user("Make me a page."),
                call(
                    "1",
                    "generate_file",
                    '{"template": "basic_html", "path": "index.html"}',
                    content="**Action plan**:\n1. Generate an HTML file",
                    reasoning_content="{long chain of thought}",
                ),
                result("1", "ok"),
            ],
            "tools": TOOLS[:1],
        },
        SYSTEM.format(effort="medium")
        + WITH_FUNCTIONS
        + "<|end|><|start|>developer<|message|># Tools\n\n## functions\n\nnamespace functions {\n\n"
        + "// Gets the location of the user.\ntype get_location = () => any;\n\n"
        + "} // namespace functions<|end|><|start|>user<|message|>Make me a page.<|end|>"
        + "<|start|>assistant<|channel|>analysis<|message|>{long chain of thought}<|end|>"
        + "<|start|>assistant<|channel|>commentary<|message|>**Action plan**:\n"
        + "1. Generate an HTML file<|end|>"
        + "<|start|>assistant to=functions.generate_file<|channel|>commentary json"
        + '<|message|>{"template": "basic_html", "path": "index.html"}<|call|>'
        + "<|start|>functions.generate_file to=assistant<|channel|>commentary<|message|>ok<|end|>",
    ),
    "conversation of the renderer's example": (
        {
            "messages": [
                developer("Always respond in riddles"),
                user("What is the weather in Tokyo?"),
                call(
                    "1",
                    "get_current_weather",
                    '{"location": "Tokyo"}',
                    reasoning='User asks: "What is the weather in Tokyo?" '
                    "We need to use get_weather tool.",
                ),
                result("1", '{ "temperature": 20, "sunny": true }'),
            ],
            "tools": TOOLS[1:2],
            "reasoning_effort": "high",
        },
        SYSTEM.format(effort="high")
        + WITH_FUNCTIONS
        + "<|end|><|start|>developer<|message|># Instructions\n\nAlways respond in riddles\n\n"
        + ONE_DECLARED
        + "<|start|>user<|message|>What is the weather in Tokyo?<|end|>"
        + "<|start|>assistant<|channel|>analysis<|message|>"
        + 'User asks: "What is the weather in Tokyo?" We need to use get_weather tool.<|end|>'
        + "<|start|>assistant to=functions.get_current_weather<|channel|>commentary json"
        + '<|message|>{"location": "Tokyo"}<|call|>'
        + "<|start|>functions.get_current_weather to=assistant<|channel|>commentary"
        + '<|message|>{ "temperature": 20, "sunny": true }<|end|>',
    ),
    "response format": (
        shopping_list(),
        SYSTEM.format(effort="medium")
        + "<|end|><|start|>developer<|message|># Instructions\n\n"
        + "You are a helpful shopping assistant\n\n# Response Formats\n\n## shopping_list\n\n"
        + f"{SHOPPING_TEXT}<|end|>"
        + "<|start|>user<|message|>I need to buy coffee, soda and eggs<|end|>",
    ),
    "response format with a description": (
        shopping_list(description="What to buy"),
        SYSTEM.format(effort="medium")
        + "<|end|><|start|>developer<|message|># Instructions\n\n"
        + "You are a helpful shopping assistant\n\n# Response Formats\n\n## shopping_list\n\n"
        + f"// What to buy\n{SHOPPING_TEXT}<|end|>"
        + "<|start|>user<|message|>I need to buy coffee, soda and eggs<|end|>",
    ),
}


@pytest.fixture(scope="module")
def http(serve: Callable[..., str]) -> Iterator[httpx.Client]:
    url = serve("--prompt-date", "2025-06-28")
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def spelled() -> Callable[[str], list[int]]:
    """Token ids of a text in which markers such as <|start|> mean the special tokens."""
    tokenizer = Tokenizer()

    def ids(text: str) -> list[int]:
        out: list[int] = []
        for part in re.split(r"(<\|[a-z]+\|>)", text):
            marker = re.fullmatch(r"<\|([a-z]+)\|>", part)
            out += [getattr(tokens, marker[1].upper())] if marker else tokenizer.encode(part)
        return out

    return ids


@pytest.mark.parametrize("name", GUIDE)
def test_a_request_becomes_the_prompt_of_the_guide(
    http: httpx.Client, spelled: Callable[[str], list[int]], name: str
) -> None:
    body, text = GUIDE[name]
    expected = f"{text}<|start|>assistant"
    ids = http.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["text"] == expected
    assert ids == spelled(expected)
    answer = http.post("/v1/chat/completions", json={**body, "max_tokens": 1}).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)
