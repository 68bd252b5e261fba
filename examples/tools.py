"""Let the model call functions of yours: it names one, you run it, and it goes on.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/tools.py
"""

from __future__ import annotations

import json
import os
from typing import Any

from openai import OpenAI

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")
MODEL = "demo"
MOST_TURNS = 5  # a model that calls again and again is stopped

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none")


def get_weather(city: str, unit: str = "celsius") -> dict[str, Any]:
    return {"city": city, "temperature": 21 if unit == "celsius" else 70}


def send_message(to: str, text: str) -> dict[str, Any]:
    return {"status": "sent", "to": to, "length": len(text)}


FUNCTIONS = {"get_weather": get_weather, "send_message": send_message}


def declared(name: str, description: str, required: list[str], **properties: Any) -> Any:
    """A function as the model is told about it: its arguments will fit this schema, always."""
    schema = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


UNIT = {"type": "string", "enum": ["celsius", "fahrenheit"]}
TEXT = {"type": "string"}
TOOLS = [
    declared("get_weather", "Get the weather of a city.", ["city"], city=TEXT, unit=UNIT),
    declared("send_message", "Send a message to a person.", ["to", "text"], to=TEXT, text=TEXT),
]


def answer(question: str, tool_choice: str = "auto") -> str:
    """Asks, runs the functions that the model calls, and returns what it says in the end."""
    print(f"\n> {question}")
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(MOST_TURNS):
        completion = client.chat.completions.create(
            model=MODEL, messages=messages, tools=TOOLS, tool_choice=tool_choice, temperature=0
        )
        message = completion.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content or ""
        for call in message.tool_calls:  # there may be several in one turn
            name, arguments = call.function.name, json.loads(call.function.arguments)
            result = json.dumps(FUNCTIONS[name](**arguments))
            print(f"call:   {name} {arguments} -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        tool_choice = "auto"
    return "The model did not come to an end."


print("answer:", answer("What is the weather in Paris?"))
print("answer:", answer('Tell Anna "see you on Monday"'))
print("answer:", answer("Hello"))  # no function fits, so none is called
print("answer:", answer("weather in Rome, use fahrenheit", tool_choice="required"))
