"""A conversation is one prompt, whichever API it comes by and in whichever pieces."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from openai import OpenAI

from ossia.config import ServerConfig
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import CHANNEL, END, MESSAGE, RETURN, START, Tokenizer
from ossia.server.chat_turn import chat_turn
from ossia.server.responses.prepare import prepare_turn
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.transcript import encode_items
from ossia.server.schema.responses import TurnOptions
from ossia.server.schema.tokenization import TokenizeRequest
from ossia.server.server_tools import ServerTools, server_tools
from ossia.server.service import Service
from ossia.store.records import StoredResponse
from ossia.store.sealing import Sealer
from ossia.store.store import Store
from ossia.turn import GeneratedTokens, Item, UserMessage

from .conftest import WEATHER, Ask, as_input, result_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {
    "type": "function",
    "function": {name: value for name, value in WEATHER.items() if name != "type"},
}


@dataclass(frozen=True)
class Conversation:
    """The same in the words of both APIs."""

    messages: list[dict[str, Any]]
    items: list[dict[str, Any]]
    chat: dict[str, Any] = field(default_factory=dict)  # further fields
    responses: dict[str, Any] = field(default_factory=dict)


def both(*messages: dict[str, Any], **fields: Any) -> Conversation:
    """Plain messages are spelled the same."""
    return Conversation(list(messages), list(messages), **fields)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat_call(call_id: str, city: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": f'{{"city":"{city}"}}'}
    return {"id": call_id, "type": "function", "function": function}


def item_call(call_id: str, city: str) -> dict[str, Any]:
    arguments = f'{{"city":"{city}"}}'
    return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": arguments}


def reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "Sunny."}


TOOLS: dict[str, Any] = {"chat": {"tools": [CHAT_TOOL]}, "responses": {"tools": [WEATHER]}}
CONVERSATIONS = {
    "question": both(user("Hello")),
    "instructions": both(
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": "Be brief."},
        user("Hello"),
    ),
    "instructions as a field": Conversation(
        [{"role": "system", "content": "Be brief."}, user("Hello")],
        [user("Hello")],
        responses={"instructions": "Be brief."},
    ),
    "answered": both(user("Hello"), {"role": "assistant", "content": "Hi."}, user("And you?")),
    "parts": Conversation(
        [{"role": "user", "content": [{"type": "text", "text": text} for text in ("One", "Two")]}],
        [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": text} for text in ("One", "Two")],
            }
        ],
    ),
    "thought of an ended turn": Conversation(
        [user("Hello"), {"role": "assistant", "content": "Hi.", "reasoning": "Hm."}, user("And?")],
        [user("Hello"), reasoning("Hm."), {"role": "assistant", "content": "Hi."}, user("And?")],
    ),
    "call": Conversation(
        [
            user("Hello"),
            {"role": "assistant", "reasoning": "Hm.", "tool_calls": [chat_call("1", "Paris")]},
            {"role": "tool", "tool_call_id": "1", "content": "Sunny."},
        ],
        [user("Hello"), reasoning("Hm."), item_call("1", "Paris"), output("1")],
        **TOOLS,
    ),
    "two calls after a preamble": Conversation(
        [
            user("Hello"),
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [chat_call("1", "Paris"), chat_call("2", "Rome")],
            },
            {"role": "tool", "tool_call_id": "1", "content": "Sunny."},
            {"role": "tool", "tool_call_id": "2", "content": "Sunny."},
        ],
        [
            user("Hello"),
            {"role": "assistant", "content": "I look.", "phase": "commentary"},
            item_call("1", "Paris"),
            item_call("2", "Rome"),
            output("1"),
            output("2"),
        ],
        **TOOLS,
    ),
    "tools and effort": both(
        user("Hello"),
        chat={"tools": [CHAT_TOOL], "reasoning_effort": "high"},
        responses={"tools": [WEATHER], "reasoning": {"effort": "high"}},
    ),
    "tools that are hidden": both(
        user("Hello"),
        chat={"tools": [CHAT_TOOL], "tool_choice": "none"},
        responses={"tools": [WEATHER], "tool_choice": "none"},
    ),
    "form of the answer": both(
        user("Hello"),
        chat={
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
            }
        },
        responses={
            "text": {
                "format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
            }
        },
    ),
}
each_conversation = pytest.mark.parametrize(
    "conversation", CONVERSATIONS.values(), ids=CONVERSATIONS
)


@each_conversation
def test_both_apis_count_the_same_tokens(
    conversation: Conversation, server: Any, openai_client: OpenAI, count: Any
) -> None:
    body = {"messages": conversation.messages, **conversation.chat}
    tokenized = httpx.post(server.url + "/tokenize", json=body, timeout=30).json()
    assert count(input=conversation.items, **conversation.responses) == tokenized["count"]


@each_conversation
def test_both_apis_bill_the_same_tokens(
    conversation: Conversation, openai_client: OpenAI, ask: Ask
) -> None:
    answered = openai_client.chat.completions.create(
        model="scripted",
        messages=cast("Any", conversation.messages),
        max_completion_tokens=1,
        **conversation.chat,
    )
    response = ask(input=conversation.items, **conversation.responses, max_output_tokens=1)
    assert answered.usage is not None
    assert response.usage.input_tokens == answered.usage.prompt_tokens


def test_a_conversation_that_went_on_here_is_the_same_in_every_form(
    openai_client: OpenAI, ask: Ask, server: Any, script: Any, count: Any
) -> None:
    conversation = openai_client.conversations.create()
    called = ask(input="Weather?", tools=[WEATHER])
    ask(input="Weather?", tools=[WEATHER], conversation=conversation.id)
    in_conversation = next(iter(openai_client.conversations.items.list(conversation.id)))
    answered = ask(input=[result_of(called)], previous_response_id=called.id)
    ask(
        input=[{**result_of(called), "call_id": in_conversation.call_id}],
        conversation=conversation.id,
    )
    items = [user("Weather?"), *as_input(called), result_of(called), *as_input(answered)]
    messages = [
        user("Weather?"),
        {
            "role": "assistant",
            "reasoning": script.reasoning,
            "tool_calls": [chat_call("1", "Paris")],
        },
        {"role": "tool", "tool_call_id": "1", "content": "Sunny."},
        {"role": "assistant", "reasoning": script.reasoning, "content": script.answer},
        user("Hello"),
    ]
    tokenized = httpx.post(server.url + "/tokenize", json={"messages": messages}, timeout=30).json()
    assert {
        count(input=[*items, user("Hello")]),
        count(previous_response_id=answered.id),
        count(conversation=conversation.id),
    } == {tokenized["count"]}


@dataclass
class Stub:
    """As much of a service as a prompt needs."""

    tokenizer: Tokenizer
    tools: ServerTools
    store: Store
    seal: ReasoningSeal
    today: datetime.date

    def date(self) -> datetime.date:
        return self.today


async def stub(path: Path, tokenizer: Tokenizer) -> Stub:
    return Stub(
        tokenizer,
        server_tools(ServerConfig()),
        await Store.open(f"sqlite:///{path / 'responses.db'}"),
        ReasoningSeal(Sealer.from_secret("a secret of this test")),
        datetime.date(2025, 1, 2),
    )


async def prompt_of(service: Stub, **fields: Any) -> list[int]:
    """The ids that a request to the Responses API becomes."""
    request = TurnOptions.model_validate({"tools": [], **fields})
    prepared = await prepare_turn(cast("Service", service), request)
    return render_prompt(prepared.turn, service.tokenizer)


def chat_prompt(service: Stub, date: datetime.date, **fields: Any) -> list[int]:
    """The ids that a request to Chat Completions becomes."""
    request = TokenizeRequest.model_validate(fields)
    return render_prompt(chat_turn(request.messages or (), request, date), service.tokenizer)


@each_conversation
def test_both_apis_make_the_same_token_ids(
    conversation: Conversation, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    async def run() -> None:
        service = await stub(tmp_path, tokenizer)
        try:
            ids = await prompt_of(service, input=conversation.items, **conversation.responses)
            messages = conversation.messages
            assert ids == chat_prompt(
                service, service.today, messages=messages, **conversation.chat
            )
        finally:
            await service.store.close()

    asyncio.run(run())


def test_a_stored_chain_keeps_the_date_of_its_first_response(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def said(text: str) -> list[int]:
        return tokenizer.encode(text)

    written = [CHANNEL, *said("analysis"), MESSAGE, *said("Hm."), END, START, *said("assistant")]
    written += [CHANNEL, *said("final"), MESSAGE, *said("Hi."), RETURN]
    items: list[Item] = [UserMessage("Hello"), GeneratedTokens(tuple(written))]
    first_day = datetime.date(2025, 1, 1)

    async def run() -> None:
        service = await stub(tmp_path, tokenizer)
        try:
            stored = StoredResponse(
                id="resp_1",
                created_at=1_735_689_600,
                status="in_progress",
                background=False,
                previous_response_id=None,
                conversation_id=None,
                body={"id": "resp_1", "output": []},
                input_items=[],
                transcript=encode_items(items),
                settings={"date": first_day.isoformat(), "session": "resp_1"},
            )
            await service.store.begin(stored)
            await service.store.finish(replace(stored, status="completed"))
            ids = await prompt_of(service, input="And?", previous_response_id="resp_1")
        finally:
            await service.store.close()
        messages = [user("Hello"), {"role": "assistant", "content": "Hi."}, user("And?")]
        assert ids == chat_prompt(service, first_day, messages=messages)
        assert ids != chat_prompt(service, service.today, messages=messages)

    asyncio.run(run())
