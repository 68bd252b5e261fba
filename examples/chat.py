"""Ask a running server questions: the chain of thought, the answer, a stream, a conversation.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/chat.py
"""

from __future__ import annotations

import os
from typing import Any

from openai import OpenAI

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")
MODEL = "demo"

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none")


def whole(question: str) -> None:
    """The answer when all of it is there."""
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        reasoning_effort="medium",  # low, medium (the default) or high
        temperature=0,
    )
    message = completion.choices[0].message
    print("reasoning:", message.reasoning)  # a field that OpenAI's own API does not have
    print("answer:   ", message.content)
    print("tokens:   ", completion.usage.completion_tokens)


def streamed(messages: list[dict[str, Any]]) -> str:
    """The answer as it is written: first the chain of thought, in brackets here, then the text."""
    answer = ""
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, stream=True
    )
    print("[", end="")
    for chunk in stream:
        delta = chunk.choices[0].delta
        if thought := getattr(delta, "reasoning", None):
            print(thought, end="", flush=True)
        if delta.content:
            print(delta.content if answer else f"] {delta.content}", end="", flush=True)
            answer += delta.content
    print()
    return answer


whole("What is 47 + 38?")

# A conversation is the list of its messages; the client keeps it. stored_turns.py shows how the
# server can do that instead.
messages: list[dict[str, Any]] = []
for said in ("My favorite color is green.", "What is my favorite color?", "Thank you!"):
    print(f"\n> {said}")
    messages.append({"role": "user", "content": said})
    messages.append({"role": "assistant", "content": streamed(messages)})
