"""The answer has the form that `response_format` asks for, whatever the network would say."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris"]}, "days": {"const": 3}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Report(BaseModel):
    city: Literal["Paris"]
    sunny: bool


def ask(client: OpenAI, form: Any, **fields: Any) -> ChatCompletion:
    fields = {"model": "scripted", "messages": HELLO, "temperature": 0, "max_tokens": 90, **fields}
    return client.chat.completions.create(response_format=form, **fields)


def json_schema(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "report", "schema": schema, **fields}}


def test_a_pydantic_model_is_parsed_after_free_reasoning(
    openai_client: OpenAI, script: Any
) -> None:
    completion = openai_client.chat.completions.parse(
        model="scripted", messages=HELLO, response_format=Report, **script.think_first
    )
    message = completion.choices[0].message
    assert message.parsed is not None
    assert message.parsed.city == "Paris"
    assert message.reasoning == script.reasoning  # type: ignore[attr-defined]
    assert completion.choices[0].finish_reason == "stop"


def test_a_streamed_pydantic_model_is_parsed(openai_client: OpenAI, script: Any) -> None:
    with openai_client.chat.completions.stream(
        model="scripted", messages=HELLO, response_format=Report, **script.think_first
    ) as stream:
        done = [event for event in stream if event.type == "content.done"]
        completion = stream.get_final_completion()
    assert isinstance(done[0].parsed, Report)
    assert completion.choices[0].message.parsed == done[0].parsed


@pytest.mark.parametrize("strict", [None, False, True])
def test_a_schema_is_followed(openai_client: OpenAI, script: Any, strict: bool | None) -> None:
    form = json_schema(CITY, strict=strict, description="A report.")
    completion = ask(openai_client, form, **script.think_first)
    content = completion.choices[0].message.content
    assert content is not None
    assert json.loads(content) == {"city": "Paris", "days": 3}


def test_json_object_is_an_object(openai_client: OpenAI, script: Any, tokenizer: Any) -> None:
    bias = {**script.final_only, str(tokenizer.encode("{}")[0]): 100.0}
    completion = ask(openai_client, {"type": "json_object"}, logit_bias=bias)
    assert isinstance(json.loads(completion.choices[0].message.content or ""), dict)


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ({"type": "regex", "pattern": "(red|red)[0]{2}"}, "red00"),
        ({"type": "choice", "choices": ["azure <|end|>"]}, "azure <|end|>"),
        ({"type": "grammar", "grammar": 'start: "a" b\nb: "b" | "b"'}, "ab"),
        (
            {"type": "grammar", "syntax": "ebnf", "grammar": 'root ::= "x" tail\ntail ::= "y"'},
            "xy",
        ),
        ({"type": "text"}, None),
    ],
)
def test_other_forms(openai_client: OpenAI, script: Any, form: Any, content: str | None) -> None:
    completion = ask(openai_client, form, logit_bias=script.final_only)
    assert completion.choices[0].message.content == (content or script.answer)
    assert completion.choices[0].finish_reason == "stop"


def test_a_regex_may_end_only_where_it_matches(openai_client: OpenAI, tokenizer: Any) -> None:
    """Any token may follow any other, but only after an x may the answer end."""
    x, a, end = *(tokenizer.encode(letter)[0] for letter in "xa"), 200002
    final = tokenizer.encode("final")[0]
    completion = ask(
        openai_client,
        {"type": "regex", "pattern": r"(?s).*x"},
        frequency_penalty=2.0,
        logit_bias={str(x): 91, str(a): 90.5, str(end): 90, str(final): 10},
    )
    assert completion.choices[0].message.content == "xax"


def test_a_format_goes_together_with_tools(openai_client: OpenAI, script: Any) -> None:
    form = json_schema(CITY)
    called = ask(openai_client, form, tools=[script.tool], logit_bias=script.call)
    assert called.choices[0].finish_reason == "tool_calls"
    said = ask(openai_client, form, tools=[script.tool], logit_bias=script.final_only)
    assert json.loads(said.choices[0].message.content or "")["city"] == "Paris"


def test_the_prompt_that_tokenize_counts_has_the_schema(http: httpx.Client, script: Any) -> None:
    body = {"messages": HELLO, "response_format": json_schema(CITY, description="Where and how.")}
    tokens = http.post("/tokenize", json=body).json()["tokens"]
    text = http.post("/detokenize", json={"tokens": tokens}).json()["text"]
    assert "report" in text
    assert "Where and how." in text
    usage = http.post(CHAT, json={**body, "max_tokens": 1}).json()["usage"]
    assert usage["prompt_tokens"] == len(tokens)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({}, "response_format.type"),
        ("json", "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.schema"),
        (json_schema("text"), "response_format.json_schema.schema"),
        (json_schema(CITY, strict="yes"), "response_format.json_schema.strict"),
        (json_schema(CITY, name="a b\n"), "response_format.json_schema.name"),
        ({"type": "regex"}, "response_format.pattern"),
        ({"type": "regex", "pattern": "("}, "response_format.pattern"),
        ({"type": "regex", "pattern": "a" * 70_000}, "response_format.pattern"),
        ({"type": "choice"}, "response_format.choices"),
        ({"type": "choice", "choices": []}, "response_format.choices"),
        ({"type": "choice", "choices": ["a", ""]}, "response_format.choices"),
        ({"type": "choice", "choices": ["a", 1]}, "response_format.choices[1]"),
        ({"type": "grammar"}, "response_format.grammar"),
        ({"type": "grammar", "grammar": "start: nothing"}, "response_format.grammar"),
        ({"type": "grammar", "syntax": "bnf", "grammar": "x"}, "response_format.syntax"),
        ({"type": "grammar", "syntax": "ebnf", "grammar": "x ="}, "response_format.grammar"),
        (
            {"type": "grammar", "syntax": "ebnf", "grammar": "root ::= " + "(" * 9000},
            "response_format.grammar",
        ),
    ],
)
def test_a_format_that_cannot_be_is_refused(http: httpx.Client, form: Any, param: str) -> None:
    answer = http.post(CHAT, json={"messages": HELLO, "response_format": form})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].endswith(".")
    assert "\n" not in error["message"]


def test_a_bad_schema_is_refused_with_the_place_in_it(server: Any, http: httpx.Client) -> None:
    before = server.gauges()["ossia_grammar_refusals_total"]
    bad = {"type": "object", "properties": {"x": {"type": "strange"}}}
    form = json_schema(bad, strict=True)
    answer = http.post(CHAT, json={"messages": HELLO, "response_format": form})
    assert answer.status_code == 400
    error = answer.json()["error"]
    path = "response_format.json_schema.schema.properties.x"
    assert error["param"].startswith(path)
    assert path in error["message"]
    function = {"name": "f", "parameters": bad, "strict": True}
    answer = http.post(
        CHAT, json={"messages": HELLO, "tools": [{"type": "function", "function": function}]}
    )
    assert answer.json()["error"]["param"].startswith("tools[0].function.parameters.properties.x")
    answer = http.post(CHAT, json={"messages": HELLO, "functions": [function]})
    assert answer.json()["error"]["param"].startswith("functions[0].parameters.properties.x")
    assert server.gauges()["ossia_grammar_refusals_total"] == before + 3


def test_what_cannot_be_enforced_is_refused_only_if_strict(http: httpx.Client) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    body = {"messages": HELLO, "max_tokens": 1}
    for strict, status in ((True, 400), (False, 200), (None, 200)):
        form = json_schema(schema, strict=strict)
        answer = http.post(CHAT, json={**body, "response_format": form})
        assert answer.status_code == status, answer.text
