"""What clients send back, in the many forms of their SDKs, becomes items of a turn."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import InvalidRequest
from ossia.server.responses.input_items import Known, ReadItems, read_items
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

JsonObject = dict[str, Any]

REQUEST = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "server_label": "files",
    "name": "delete",
    "arguments": '{"path":"a"}',
}
YES = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
NO = {**YES, "approve": False}
DELETE = ToolCall("mcpr_1", "delete", '{"path":"a"}')
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


@pytest.fixture
def read(seal: ReasoningSeal) -> Any:
    def read(*items: JsonObject, known: Known | None = None) -> ReadItems:
        return read_items(items, known or Known(), seal)

    return read


def test_a_text_is_a_message_of_the_user(seal: ReasoningSeal) -> None:
    assert read_items("Hello", Known(), seal).items == [UserMessage("Hello")]


@pytest.mark.parametrize(
    ("message", "item"),
    [
        ({"role": "user", "content": "Hi"}, UserMessage("Hi")),
        ({"type": "message", "role": "user", "content": "Hi"}, UserMessage("Hi")),
        ({"type": None, "role": "user", "content": "Hi"}, UserMessage("Hi")),
        ({"role": "user", "content": ""}, UserMessage("")),
        ({"role": "user", "content": []}, UserMessage("")),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, "b"]},
            UserMessage("a\nb"),
        ),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, UserMessage("a")),
        (
            {"role": "user", "content": [IMAGE, {"type": "input_text", "text": "What is this?"}]},
            UserMessage("(image left out: the model reads text only)\nWhat is this?"),
        ),
        ({"role": "system", "content": "Be brief."}, Instructions("Be brief.")),
        ({"role": "developer", "content": "Be brief."}, Instructions("Be brief.")),
        ({"role": "assistant", "content": "Hi"}, AssistantMessage("Hi")),
        (
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "phase": "final_answer",
                "content": [
                    {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
                ],
            },
            AssistantMessage("Hi"),
        ),
        (
            {
                "role": "assistant",
                "phase": "commentary",
                "content": [{"type": "output_text", "text": "One moment.", "annotations": []}],
            },
            AssistantMessage("One moment.", "commentary"),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]},
            AssistantMessage("I cannot."),
        ),
    ],
)
def test_a_message_is_read_in_all_its_forms(read: Any, message: JsonObject, item: Item) -> None:
    assert read(message).items == [item]


def test_reasoning_is_read_from_its_content_or_what_was_sealed(
    read: Any, seal: ReasoningSeal
) -> None:
    sealed = seal.seal_text("Hm.")
    other = seal.seal_text("Not this.")
    parts = [{"type": "reasoning_text", "text": "Hm."}]
    forms: list[JsonObject] = [
        {"content": parts},
        {"content": parts, "encrypted_content": None},
        {"content": parts, "encrypted_content": other},
        {"content": None, "encrypted_content": sealed},
        {"content": [], "encrypted_content": sealed, "status": None},
        {"encrypted_content": sealed},
    ]
    for fields in forms:
        assert read({"type": "reasoning", "summary": [], **fields}).items == [Reasoning("Hm.")]


@pytest.mark.parametrize(
    "fields",
    [{}, {"content": None, "encrypted_content": None}, {"content": [], "encrypted_content": ""}],
)
def test_reasoning_that_was_not_shown_says_nothing(read: Any, fields: JsonObject) -> None:
    hidden = {"type": "reasoning", "id": "rs_1", "summary": [], **fields}
    shown = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    assert read(hidden).items == []
    assert read(shown, hidden).items == [Reasoning("Hm.")]
    assert read(hidden, shown).items == [Reasoning("Hm.")]


def test_one_thought_in_two_items_is_one(read: Any) -> None:
    def thought(text: str) -> JsonObject:
        return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}

    assert read(thought("a"), thought("b")).items == [Reasoning("a\n\nb")]


def test_what_was_altered_is_refused_by_its_path(read: Any, seal: ReasoningSeal) -> None:
    sealed = seal.seal_text("Hm.")
    item = {"type": "reasoning", "encrypted_content": sealed[:-2]}
    with pytest.raises(InvalidRequest) as refused:
        read({"role": "user", "content": ""}, item)
    assert refused.value.param == "input[1].encrypted_content"
    with pytest.raises(InvalidRequest):  # sealed for another purpose
        read({"type": "compaction", "encrypted_content": sealed})


def test_a_call_and_its_output_belong_together_by_the_id(read: Any) -> None:
    items = read(
        {**CALL, "call_id": "1", "name": "find", "namespace": "crm"},
        {**CALL, "call_id": "2"},
        {"type": "function_call_output", "call_id": "2", "output": "two"},
        {"type": "function_call_output", "call_id": "1", "output": "one"},
    ).items
    assert items == [
        ToolCall("1", "crm.find", "{}"),
        ToolCall("2", "f", "{}"),
        ToolResult("2", "f", "two"),
        ToolResult("1", "crm.find", "one"),
    ]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("", ""),
        ("sunny", "sunny"),
        ([], ""),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb"),
        (
            [{"type": "input_text", "text": "See:"}, IMAGE, {"type": "input_file", "file_id": "f"}],
            "See:\n(image left out: the model reads text only)\n"
            "(file left out: the model reads text only)",
        ),
        ({"degrees": 25}, '{"degrees":25}'),
        ({"degrees": 10**30}, f'{{"degrees":{10**30}}}'),
        (25, "25"),
    ],
)
def test_the_output_of_a_function_is_text_or_parts(read: Any, output: Any, text: str) -> None:
    result = {"type": "function_call_output", "call_id": "c", "output": output}
    assert read(CALL, result).items[1] == ToolResult("c", "f", text)


def test_an_output_answers_a_call_of_an_earlier_response(read: Any) -> None:
    result = {"type": "function_call_output", "call_id": "c", "output": "25"}
    known = Known(calls={"c": "crm.find"})
    assert read(result, known=known).items == [ToolResult("c", "crm.find", "25")]


def test_free_text_of_a_custom_tool_is_its_one_argument(read: Any) -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": 'a "b"\n'}
    result = {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}
    assert read(call, result).items == [
        ToolCall("c", "patch", '{"input":"a \\"b\\"\\n"}'),
        ToolResult("c", "patch", "done"),
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"output": "rain", "error": None}, "rain"),
        ({"output": None, "error": "It is away."}, "It is away."),
        ({"error": {"type": "protocol_error", "code": 1, "message": "No."}}, "No."),
        (
            {
                "error": {
                    "type": "mcp_tool_execution_error",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                }
            },
            "a\nb",
        ),
        ({}, "(The output of this call was not kept.)"),
    ],
)
def test_a_call_that_the_server_ran_is_call_and_result(
    read: Any, fields: JsonObject, text: str
) -> None:
    call = {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "demo",
        "name": "echo",
        "arguments": '{"text":"rain"}',
        "approval_request_id": None,
        "status": "completed",
    }
    known = Known(name_of=lambda label, name: f"{label}.{name}")
    assert read(call | fields, known=known).items == [
        ToolCall("mcp_1", "demo.echo", '{"text":"rain"}'),
        ToolResult("mcp_1", "demo.echo", text),
    ]


def test_an_approval_runs_the_call(read: Any) -> None:
    both = read(REQUEST, YES)
    assert both.items == [DELETE]
    assert both.approved == [DELETE]
    later = read(YES, known=Known(approvals={"mcpr_1": DELETE}))
    assert later.items == []
    assert later.approved == [DELETE]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "The user did not allow this call."),
        ({"reason": "too risky"}, "The user did not allow this call: too risky"),
    ],
)
def test_the_model_is_told_of_a_no(read: Any, fields: JsonObject, text: str) -> None:
    denied = read(REQUEST, NO | fields)
    assert denied.items == [DELETE, ToolResult("mcpr_1", "delete", text)]
    assert denied.approved == []


def test_a_call_that_ran_after_its_approval_is_not_run_again(read: Any) -> None:
    ran = {
        "type": "mcp_call",
        "id": "mcp_2",
        "server_label": "files",
        "name": "delete",
        "arguments": '{"path":"a"}',
        "approval_request_id": "mcpr_1",
        "output": "gone",
    }
    echoed = read(REQUEST, YES, ran)
    assert echoed.items == [DELETE, ToolResult("mcpr_1", "delete", "gone")]
    assert echoed.approved == []


@pytest.mark.parametrize(
    "items",
    [
        [YES],
        [{**REQUEST, "id": "mcpr_2"}, YES],
        [REQUEST, YES, YES],
        [REQUEST, YES, NO],
        [REQUEST, NO, YES],
        [REQUEST, {**CALL, "type": "mcp_call", "approval_request_id": "mcpr_1"}, YES],
    ],
    ids=["unknown", "another", "yes twice", "yes and no", "no and yes", "already run"],
)
def test_an_answer_to_nothing_that_waits_is_refused(read: Any, items: list[JsonObject]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(*items)
    assert refused.value.param == f"input[{len(items) - 1}].approval_request_id"


def test_code_and_its_output_are_the_python_tool(read: Any) -> None:
    call = {"type": "code_interpreter_call", "id": "ci_1", "code": "1+1", "container_id": "c"}
    logs = [{"type": "logs", "logs": "2\n"}, {"type": "image", "url": "u"}]
    assert read(call | {"outputs": logs}).items == [
        ToolCall("ci_1", "python", "1+1", builtin=True),
        ToolResult("ci_1", "python", "2\n", builtin=True),
    ]
    [_, result] = read(call | {"outputs": None}).items
    assert result.output == "(The output of this call was not kept.)"


@pytest.mark.parametrize(
    ("action", "name", "arguments"),
    [
        ({"type": "search", "query": "owls"}, "browser.search", '{"query":"owls"}'),
        ({"type": "open_page", "url": "https://a"}, "browser.open", '{"id":"https://a"}'),
        (
            {"type": "find_in_page", "pattern": "owl", "url": "https://a"},
            "browser.find",
            '{"pattern":"owl"}',
        ),
        (None, "browser.search", '{"query":""}'),
    ],
)
def test_a_search_is_a_call_of_the_browser(
    read: Any, action: JsonObject | None, name: str, arguments: str
) -> None:
    call = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}
    [called, result] = read(call).items
    assert called == ToolCall("ws_1", name, arguments, builtin=True)
    assert (result.call_id, result.name, result.builtin) == ("ws_1", name, True)


def test_a_compaction_stands_for_what_was_said(read: Any, seal: ReasoningSeal) -> None:
    kept: list[Item] = [Instructions("Be brief."), UserMessage("Summary"), GeneratedTokens((1, 2))]
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": seal.seal_items(kept)}
    assert read(item, {"role": "user", "content": "Go on."}).items == [
        *kept,
        UserMessage("Go on."),
    ]


def test_what_tells_clients_of_tools_says_nothing_to_the_model(read: Any) -> None:
    items = read(
        {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "demo", "tools": []},
        {"type": "additional_tools", "tools": [{"type": "function", "name": "f"}]},
        {"type": "compaction_trigger"},
    )
    assert items.items == []
    assert items.listed == {"demo"}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({}, "input[0].type"),
        ({"type": "item_reference", "id": "msg_1"}, "input[0].type"),
        ({"type": "computer_call"}, "input[0].type"),
        ({"type": ["message"], "role": "user", "content": ""}, "input[0].type"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": None}, "input[0].content"),
        ({"role": "user", "content": 5}, "input[0].content"),
        ({"role": "user", "content": {"type": "input_text", "text": "a"}}, "input[0].content"),
        ({"role": "user", "content": ["a", 5]}, "input[0].content[1].type"),
        ({"role": "user", "content": [{"type": "video"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "input_text", "text": 5}]},
            "input[0].content[0].text",
        ),
        ({"role": "tool", "content": ""}, "input[0].role"),
        ({"type": "message", "content": ""}, "input[0].role"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input[0].arguments"),
        ({**CALL, "name": None}, "input[0].name"),
        ({**CALL, "call_id": 5}, "input[0].call_id"),
        ({"type": "custom_tool_call", "call_id": "c", "name": "f"}, "input[0].input"),
        ({"type": "function_call_output", "output": ""}, "input[0].call_id"),
        ({"type": "function_call_output", "call_id": "x", "output": ""}, "input[0].call_id"),
        ({"type": "mcp_call", "server_label": "s"}, "input[0].name"),
        ({**REQUEST, "id": None}, "input[0].id"),
        ({"type": "mcp_approval_response", "approve": True}, "input[0].approval_request_id"),
        ({"type": "compaction"}, "input[0].encrypted_content"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[0].encrypted_content"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_path(
    read: Any, item: JsonObject, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(item)
    assert refused.value.param == param
    assert refused.value.message.startswith(param.removesuffix(".type"))


def test_an_output_without_its_text_is_refused(read: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(CALL, {"type": "function_call_output", "call_id": "c"})
    assert refused.value.param == "input[1].output"


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec="utf-8"))
)
anything = st.recursive(
    st.one_of(scalars, st.just("mcpr_1")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.one_of(st.sampled_from(["type", "text", "logs", "content"]), st.text(max_size=3)),
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)
TYPES = [
    *("message", "reasoning", "function_call", "custom_tool_call", "function_call_output"),
    *("custom_tool_call_output", "mcp_call", "mcp_approval_request", "mcp_approval_response"),
    *("code_interpreter_call", "web_search_call", "compaction", "mcp_list_tools"),
    *("additional_tools", "item_reference"),
]
FIELDS = [
    *("id", "role", "content", "phase", "summary", "encrypted_content", "call_id", "name"),
    *("namespace", "arguments", "input", "output", "error", "server_label", "approve", "reason"),
    *("approval_request_id", "code", "outputs", "action", "tools", "status"),
]
ids = st.sampled_from(["mcpr_1", "mcpr_2", "c"])
likely = {  # so that more than refusals are tried
    "id": ids,
    "call_id": ids,
    "approval_request_id": ids,
    "role": st.sampled_from(["user", "assistant", "system"]),
    "name": st.just("f"),
    "arguments": st.just("{}"),
    "input": st.just("a"),
}
items = st.fixed_dictionaries(
    {"type": st.one_of(st.sampled_from(TYPES), anything)},
    optional={field: likely.get(field, anything) | anything for field in FIELDS},
)


@settings(max_examples=150)
@given(st.lists(items, max_size=4))
def test_any_list_of_objects_is_read_or_refused(seal: ReasoningSeal, given: Any) -> None:
    reading: ReadItems | InvalidRequest
    try:
        reading = read_items(given, Known(), seal)
    except InvalidRequest as error:
        reading = error
    if isinstance(reading, InvalidRequest):
        assert reading.message.startswith("input[")
        assert reading.param is not None
        assert reading.param.startswith("input[")
    else:
        assert len(reading.approved) == len({call.call_id for call in reading.approved})
