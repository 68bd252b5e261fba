"""Let the model call a function of yours, and give it the result.

make run                      # in another terminal
python examples/tools.py
"""

import json
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OSSIA_URL", "http://127.0.0.1:8000") + "/v1", api_key="none"
)
tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
messages = [{"role": "user", "content": "What is the weather in Paris?"}]

answer = client.chat.completions.create(model="demo", messages=messages, tools=tools, temperature=0)
message = answer.choices[0].message
call = message.tool_calls[0]
print("call:  ", call.function.name, call.function.arguments)

city = json.loads(call.function.arguments)["city"]
messages += [
    message,
    {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"temperature": 21})},
]
answer = client.chat.completions.create(model="demo", messages=messages, tools=tools, temperature=0)
print("answer:", answer.choices[0].message.content)
