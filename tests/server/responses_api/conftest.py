"""What tests of the Responses API share: short requests, tools, a server that runs tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import Response

# Sampling under which the scripted model thinks once and then calls, if it may, or answers.
THINK_ONCE: dict[str, Any] = {"temperature": 0, "extra_body": {"presence_penalty": 1.0}}
# Sampling under which it goes on until its tokens are used up: several seconds of work.
ENDLESS: dict[str, Any] = {"temperature": 0, "max_output_tokens": 1900}
HELLO: dict[str, Any] = {"model": "scripted", "input": "Hello", "tools": []}
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
SECRET = "the key of the server with tools"

Ask = Callable[..., Response]


def strict_client(url: str, api_key: str = "none", *, timeout: float = 30) -> OpenAI:
    """A client that refuses what is not as OpenAI's types say."""
    return OpenAI(
        base_url=f"{url}/v1",
        api_key=api_key,
        max_retries=0,
        timeout=timeout,
        _strict_response_validation=True,
    )


def asker(client: OpenAI) -> Ask:
    """Asks "Hello" without tools of a model that thinks once; each field can be changed."""

    def ask(**fields: Any) -> Response:
        return client.responses.create(**{**HELLO, **THINK_ONCE, **fields})

    return ask


def status(client: OpenAI, response_id: str) -> str | None:
    """How a stored response stands."""
    return client.responses.retrieve(response_id).status


def kinds(response: Response) -> list[str]:
    """The types of the output items."""
    return [item.type for item in response.output]


def as_input(response: Response) -> list[dict[str, Any]]:
    """The output items as a client sends them back."""
    return [item.to_dict(mode="json") for item in response.output]


def result_of(response: Response, output: Any = "Sunny.") -> dict[str, Any]:
    """The item with which a client answers the call at the end of a response."""
    call = response.output[-1]
    assert call.type in ("function_call", "custom_tool_call")
    return {"type": f"{call.type}_output", "call_id": call.call_id, "output": output}


def without_ids(value: Any) -> Any:
    """A JSON value without what is new in each response."""
    new = ("id", "call_id", "item_id", "response_id", "created_at", "completed_at")
    if isinstance(value, dict):
        return {key: without_ids(part) for key, part in value.items() if key not in new}
    return [without_ids(part) for part in value] if isinstance(value, list) else value


def comparable(output: Iterable[Any]) -> list[Any]:
    """Output items of a response; what is sealed is another text every time."""
    items: list[Any] = without_ids([item.to_dict() for item in output])
    for item in items:
        item.pop("encrypted_content", None)
    return items


@pytest.fixture(scope="session")
def ask(openai_client: OpenAI) -> Ask:
    return asker(openai_client)


@pytest.fixture(scope="session")
def count(openai_client: OpenAI) -> Callable[..., int]:
    """How many tokens the prompt of "Hello", or of other fields, has."""

    def tokens(**fields: Any) -> int:
        counted = openai_client.responses.input_tokens.count(**{**HELLO, **fields})
        return counted.input_tokens

    return tokens


@pytest.fixture(scope="session")
def tool_server(start_server: Any, server: Any) -> Any:
    """Runs the tools of the demo, also for MCP clients, and may contact this machine.

    It has the store of `server`.
    """
    store = server.log.parent / "data" / "ossia" / "responses.db"
    return start_server(
        *("--response-store", f"sqlite:///{store}"),
        *("--tool-server", "demo", "--enable-mcp-tool-server", "--api-key", SECRET),
        *("--allowed-host", "127.0.0.1"),
    )


@pytest.fixture(scope="session")
def tool_client(tool_server: Any) -> Iterator[OpenAI]:
    with strict_client(tool_server.url, SECRET) as client:
        yield client


@pytest.fixture(scope="session")
def ask_tools(tool_client: OpenAI) -> Ask:
    return asker(tool_client)
