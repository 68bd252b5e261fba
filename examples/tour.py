"""A tour of everything that the server does; it also tells whether an installation works.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/tour.py

What does not come as it should ends the tour with a sentence and exit code 1.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Literal

import httpx
from mcp import Client
from openai import APIConnectionError, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")
MODEL = "demo"
DEMO_TOOLS = {"type": "mcp", "server_label": "demo"}
SUM = "What is 47 + 38?"
BOOKING = "name: Alice, people: 4, date: 2026-05-17, status: final"
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none", max_retries=0, timeout=120)


class Booking(BaseModel):
    name: str
    people: int
    date: str
    status: Literal["draft", "final"]


def show(what: str, got: object, is_right: object = True) -> None:
    """Prints what came; ends the tour if it is not right."""
    print(f"  {what + ':':28} {got}")
    if not is_right:
        sys.exit(f"This is not what should have come for: {what}.")


def chat(text: str, /, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    more = {"temperature": 0, "messages": messages, **more}
    return client.chat.completions.create(model=MODEL, **more)


def respond(text: Any, /, **more: Any) -> Any:
    more = {"temperature": 0, "tools": [], **more}  # without tools: [], it has all of the server's
    return client.responses.create(model=MODEL, input=text, **more)


def the_server() -> None:
    [model] = client.models.list().data
    show("model", model.id)
    show("context, tokens", model.max_model_len, model.max_model_len > 0)
    show("health", httpx.get(f"{SERVER}/health").status_code)
    tokens = httpx.post(f"{SERVER}/tokenize", json={"prompt": "Hello world"}).json()["tokens"]
    text = httpx.post(f"{SERVER}/detokenize", json={"tokens": tokens}).json()["text"]
    show("tokens of a text", f"{tokens} {text!r}", text == "Hello world")
    metrics = httpx.get(f"{SERVER}/metrics").text
    show("metrics", f"{metrics.count('# TYPE')} for Prometheus", "ossia_requests_total" in metrics)


def chat_completions() -> None:
    message = chat(SUM).choices[0].message
    show("reasoning", message.reasoning, message.reasoning)
    show("answer", message.content, message.content)
    for effort in ("low", "high"):
        spent = chat(SUM, reasoning_effort=effort).usage.completion_tokens_details.reasoning_tokens
        show(f"reasoning tokens, {effort}", spent, spent)
    chunks = list(chat(SUM, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    show("as a stream", f"{text} ({len(chunks)} chunks)", text == message.content)
    show("tokens from the cache", chunks[-1].usage.prompt_tokens_details.cached_tokens)
    show("up to a stop text", repr(chat(SUM, stop=["="]).choices[0].message.content))
    show("several answers", len(chat(SUM, n=2, temperature=1, seed=1).choices))
    likely = chat(SUM, logprobs=True, top_logprobs=2).choices[0].logprobs.content[0].top_logprobs
    show("likely first tokens", [top.token for top in likely], len(likely) == 2)
    short = chat(SUM, extra_body={"max_reasoning_tokens": 2}).choices[0]
    show("reasoning cut short", short.message.reasoning, short.finish_details)
    cut = chat(SUM, max_tokens=5).choices[0]
    show("cut at 5 tokens", cut.finish_details["message"], cut.finish_reason == "length")
    raw = client.completions.create(
        model=MODEL, prompt="The blue lamp", max_tokens=5, temperature=0
    )
    show("raw text goes on", repr(raw.choices[0].text), raw.choices[0].text)


def functions() -> None:
    question: Any = {"role": "user", "content": "What is the weather in Paris?"}
    tools = [{"type": "function", "function": WEATHER}]
    message = chat(question["content"], tools=tools).choices[0].message
    [call] = message.tool_calls
    show("call", f"{call.function.name} {call.function.arguments}")
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
    answer = chat("", messages=[question, message, result], tools=tools).choices[0].message
    show("answer", answer.content, answer.content)
    none = chat(question["content"], tools=tools, tool_choice="none").choices[0]
    show("hidden by tool_choice", none.finish_reason, none.finish_reason == "stop")
    called = chat("Hello", tools=tools, tool_choice="required").choices[0]
    show("required by tool_choice", called.finish_reason, called.finish_reason == "tool_calls")
    tools = [{"type": "function", **WEATHER}]
    first = respond(question["content"], tools=tools)
    call = first.output[-1]
    show("call in Responses", f"{call.name} {call.arguments}", call.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    second = respond([result], tools=tools, previous_response_id=first.id)
    show("answer", second.output_text, second.output_text)
    search = {"type": "custom", "name": "search", "description": "Search for something."}
    custom = respond('Search for "music"', tools=[search], tool_choice="required").output[-1]
    show("a tool that takes any text", custom.input, custom.type == "custom_tool_call")


def forms() -> None:
    booking = client.responses.parse(
        model=MODEL, input=BOOKING, text_format=Booking, tools=[], temperature=0
    ).output_parsed
    show("JSON of a schema", repr(booking), isinstance(booking, Booking))
    form: Any = {"type": "choice", "choices": ["47 + 38 = 75.", "47 + 38 = 85."]}
    chosen = respond(SUM, text={"format": form}).output_text
    show("a choice", chosen, chosen in form["choices"])
    form = {"type": "regex", "pattern": r"47 \+ 38 = \d+\."}
    show("a pattern", chat(SUM, response_format=form).choices[0].message.content)
    form = {"type": "grammar", "grammar": 'start: "47 + 38 = " /[0-9]+/ "."'}
    show("a grammar", chat(SUM, response_format=form).choices[0].message.content)


def responses() -> None:
    told = respond("My favorite color is green.", metadata={"topic": "colors"})
    asked = "What is my favorite color?"
    recalled = respond(asked, previous_response_id=told.id).output_text
    show("after a stored response", recalled, recalled)
    items = client.responses.input_items.list(told.id).data
    show("what it was asked", items[0].content[0].text)
    conversation = client.conversations.create()
    respond("My favorite color is blue.", conversation=conversation.id)
    show("in a conversation", respond(asked, conversation=conversation.id).output_text)
    count = len(client.conversations.items.list(conversation.id).data)
    show("items in it", count, count == 6)
    client.conversations.delete(conversation.id)
    count = client.responses.input_tokens.count(model=MODEL, input=SUM, tools=[]).input_tokens
    show("tokens of a prompt", count, count)

    with respond(SUM, background=True, stream=True) as events:
        first = next(iter(events))  # and the connection is closed
    more = list(client.responses.retrieve(first.response.id, stream=True, starting_after=0))
    show("a stream taken up again", f"{len(more)} events more", more[0].sequence_number == 1)
    ended = client.responses.retrieve(first.response.id)
    show("went on in the background", ended.output_text, ended.status == "completed")
    running = respond("What can you do?", background=True, reasoning={"effort": "high"})
    cancelled = client.responses.cancel(running.id)
    show("called off", cancelled.status, cancelled.status in ("cancelled", "completed"))
    client.responses.delete(ended.id)
    try:
        client.responses.retrieve(ended.id)
        show("deleted", "no", False)
    except NotFoundError as error:
        show("deleted", error.code)

    said: Any = {"role": "user", "content": "My locker code is 4711."}
    sealed = respond([said], store=False, include=["reasoning.encrypted_content"])
    history = [said, *sealed.output, {"role": "user", "content": "What is my locker code?"}]
    show("with nothing stored", respond(history, store=False).output_text)
    compact = client.responses.compact(model=MODEL, previous_response_id=told.id)
    show("a long conversation becomes", f"one item, {compact.output[0].type}")
    show("and goes on", respond([*compact.output, {"role": "user", "content": SUM}]).output_text)


def tools_of_the_server() -> None:
    product = "What is 17 * 23?"
    answer = respond(product, tools=[DEMO_TOOLS])
    show("steps", " ".join(item.type for item in answer.output))
    call = next(item for item in answer.output if item.type == "mcp_call")
    show("call", f"{call.name} {call.arguments} -> {call.output}", call.output == "391")
    show("answer", answer.output_text, "391" in answer.output_text)
    answer = chat(product, tools=[DEMO_TOOLS]).choices[0].message.content
    show("in Chat Completions", answer, "391" in answer)
    careful = {**DEMO_TOOLS, "require_approval": "always", "allowed_tools": ["calculator"]}
    asking = respond(product, tools=[careful])
    request = asking.output[-1]
    show("asks first", request.type, request.type == "mcp_approval_request")
    yes = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    agreed = respond([yes], tools=[careful], previous_response_id=asking.id).output_text
    show("and goes on", agreed, "391" in agreed)


def tools_for_others() -> None:
    async def use() -> None:
        async with Client(f"{SERVER}/mcp") as mcp:
            names = [tool.name for tool in (await mcp.list_tools()).tools]
            show("tools at /mcp", ", ".join(names), {"calculator", "echo", "time"} <= {*names})
            result = await mcp.call_tool("calculator", {"expression": "17 * 23"})
            show("called by an MCP client", result.content[0].text, not result.is_error)

    asyncio.run(use())


def mistakes() -> None:
    for mistake in ({"temperature": -1}, {"tool_choice": "required"}, {"reasoning_effort": "huge"}):
        try:
            chat("Hello", **mistake)
            show(str(mistake), "accepted", False)
        except BadRequestError as error:
            show(str(error.param), error.body["message"], error.param in mistake)


CHAPTERS = {
    "The server": the_server,
    "Chat Completions": chat_completions,
    "Functions of yours": functions,
    "Answers in a form": forms,
    "The Responses API": responses,
    "Tools that the server runs": tools_of_the_server,
    "Its tools for MCP clients": tools_for_others,
    "Mistakes are named": mistakes,
}

if __name__ == "__main__":
    try:
        for title, chapter in CHAPTERS.items():
            print(f"\n{title}", flush=True)
            chapter()
    except APIConnectionError:
        sys.exit(f"{SERVER} does not answer; start the server, or set OSSIA_URL to its address.")
    print("\nEverything worked.")
