"""Ask a running server a question with the openai SDK: reasoning and answer, then as a stream.

make run                      # in another terminal
python examples/chat.py
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OSSIA_URL", "http://127.0.0.1:8000") + "/v1", api_key="none"
)

answer = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": "What is 47 + 38?"}],
    temperature=0,
)
message = answer.choices[0].message
print("reasoning:", message.reasoning)
print("answer:   ", message.content)

stream = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": "Who are you?"}],
    temperature=0,
    reasoning_effort="low",
    stream=True,
)
for chunk in stream:
    delta = chunk.choices[0].delta
    print(getattr(delta, "reasoning_content", None) or delta.content or "", end="|", flush=True)
print()
