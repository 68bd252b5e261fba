"""Let the server run a tool: one request, and the answer has used the calculator.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/server_tools.py
"""

from __future__ import annotations

import os
from typing import Any

from openai import OpenAI

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")
MODEL = "demo"
# `--tool-server demo` gives the server the tools calculator, echo and time under this label.
DEMO: Any = {"type": "mcp", "server_label": "demo", "allowed_tools": ["calculator"]}

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none")

print("The Responses API shows each step as an item:")
response = client.responses.create(
    model=MODEL, input="What is 17 * 23?", tools=[DEMO], temperature=0
)
for item in response.output:
    match item.type:
        case "mcp_list_tools":
            print("  tools:    ", ", ".join(tool.name for tool in item.tools))
        case "reasoning":
            print("  reasoning:", item.content[0].text)
        case "mcp_call":
            print("  call:     ", item.name, item.arguments, "->", item.output)
        case "message":
            print("  answer:   ", item.content[0].text)

print("As a stream, with an event for each step:")
events = client.responses.create(
    model=MODEL, input="Calculate 1234 * 5678.", tools=[DEMO], temperature=0, stream=True
)
for event in events:
    if event.type in ("response.mcp_call.in_progress", "response.mcp_call.completed"):
        print("  event:    ", event.type)
    elif event.type == "response.completed":
        print("  answer:   ", event.response.output_text)

print("Nothing runs before you have agreed, if you say so:")
careful = {**DEMO, "require_approval": "always"}
asking = client.responses.create(
    model=MODEL, input="What is 23 * 17 + 4?", tools=[careful], temperature=0
)
request = asking.output[-1]
print("  asks for: ", request.name, request.arguments)
approval = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
agreed = client.responses.create(
    model=MODEL,
    input=[approval],
    previous_response_id=asking.id,
    tools=[careful],
    temperature=0,
)
print("  answer:   ", agreed.output_text)

print("Chat Completions has no place for the steps, but they are taken:")
completion = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "What is 17 * 23?"}],
    tools=[DEMO],
    temperature=0,
)
print("  answer:   ", completion.choices[0].message.content)
