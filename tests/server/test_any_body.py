"""No request body, however odd, is answered with a fault of the server."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossia.server.schema.chat import ChatRequest
from ossia.server.schema.completions import CompletionRequest
from ossia.server.schema.tokenization import DetokenizeRequest, TokenizeRequest

_KEYS = [
    *("type", "function", "name", "id", "text", "allowed_tools", "mode", "tools", "arguments"),
    *("json_schema", "schema", "strict", "pattern", "choices", "syntax", "grammar", "parameters"),
    *("properties", "items", "enum", "const", "anyOf", "$ref", "minLength", "required"),
]
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [
            *("text", "function", "auto", "none", "required", "allowed_tools", "low", "user", "f"),
            *("json_object", "json_schema", "regex", "choice", "grammar", "lark", "object", "a+"),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(_KEYS),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
_MODELS = (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
_FIELDS = sorted({name for model in _MODELS for name in model.model_fields})
_ROLES = ["system", "developer", "user", "assistant", "tool", "function"]
_MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(
            [*("system", "developer", "user"), *("assistant", "tool", "function")]
        )
    },
    optional={
        "content": st.text() | _JSON,
        "reasoning": _JSON,
        "tool_calls": _JSON,
        "function_call": _JSON,
        "refusal": _JSON,
        "tool_call_id": _JSON,
        "name": _JSON,
    },
)
_PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(_PATHS),
    st.lists(_MESSAGE, max_size=3) | _JSON,
    st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=3),
)
def test_every_body_is_answered_or_refused(
    http: httpx.Client, path: str, messages: Any, fields: dict[str, Any]
) -> None:
    body = {"messages": messages, "prompt": "x", "max_tokens": 2, **fields}
    if path == "/tokenize":
        del body["prompt"]
    answer = http.post(path, content=json.dumps(body))
    assert answer.status_code in (200, 400, 404, 429), answer.text
    if answer.status_code == 200 and fields.get("stream") is not True:
        assert "error" not in answer.json()
    elif answer.status_code != 200:
        assert answer.json()["error"]["message"]
    else:
        assert answer.text.endswith("data: [DONE]\n\n")


_GRAMMAR_PARTS = ["start: ", "root ::= ", '"a"', "/b+/", "x", "\n", "|", "(", ")", "*"]
_SCHEMA = st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4)
_FORM = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries({"schema": _SCHEMA, "strict": st.booleans()}),
        }
    ),
    st.fixed_dictionaries({"type": st.just("regex"), "pattern": st.text(max_size=12)}),
    st.fixed_dictionaries(
        {"type": st.just("regex"), "pattern": st.text(r"ab(|)[]{}*+?\\.^$19-", max_size=12)}
    ),
    st.fixed_dictionaries(
        {"type": st.just("choice"), "choices": st.lists(st.text(max_size=9), min_size=1)}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("grammar"),
            "syntax": st.sampled_from(["lark", "ebnf"]),
            "grammar": st.text(max_size=40)
            | st.lists(
                st.sampled_from(
                    ["start: ", "root ::= ", '"a"', "/b+/", "x", "\n", "|", "(", ")", "*"]
                )
            ).map("".join),
        }
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_FORM, st.lists(_SCHEMA, max_size=2), st.sampled_from(["auto", "required", "none"]))
def test_every_schema_and_grammar_is_followed_or_refused(
    http: httpx.Client, form: dict[str, Any], schemas: list[dict[str, Any]], choice: str
) -> None:
    tools = [
        {"type": "function", "function": {"name": f"f{index}", "parameters": schema}}
        for index, schema in enumerate(schemas)
    ]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 12}
    body |= {"response_format": form, "max_reasoning_tokens": 0}
    if tools:
        body |= {"tools": tools, "tool_choice": choice}
    answer = http.post("/v1/chat/completions", content=json.dumps(body))
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        error = answer.json()["error"]
        assert error["message"]
        assert error["param"], error
