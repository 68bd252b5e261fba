"""Answers that fit a pydantic model, a list of choices or a pattern: always, not mostly.

make run                      # in another terminal
python examples/structured.py
"""

import os
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(
    base_url=os.environ.get("OSSIA_URL", "http://127.0.0.1:8000") + "/v1", api_key="none"
)


class Booking(BaseModel):
    name: str
    people: int
    date: str
    status: Literal["draft", "final"]


answer = client.chat.completions.parse(
    model="demo",
    messages=[
        {"role": "user", "content": "name: Alice, people: 4, date: 2026-05-17, status: final"}
    ],
    response_format=Booking,
    temperature=0,
)
print(repr(answer.choices[0].message.parsed))

# Arguments of functions fit their schemas as well; tool_choice says that one has to be called.
tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
called = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": "What is the weather in Paris, unit celsius?"}],
    tools=[tool],
    tool_choice="required",
    temperature=0,
)
print("call:", called.choices[0].message.tool_calls[0].function.arguments)

# Not part of OpenAI's API: one of several texts, or a regular expression.
for form in (
    {"type": "choice", "choices": ["47 + 38 = 75.", "47 + 38 = 85."]},
    {"type": "regex", "pattern": r"47 \+ 38 = \d+\."},
):
    chosen = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is 47 + 38?"}],
        response_format=form,
        temperature=0,
    )
    print(f"{form['type']}:", chosen.choices[0].message.content)
