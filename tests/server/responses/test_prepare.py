"""A request becomes a turn with its tools and what came before it, or is refused."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter, ValidationError

from ossia.errors import InvalidRequest, RequestError
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.responses.body import new_body
from ossia.server.responses.history import NotStored
from ossia.server.responses.prepare import PreparedTurn, prepare_turn, wire_items
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.transcript import decode_items, encode_items
from ossia.server.schema.responses import ResponsesRequest
from ossia.server.server_tools import ServerTools
from ossia.store.records import StoredConversation, StoredResponse
from ossia.store.store import Store
from ossia.tools.options import ToolOptions
from ossia.tools.registry import load_tools
from ossia.turn import GeneratedTokens, Instructions, ReasoningEffort, ToolCall, UserMessage

JsonObject = dict[str, Any]

pytestmark = pytest.mark.anyio


class StubService:
    """What a turn is prepared with, and nothing else of a server."""

    def __init__(self, store: Store, seal: ReasoningSeal) -> None:
        self.store = store
        self.seal = seal
        self.tools = ServerTools(load_tools(["demo"], ToolOptions()))

    def date(self) -> datetime.date | None:
        return datetime.date(2026, 11, 23)


@pytest.fixture
async def service(seal: ReasoningSeal) -> AsyncIterator[Any]:
    store = await Store.open("sqlite://")
    yield StubService(store, seal)
    await store.close()


async def prepare(service: Any, **body: Any) -> PreparedTurn:
    return await prepare_turn(service, ResponsesRequest.model_validate(body))


async def refusal(service: Any, **body: Any) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await prepare(service, **body)
    return refused.value


REQUEST = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "server_label": "demo",
    "name": "echo",
    "arguments": '{"text":"a"}',
}
YES = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
MCP = {"type": "mcp", "server_label": "demo"}
STORED = StoredResponse(
    id="resp_1",
    created_at=1,
    status="completed",
    background=False,
    previous_response_id=None,
    conversation_id=None,
    body={"output": [REQUEST]},
    input_items=[{"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "demo"}],
    transcript=encode_items([UserMessage("Hi"), GeneratedTokens((1, 2))]),
    settings={"date": "2026-01-02", "session": "s"},
)


async def test_a_text_becomes_a_turn(service: Any) -> None:
    prepared = await prepare(
        service,
        input="Hello",
        instructions="Be brief.",
        reasoning={"effort": "low"},
        tools=[],
        parallel_tool_calls=False,
    )
    turn = prepared.turn
    assert turn.items == (Instructions("Be brief."), UserMessage("Hello"))
    assert (turn.effort, turn.date) == (ReasoningEffort.LOW, datetime.date(2026, 11, 23))
    assert not turn.tools
    assert not turn.parallel_tool_calls
    assert prepared.new_items == [UserMessage("Hello")]
    assert prepared.settings == {"date": "2026-11-23"}


async def test_a_request_goes_on_with_what_was_frozen_then(service: Any) -> None:
    await service.store.begin(STORED)
    prepared = await prepare(
        service, input="And now?", previous_response_id="resp_1", instructions="New."
    )
    assert prepared.turn.items == (
        Instructions("New."),
        UserMessage("Hi"),
        GeneratedTokens((1, 2)),
        UserMessage("And now?"),
    )
    assert prepared.turn.date == datetime.date(2026, 1, 2)
    assert prepared.history.session == "s"
    assert prepared.new_items == [UserMessage("And now?")]


async def test_a_conversation_keeps_its_date(service: Any) -> None:
    said = {"id": "msg_1", "role": "user", "content": "Hi"}
    await service.store.create_conversation(
        StoredConversation("conv_1", 1, {}, {"date": None}), [said]
    )
    for form in ("conv_1", {"id": "conv_1"}):
        prepared = await prepare(service, input="And now?", conversation=form)
        assert prepared.turn.date is None
        assert prepared.turn.items == (UserMessage("Hi"), UserMessage("And now?"))
        assert prepared.conversation_id == "conv_1"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "mcp_list_tools"}]}, "input"),
        ({"input": "a", "conversation": "c", "previous_response_id": "r"}, "conversation"),
        ({"input": "a", "conversation": "c"}, "conversation"),
        ({"input": "a", "previous_response_id": "r"}, "previous_response_id"),
        ({"input": "a", "instructions": [{"role": "x", "content": ""}]}, "instructions[0].role"),
        ({"input": "a", "tools": [{"type": "function"}]}, "tools[0].name"),
        (
            {"input": "a", "text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
        ),
        ({"input": "a", "text": {"format": {"type": "regex"}}}, "text.format.pattern"),
    ],
)
async def test_what_cannot_be_had_is_refused(service: Any, body: JsonObject, param: str) -> None:
    refused = await refusal(service, **body)
    assert refused.param == param
    assert isinstance(refused, NotStored) == (body.get("conversation") == "c" and len(body) == 2)


async def test_tools_may_stand_among_the_items(service: Any) -> None:
    more = {"type": "additional_tools", "tools": [{"type": "function", "name": "news"}]}
    message = {"role": "user", "content": "Hi"}
    prepared = await prepare(service, input=[more, message], tools=[MCP])
    assert [tool.name for tool in prepared.turn.tools] == ["news", "calculator", "echo", "time"]
    prepared = await prepare(service, input=[more, message])
    assert [tool.name for tool in prepared.turn.tools] == ["news"]
    refused = await refusal(service, input=[more | {"tools": ["news"]}, message])
    assert refused.param == "tools[0]"


async def test_an_approved_call_is_to_run(service: Any) -> None:
    prepared = await prepare(service, input=[REQUEST, YES], tools=[MCP])
    assert prepared.approved == [ToolCall("mcpr_1", "echo", '{"text":"a"}')]
    await service.store.begin(STORED)
    prepared = await prepare(service, input=[YES], tools=[MCP], previous_response_id="resp_1")
    assert prepared.approved == [ToolCall("mcpr_1", "echo", '{"text":"a"}')]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [{"type": "function", "name": "echo"}]},
        {"tools": [MCP], "tool_choice": "none"},
    ],
    ids=["not declared", "a function of the client", "hidden"],
)
async def test_only_what_the_server_can_run_is_approved(service: Any, fields: JsonObject) -> None:
    assert (await refusal(service, input=[REQUEST, YES], **fields)).param == "tools"


async def test_a_call_of_a_tool_with_a_label_before_its_name_is_approved(service: Any) -> None:
    function = {"type": "function", "name": "echo"}
    prepared = await prepare(service, input=[REQUEST, YES], tools=[function, MCP])
    assert [call.name for call in prepared.approved] == ["demo.echo"]


async def test_tools_are_not_listed_again(service: Any) -> None:
    listed = {"type": "mcp_list_tools", "server_label": "demo", "tools": []}
    prepared = await prepare(service, input=[listed, {"role": "user", "content": "Hi"}])
    assert prepared.history.listed == {"demo"}
    await service.store.begin(STORED)
    prepared = await prepare(service, input="Hi", previous_response_id="resp_1")
    assert prepared.history.listed == {"demo"}


def test_items_are_completed_for_lists() -> None:
    given: list[JsonObject] = [
        {"role": "user", "content": "Hi", "id": None},
        {"role": "assistant", "content": "Hello"},
        {"type": "function_call_output", "id": "mine", "call_id": "c", "output": "x"},
        {"role": "user", "content": ["a", {"type": "input_text", "text": "b"}], "id": 5},
    ]
    [user, assistant, output, parts] = wire_items(given)
    assert user["id"].startswith("msg_")
    assert user["content"] == [{"type": "input_text", "text": "Hi"}]
    assert assistant["content"] == [{"type": "output_text", "text": "Hello", "annotations": []}]
    assert output["id"] == "mine"
    assert parts["id"].startswith("msg_")
    assert [part["text"] for part in parts["content"]] == ["a", "b"]
    [text] = wire_items("Hi")
    for item in (user, assistant, output, parts, text):
        TypeAdapter(ResponseItem).validate_python(item)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
words = st.sampled_from(
    ["type", "text", "role", "content", "function", "message", "user", "name", "tools", "id"]
)
anything = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
texts = st.text(st.characters(codec="utf-8"), max_size=3)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "developer"]), "content": texts},
    optional=dict.fromkeys(("id", "phase", "status", "more"), anything),
)
more = st.fixed_dictionaries({"type": st.just("additional_tools"), "tools": anything})
objects = st.dictionaries(words, anything, max_size=3)
functions = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "web_search"]), "name": st.just("f")},
    optional={"parameters": objects, **dict.fromkeys(("strict", "description", "more"), anything)},
)
formats = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema", "regex"]), "schema": objects},
    optional={"name": st.just("n"), "pattern": texts},
)
bodies = st.fixed_dictionaries(
    {"input": texts | st.lists(messages | messages | more | objects, max_size=2)},
    optional={
        "instructions": texts,
        "tools": st.lists(functions | functions | objects, max_size=1),
        "tool_choice": st.sampled_from(["auto", "none"]) | objects,
        "metadata": st.dictionaries(texts, texts, max_size=2),
        "text": st.fixed_dictionaries({"format": formats}),
        "include": st.lists(texts, max_size=2),
        "temperature": st.floats(0, 2),
        "user": texts,
    },
)


@pytest.mark.filterwarnings("error")
@settings(max_examples=100)
@given(bodies)
def test_any_body_becomes_a_turn_or_is_refused(
    seal: ReasoningSeal, tokenizer: Tokenizer, body: JsonObject
) -> None:
    try:
        request = ResponsesRequest.model_validate_json(json.dumps(body))
    except ValidationError:
        event("not of the schema")
        return  # has its own tests

    async def prepared() -> PreparedTurn | RequestError:
        store = await Store.open("sqlite://")
        try:
            return await prepare_turn(StubService(store, seal), request)  # type: ignore[arg-type]
        except RequestError as refused:
            return refused
        finally:
            await store.close()

    found = asyncio.run(prepared())
    if isinstance(found, RequestError):
        event("refused")
        assert found.message
        return
    event("a turn")
    assert decode_items(encode_items(found.new_items)) == found.new_items
    for item in msgspec.json.decode(msgspec.json.encode(found.input_items)):
        assert isinstance(item["id"], str)
        assert isinstance(item["type"], str)
    shown = new_body(request, "resp_1", "m", None)
    if shown["text"]["format"]["type"] == "regex":  # which is ours
        shown["text"] = {}
    Response.model_validate_json(msgspec.json.encode(shown))
    try:
        assert render_prompt(found.turn, tokenizer)
    except InvalidRequest as refused:
        assert refused.param is None or refused.param.startswith("tools")  # noqa: PT017
