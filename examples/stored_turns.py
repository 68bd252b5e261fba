"""Let the server keep the conversation: by the id of a response, as a conversation, in background.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/stored_turns.py
"""

from __future__ import annotations

import os
from typing import Any

from openai import NotFoundError, OpenAI
from openai.types.responses import Response

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")
MODEL = "demo"

client = OpenAI(base_url=f"{SERVER}/v1", api_key="none")


def ask(text: str, **more: Any) -> Response:
    # Without `tools`, the model has all tools that the server runs; here it needs none.
    return client.responses.create(model=MODEL, input=text, temperature=0, tools=[], **more)


print("After a response, by its id:")
told = ask("My favorite color is green.")
recalled = ask("What is my favorite color?", previous_response_id=told.id)
print(" ", recalled.output_text)

print("In a conversation, which grows:")
conversation = client.conversations.create(metadata={"topic": "colors"})
ask("My favorite color is blue.", conversation=conversation.id)
print(" ", ask("What is my favorite color?", conversation=conversation.id).output_text)
items = client.conversations.items.list(conversation.id, order="asc")
print("  items:", " ".join(getattr(item, "role", item.type) for item in items))

print("In the background, with a stream that is left and taken up again:")
left_at, response_id, text = 0, "", ""
with client.responses.create(
    model=MODEL, input="What can you do?", temperature=0, tools=[], background=True, stream=True
) as events:
    for event in events:
        left_at = event.sequence_number
        if event.type == "response.created":
            response_id = event.response.id
        elif event.type == "response.output_text.delta":
            text += event.delta
            break  # the connection is closed here; the response goes on
print("  left after:", repr(text))
for event in client.responses.retrieve(response_id, stream=True, starting_after=left_at):
    if event.type == "response.output_text.delta":
        text += event.delta
stored = client.responses.retrieve(response_id)
print(f"  {stored.status}: {stored.output_text}")
print("  the two parts are the whole:", text == stored.output_text)

print("Deleted, it is gone; otherwise it would be after 30 days without use:")
client.responses.delete(response_id)
try:
    client.responses.retrieve(response_id)
except NotFoundError as error:
    print(f"  {error.status_code} {error.code}")
client.conversations.delete(conversation.id)

print("Not stored at all, the client carries everything, reasoning too (sealed):")
unstored = ask("My locker code is 4711.", store=False, include=["reasoning.encrypted_content"])
history = [{"role": "user", "content": "My locker code is 4711."}, *unstored.output]
question = {"role": "user", "content": "What is my locker code?"}
print(" ", ask([*history, question], store=False).output_text)
