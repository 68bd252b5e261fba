"""The turn grammar on a GPU: the demo model at temperature 2 writes no malformed turn."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from ossia import LLM, SamplingParams
from ossia.harmony.tokenizer import CALL, RETURN
from ossia.turn import OutputFormat, ToolChoice

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": parameters}}
    for name, parameters in (("get_weather", WEATHER), ("get_time", {"type": "object"}))
]
QUESTIONS = ["Who are you?", "What is 47 + 38?", "What's the weather in Oslo in celsius?", "Hello"]
WILD = [SamplingParams(temperature=2.0, max_tokens=300, seed=i) for i in range(64)]


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module", params=["TRITON", "TORCH"])
def llm(request: pytest.FixtureRequest) -> LLM:
    return LLM("demo", device="cuda", attention_backend=request.param, max_model_len=4096)


def test_calls_fit_their_schema(llm: LLM) -> None:
    answers = llm.chat(
        [asked(QUESTIONS[i % len(QUESTIONS)]) for i in range(len(WILD))],
        WILD,
        tools=TOOLS,
        tool_choice=ToolChoice("required"),
        max_reasoning_tokens=40,
        use_tqdm=False,
    )
    done = [a for a in answers if a.finish_reason != "length"]
    assert len(done) > len(answers) / 2
    for answer in done:
        assert answer.finish_reason == "tool_calls"
        assert answer.token_ids[-1] == CALL
        assert answer.tool_calls
        for call in answer.tool_calls:
            assert call.name in ("get_weather", "get_time")
            arguments = json.loads(call.arguments)
            assert isinstance(arguments, dict)
            if call.name == "get_weather":
                Draft202012Validator(WEATHER).validate(arguments)


def test_answers_fit_their_schema(llm: LLM) -> None:
    answers = llm.chat(
        [asked(QUESTIONS[i % len(QUESTIONS)]) for i in range(len(WILD))],
        WILD,
        output=OutputFormat("json_schema", schema=WEATHER, name="weather"),
        max_reasoning_tokens=40,
        use_tqdm=False,
    )
    done = [a for a in answers if a.finish_reason == "stop"]
    assert len(done) > len(answers) / 2
    for answer in done:
        assert answer.token_ids[-1] == RETURN
        Draft202012Validator(WEATHER).validate(json.loads(answer.text))


def test_greedy_answers_are_those_of_the_cpu(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=120)
    conversations = [asked(question) for question in QUESTIONS]
    on_gpu = llm.chat(conversations, params, tools=TOOLS, use_tqdm=False)
    cpu = LLM("demo", device="cpu", max_model_len=4096)
    on_cpu = cpu.chat(conversations, params, tools=TOOLS, use_tqdm=False)
    assert [a.text for a in on_gpu] == [a.text for a in on_cpu]
    calls = [
        [[(call.name, call.arguments) for call in a.tool_calls] for a in answers]
        for answers in (on_gpu, on_cpu)
    ]
    assert calls[0] == calls[1]
