"""Answers that fit a pydantic model, a list of choices or a pattern: always, not mostly.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/structured_output.py
"""

from __future__ import annotations

import os
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")
MODEL = "demo"
TEXT = "name: Alice, people: 4, date: 2026-05-17, status: final"

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none")


class Booking(BaseModel):
    name: str
    people: int
    date: str
    status: Literal["draft", "final"]


# The schema of the model goes with the request; what comes back is an object of it.
response = client.responses.parse(
    model=MODEL, input=TEXT, text_format=Booking, tools=[], temperature=0
)
print("responses:", repr(response.output_parsed))

completion = client.chat.completions.parse(
    model=MODEL,
    messages=[{"role": "user", "content": TEXT}],
    response_format=Booking,
    temperature=0,
)
print("chat:     ", repr(completion.choices[0].message.parsed))

# Forms that OpenAI's API does not have. The model is not shown them: say what you want, too.
FORMS: list[Any] = [
    {"type": "choice", "choices": ["47 + 38 = 75.", "47 + 38 = 85."]},
    {"type": "regex", "pattern": r"47 \+ 38 = \d+\."},
    {"type": "grammar", "grammar": 'start: "47 + 38 = " NUMBER "."\nNUMBER: /[0-9]+/'},
]
for form in FORMS:
    response = client.responses.create(
        model=MODEL, input="What is 47 + 38?", text={"format": form}, tools=[], temperature=0
    )
    print(f"{form['type'] + ':':10}", response.output_text)

# In Chat Completions they are values of response_format.
chosen = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "What is 47 + 38?"}],
    response_format=FORMS[0],
    temperature=0,
)
print("choice:   ", chosen.choices[0].message.content)
