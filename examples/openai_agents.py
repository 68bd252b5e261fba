"""Agents of the openai-agents package on your own server: tools, a stream, and typed output.

pip install openai-agents
make run                      # in another terminal
python examples/openai_agents.py
"""

import asyncio
import os

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

set_tracing_disabled(True)  # traces would go to OpenAI
client = AsyncOpenAI(
    base_url=os.environ.get("OSSIA_URL", "http://127.0.0.1:8000") + "/v1", api_key="none"
)
model = OpenAIChatCompletionsModel("demo", client)
greedy = ModelSettings(temperature=0)


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f'{{"city": "{city}", "temperature": 21}}'


class Person(BaseModel):
    name: str
    age: int
    city: str


assistant = Agent("assistant", model=model, tools=[get_weather], model_settings=greedy)
clerk = Agent("clerk", model=model, output_type=Person, model_settings=greedy)


async def main() -> None:
    # The agent calls the function, gives the model its result, and the model answers.
    result = await Runner.run(assistant, "What is the weather in Paris?")
    print("answer:", result.final_output)

    # The same as a stream.
    stream = Runner.run_streamed(assistant, "What is the weather in Madrid?")
    async for event in stream.stream_events():
        if event.type == "raw_response_event":
            if isinstance(event.data, ResponseTextDeltaEvent):
                print(event.data.delta, end="|", flush=True)
        elif event.type == "run_item_stream_event":
            print(f"[{event.name}]", end=" ", flush=True)
    print()

    # Typed output: the model cannot write anything but the JSON of a Person.
    result = await Runner.run(clerk, "Name: Alice, age: 31, city: Rome")
    person: Person = result.final_output
    print(f"person: {person.name}, {person.age}, {person.city}")


asyncio.run(main())
