"""A request goes on with the tokens of what came before it, and with the client's items else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ossia.errors import InvalidRequest
from ossia.server.responses.history import History, history_of_conversation, history_of_response
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.transcript import encode_items
from ossia.store.records import StoredConversation, StoredResponse
from ossia.store.store import Store
from ossia.turn import AssistantMessage, GeneratedTokens, Item, ToolCall, ToolResult, UserMessage

JsonObject = dict[str, Any]

pytestmark = pytest.mark.anyio

ASKED = {"id": "msg_1", "type": "message", "role": "user", "content": "Weather?"}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "weather"}
CALL |= {"arguments": "{}", "status": "completed"}
OUTPUT = {"id": "fco_1", "type": "function_call_output", "call_id": "c1", "output": "sun"}
SAID = {
    "id": "msg_2",
    "type": "message",
    "role": "assistant",
    "phase": "final_answer",
    "content": [{"type": "output_text", "text": "Sun.", "annotations": []}],
}
REQUEST = {
    "id": "mcpr_1",
    "type": "mcp_approval_request",
    "server_label": "files",
    "name": "delete",
    "arguments": '{"path":"a"}',
}
YES = {
    "id": "mcpa_1",
    "type": "mcp_approval_response",
    "approval_request_id": "mcpr_1",
    "approve": True,
}
RAN = {
    **{key: value for key, value in REQUEST.items() if key != "id"},
    "id": "mcp_1",
    "type": "mcp_call",
    "approval_request_id": "mcpr_1",
    "output": "gone",
}
LISTED = {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "files", "tools": []}
UNLISTED = LISTED | {"id": "mcpl_2", "server_label": "away", "error": "It is away."}
CALLING, ANSWERING = GeneratedTokens((1, 2, 3)), GeneratedTokens((4, 5))


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    opened = await Store.open("sqlite://")
    yield opened
    await opened.close()


def response(
    name: str,
    input_items: list[JsonObject],
    output: list[JsonObject],
    transcript: list[Item],
    **fields: Any,
) -> StoredResponse:
    """One that has ended."""
    return StoredResponse(
        id=name,
        created_at=1,
        status="completed",
        background=False,
        previous_response_id=fields.pop("before", None),
        conversation_id=fields.pop("conversation", None),
        body={"id": name, "output": output},
        input_items=input_items,
        transcript=encode_items(transcript),
        settings=fields.pop("settings", {}),
        **fields,
    )


async def keep(store: Store, stored: StoredResponse) -> None:
    await store.begin(replace(stored, status="in_progress"))
    assert await store.finish(stored)


FIRST = response(
    "resp_1",
    [ASKED],
    [CALL],
    [UserMessage("Weather?"), CALLING],
    settings={"date": "2026-01-02", "session": "resp_1"},
)
SECOND = response(
    "resp_2",
    [OUTPUT],
    [SAID],
    [ToolResult("c1", "weather", "sun"), ANSWERING],
    before="resp_1",
    settings={"date": "2026-03-04", "session": "other"},
)
SPOKEN = [UserMessage("Weather?"), CALLING, ToolResult("c1", "weather", "sun"), ANSWERING]


async def test_a_chain_goes_on_with_its_tokens(store: Store) -> None:
    await keep(store, FIRST)
    await keep(store, SECOND)
    history = await history_of_response(store, "resp_2")
    assert list(history.items) == SPOKEN
    assert history.calls == {"c1": "weather"}
    assert history.settings == {"date": "2026-01-02", "session": "resp_1"}
    assert history.session == "resp_1"
    branch = await history_of_response(store, "resp_1")
    assert list(branch.items) == SPOKEN[:2]


async def test_the_session_of_a_chain_without_settings_is_its_first_response(store: Store) -> None:
    await keep(store, replace(FIRST, settings={}))
    await keep(store, SECOND)
    assert (await history_of_response(store, "resp_2")).session == "resp_1"


async def test_a_chain_with_a_gap_is_refused(store: Store) -> None:
    await keep(store, FIRST)
    await keep(store, SECOND)
    await store.delete("resp_1")
    for name, sentence in (
        ("resp_2", "It goes on from 'resp_1'"),
        ("resp_3", "previous_response_id is"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await history_of_response(store, name)
        assert refused.value.param == "previous_response_id"
        assert refused.value.code == "previous_response_not_found"
        assert refused.value.message.startswith(sentence)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
async def test_a_response_that_runs_is_not_gone_on_from(store: Store, status: str) -> None:
    await store.begin(replace(FIRST, status=status))
    with pytest.raises(InvalidRequest) as refused:
        await history_of_response(store, "resp_1")
    assert refused.value.code == "previous_response_running"


async def history(store: Store, seal: ReasoningSeal) -> History:
    """Of the one conversation."""
    conversation = await store.conversation("conv")
    assert conversation is not None
    return await history_of_conversation(store, conversation, seal)


@pytest.fixture
async def conversation(store: Store) -> Store:
    """Of two responses."""
    await store.create_conversation(StoredConversation("conv", 1, {}, {"date": None}))
    for stored in (FIRST, SECOND):
        await keep(store, replace(stored, conversation_id="conv", previous_response_id=None))
    return store


async def test_a_conversation_goes_on_with_its_tokens(
    conversation: Store, seal: ReasoningSeal
) -> None:
    found = await history(conversation, seal)
    assert list(found.items) == SPOKEN
    assert found.calls == {"c1": "weather"}
    assert (found.settings, found.session) == ({"date": None}, "conv")


async def test_an_edited_part_of_a_conversation_is_read_from_its_items(
    conversation: Store, seal: ReasoningSeal
) -> None:
    await conversation.delete_item("conv", "msg_2")
    assert list((await history(conversation, seal)).items) == SPOKEN[:3]
    await conversation.delete_item("conv", "msg_1")
    assert list((await history(conversation, seal)).items) == [
        ToolCall("c1", "weather", "{}"),
        ToolResult("c1", "weather", "sun"),
    ]


async def test_a_result_without_its_call_is_left_out(
    conversation: Store, seal: ReasoningSeal
) -> None:
    [call] = [
        row.item["id"]
        for row in await conversation.all_items("conv")
        if row.item["type"] == "function_call"
    ]
    await conversation.delete_item("conv", call)
    await conversation.delete_item("conv", "msg_2")  # so that the result is read from its item
    items = (await history(conversation, seal)).items
    assert not [item for item in items if isinstance(item, ToolCall | ToolResult)]


async def test_items_of_a_deleted_response_are_read_as_they_are(
    conversation: Store, seal: ReasoningSeal
) -> None:
    await conversation.delete("resp_2")
    assert list((await history(conversation, seal)).items) == [
        *SPOKEN[:3],
        AssistantMessage("Sun."),
    ]


async def test_items_that_the_client_added_stand_in_their_place(
    conversation: Store, seal: ReasoningSeal
) -> None:
    await conversation.add_items("conv", [{**ASKED, "id": "msg_9", "content": "And now?"}])
    third = response("resp_3", [], [SAID | {"id": "msg_3"}], [ANSWERING], conversation="conv")
    await keep(conversation, third)
    assert list((await history(conversation, seal)).items) == [
        *SPOKEN,
        UserMessage("And now?"),
        ANSWERING,
    ]


ASKING = response("resp_1", [ASKED], [LISTED, UNLISTED, REQUEST], [CALLING])


async def test_a_request_for_approval_waits_until_it_is_answered(store: Store) -> None:
    await keep(store, ASKING)
    waiting = await history_of_response(store, "resp_1")
    assert waiting.approvals == {"mcpr_1": ("files", "delete", '{"path":"a"}')}
    assert waiting.listed == {"files"}
    for name, items, output in (
        ("resp_yes", [YES], [RAN]),
        ("resp_no", [YES | {"approve": False}], [SAID]),
        ("resp_ran", [], [RAN]),
    ):
        await keep(store, response(name, items, output, [ANSWERING], before="resp_1"))
        assert (await history_of_response(store, name)).approvals == {}


async def test_approvals_of_an_edited_conversation_are_known(
    store: Store, seal: ReasoningSeal
) -> None:
    await store.create_conversation(StoredConversation("conv", 1, {}))
    await keep(store, replace(ASKING, conversation_id="conv"))
    answered = response("resp_2", [YES], [RAN, SAID], [ANSWERING], conversation="conv")
    await keep(store, answered)
    await store.delete_item("conv", "msg_2")  # so that its rest is read from the items
    found = await history(store, seal)
    assert list(found.items) == [CALLING, ToolResult("mcpr_1", "delete", "gone")]
    assert found.approvals == {}
