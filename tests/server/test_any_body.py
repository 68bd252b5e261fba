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

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["text", "function", "auto", "none", "json_object", "low", "user", "f"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["type", "function", "name", "id", "text"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
_MODELS = (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
_FIELDS = sorted({name for model in _MODELS for name in model.model_fields})
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": st.text() | _JSON,
        "reasoning": _JSON,
        "tool_calls": _JSON,
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
