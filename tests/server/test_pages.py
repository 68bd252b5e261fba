"""Models, tokens, metrics, and the pages about the API itself."""

from __future__ import annotations

import re
from typing import Any

import httpx
from openai import OpenAI

HELLO = [{"role": "user", "content": "Hello"}]


def test_the_model_is_listed_with_its_architecture_and_context(openai_client: OpenAI) -> None:
    (model,) = openai_client.models.list().data
    assert model.id == "scripted"
    assert model.architecture == "GptOssForCausalLM"  # type: ignore[attr-defined]
    assert model.max_model_len == 2048  # type: ignore[attr-defined]
    assert openai_client.models.retrieve("scripted") == model


def test_health_and_version(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/version").json()["version"]


def test_text_goes_to_tokens_and_back(http: httpx.Client) -> None:
    text = "Größe \U0001f9a9 and <|call|>"
    body = http.post("/tokenize", json={"text": text}).json()
    assert body["count"] == len(body["tokens"])
    assert body["max_model_len"] == 2048
    assert http.post("/detokenize", json={"tokens": body["tokens"]}).json()["text"] == text
    assert http.post("/tokenize", json={"prompt": text}).json() == body


def test_a_conversation_has_the_tokens_that_its_prompt_will_have(
    http: httpx.Client, script: Any
) -> None:
    fields = {"messages": HELLO, "tools": [script.tool], "reasoning_effort": "high"}
    counted = http.post("/tokenize", json=fields).json()
    asked = http.post("/v1/chat/completions", json={**fields, "max_tokens": 1}).json()
    assert counted["count"] == asked["usage"]["prompt_tokens"]
    text = http.post("/detokenize", json={"tokens": counted["tokens"]}).json()["text"]
    assert text.startswith("<|start|>system<|message|>")
    assert text.endswith("<|start|>user<|message|>Hello<|end|><|start|>assistant")
    assert "type weather = " in text


def test_tokenize_wants_one_of_text_and_messages(http: httpx.Client) -> None:
    assert http.post("/tokenize", json={}).status_code == 400
    assert http.post("/tokenize", json={"text": "x", "messages": HELLO}).status_code == 400
    answer = http.post("/detokenize", json={"tokens": [5, 201088]})
    assert answer.json()["error"]["param"] == "tokens[1]"


def test_requests_and_tokens_are_counted(server: Any, http: httpx.Client, script: Any) -> None:
    before = server.gauges()
    body = {"messages": HELLO, **script.think_first}
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    server.wait_until_idle(1.0)
    after = server.gauges()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    chat = 'endpoint="/v1/chat/completions"'
    assert grown(f'ossia_requests_total{{{chat},status="200"}}') == 1
    assert grown(f"ossia_request_seconds_count{{{chat}}}") == 1
    assert grown("ossia_prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("ossia_generated_tokens_total") == usage["completion_tokens"]
    assert grown("ossia_reasoning_tokens_total") == 3
    assert grown("ossia_time_to_first_token_seconds_count") == 1
    assert grown("ossia_inter_token_latency_seconds_count") == usage["completion_tokens"] - 1
    assert grown("ossia_engine_steps_total") >= usage["completion_tokens"]
    assert 0 < grown("ossia_engine_model_seconds_total") < grown("ossia_engine_step_seconds_total")
    for pool in ("full", "window"):
        assert after[f'ossia_kv_pages_total{{pool="{pool}"}}'] > 0


def test_strangers_do_not_add_labels(server: Any, http: httpx.Client) -> None:
    for number in range(3):
        http.get(f"/nowhere/{number}")
    assert not any("nowhere" in name for name in server.gauges())


def test_the_api_describes_itself_without_the_network(http: httpx.Client) -> None:
    page = http.get("/docs").text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    api = http.get("/openapi.json").json()
    paths = {"/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/metrics"}
    assert paths <= api["paths"].keys()
    schemas = api["components"]["schemas"]
    assert schemas["ChatRequest"]["required"] == ["messages"]
    assert "minimal" in schemas["ChatRequest"]["properties"]["reasoning_effort"]["description"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', http.get("/openapi.json").text))
    assert references <= schemas.keys()


def test_the_log_has_one_line_a_request(server: Any, http: httpx.Client) -> None:
    body = {"messages": HELLO, "max_tokens": 2}
    identifier = http.post("/v1/chat/completions", json=body).headers["x-request-id"]
    assert identifier
    http.get("/v1/models%0d%0aFORGED")
    pattern = r"INFO POST /v1/chat/completions 200 in \d+\.\d+ s, \d+ tokens read, 2 written\n"
    assert re.search(pattern, server.output())
    assert not re.search("^FORGED", server.output(), re.MULTILINE)
