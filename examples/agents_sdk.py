"""Agents of the openai-agents package on your own server: tools, a stream, memory, typed output.

pip install openai-agents
ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/agents_sdk.py
"""

from __future__ import annotations

import asyncio
import os

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from agents.mcp import MCPServerStreamableHttp
from openai import AsyncOpenAI
from pydantic import BaseModel

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")

set_tracing_disabled(True)  # traces would go to OpenAI
# OpenAIChatCompletionsModel takes the same arguments and works as well.
model = OpenAIResponsesModel("demo", AsyncOpenAI(base_url=f"{SERVER}/v1", api_key="none"))
greedy = ModelSettings(temperature=0)


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f'{{"city": "{city}", "temperature": 21}}'


class Person(BaseModel):
    name: str
    age: int
    city: str


async def main() -> None:
    # A function of this program, and the tools that the server offers over MCP.
    tools = MCPServerStreamableHttp({"url": f"{SERVER}/mcp"}, client_session_timeout_seconds=60)
    async with tools:
        known = {"tools": [get_weather], "mcp_servers": [tools]}
        assistant = Agent("assistant", model=model, model_settings=greedy, **known)
        for question in ("What is the weather in Paris?", "What is 17 * 23?"):
            result = await Runner.run(assistant, question)
            print("answer:", result.final_output)

        stream = Runner.run_streamed(assistant, "What is the weather in Madrid?")
        async for event in stream.stream_events():
            if event.type == "raw_response_event":
                if event.data.type == "response.output_text.delta":
                    print(event.data.delta, end="|", flush=True)
            elif event.type == "run_item_stream_event":
                print(f"[{event.name}]", end=" ", flush=True)
        print()

    # A session remembers for the agent.
    plain = Agent("plain", model=model, model_settings=greedy)
    session = SQLiteSession("colors")
    await Runner.run(plain, "My favorite color is green.", session=session)
    result = await Runner.run(plain, "What is my favorite color?", session=session)
    print("recalled:", result.final_output)

    # Typed output: the model cannot write anything but the JSON of a Person.
    clerk = Agent("clerk", model=model, model_settings=greedy, output_type=Person)
    result = await Runner.run(clerk, "Name: Alice, age: 31, city: Rome")
    person: Person = result.final_output
    print(f"person: {person.name}, {person.age}, {person.city}")


asyncio.run(main())
