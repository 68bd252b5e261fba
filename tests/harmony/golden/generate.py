"""Writes the golden prompts next to this file, with openai-harmony 0.0.8.

Run by hand, with that version on PYTHONPATH; it reads the file o200k_base.tiktoken from the folder
that TIKTOKEN_ENCODINGS_BASE names. `tests/harmony/test_prompt.py` holds the same conversations as
turns. Where 0.0.8 keeps chain of thought of an ended turn that the format guide drops, the
conversation here leaves it out.
"""

from pathlib import Path

from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    Role,
    SystemContent,
    ToolDescription,
    load_harmony_encoding,
)

WEATHER = [
    ToolDescription.new("get_location", "Gets the location of the user."),
    ToolDescription.new(
        "get_current_weather",
        "Gets the current weather in the provided location.\nNever guesses.",
        {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. San Francisco, CA",
                },
                "format": {
                    "type": "string",
                    "enum": ["celsius", "fahrenheit"],
                    "default": "celsius",
                },
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["location"],
        },
    ),
]
KITCHEN_SINK = [
    ToolDescription.new(
        "kitchensink",
        "A function with various complex schemas.",
        {
            "type": "object",
            "description": "params object",
            "properties": {
                "string": {
                    "type": "string",
                    "title": "STRING",
                    "description": "A string",
                    "examples": ["hello", "world"],
                },
                "string_nullable": {
                    "type": "string",
                    "nullable": True,
                    "description": "A nullable string",
                    "default": "the default",
                },
                "type_list": {"type": ["integer", "null"]},
                "oneof_string_or_number": {
                    "oneOf": [
                        {"type": "string", "default": "default_string_in_oneof"},
                        {"type": "number", "description": "numbers can happen too"},
                    ],
                    "description": "a oneof",
                    "default": 20,
                },
                "nested": {
                    "type": "object",
                    "properties": {"flag": {"type": "boolean", "default": False}},
                    "required": ["flag"],
                },
                "anything": {},
                "list": {"type": "array"},
            },
            "required": ["nested"],
        },
    )
]


def system(effort: str = "MEDIUM", date: str | None = "2025-06-28") -> Message:
    content = SystemContent.new().with_reasoning_effort(ReasoningEffort[effort])
    if date is not None:
        content = content.with_conversation_start_date(date)
    return Message.from_role_and_content(Role.SYSTEM, content)


def developer(instructions: str | None, tools: list[ToolDescription]) -> Message:
    content = DeveloperContent.new()
    if instructions is not None:
        content = content.with_instructions(instructions)
    if tools:
        content = content.with_function_tools(tools)
    return Message.from_role_and_content(Role.DEVELOPER, content)


def user(text: str) -> Message:
    return Message.from_role_and_content(Role.USER, text)


def said(channel: str, text: str) -> Message:
    return Message.from_role_and_content(Role.ASSISTANT, text).with_channel(channel)


def call(name: str, arguments: str) -> Message:
    message = said("commentary", arguments).with_recipient(f"functions.{name}")
    return message.with_content_type("json")


def result(name: str, output: str) -> Message:
    message = Message.from_author_and_content(Author.new(Role.TOOL, f"functions.{name}"), output)
    return message.with_channel("commentary").with_recipient("assistant")


CONVERSATIONS = {
    "plain": [system(), user("What is 2 + 2?")],
    "no_date_low_effort": [system("LOW", None), user("Grüße, 世界! 👋🏽\n\n  Bye.")],
    "instructions": [system("HIGH"), developer("Always respond in riddles.", []), user("Hi")],
    "tools_without_instructions": [system(), developer(None, WEATHER), user("Where am I?")],
    "kitchen_sink": [system(), developer("Use a friendly tone.", KITCHEN_SINK), user("Go.")],
    "open_turn_with_tool_call": [
        system(),
        developer("Use a friendly tone.", WEATHER),
        user("What is the weather like here?"),
        said("analysis", "I need the location first."),
        said("commentary", "I will look up where you are, then the weather."),
        call("get_location", "{}"),
        result("get_location", '{"city": "Tokyo"}'),
        said("analysis", "Tokyo. Now the weather."),
        call("get_current_weather", '{"location": "Tokyo"}'),
        result("get_current_weather", '{"temperature": 20, "sunny": true}'),
    ],
    "ended_turns": [
        system(),
        developer(None, WEATHER),
        user("What is the weather like here?"),
        call("get_location", "{}"),
        result("get_location", '{"city": "Tokyo"}'),
        said("final", "You are in Tokyo; it is sunny."),
        user("And tomorrow?"),
        said("analysis", "I need the forecast."),
        call("get_current_weather", '{"location":"Tokyo","days":[1]}'),
        result("get_current_weather", "rain"),
    ],
    "thought_of_an_answered_question": [
        system(),
        user("What is 2 + 2?"),
        said("analysis", 'User asks: "What is 2 + 2?" Simple arithmetic.'),
        said("final", "2 + 2 = 4."),
        user("What about 9 / 2?"),
    ],
}


def main() -> None:
    encoding = load_harmony_encoding("HarmonyGptOss")
    for name, messages in CONVERSATIONS.items():
        conversation = Conversation.from_messages(messages)
        config = RenderConversationConfig(auto_drop_analysis=True)
        ids = encoding.render_conversation_for_completion(conversation, Role.ASSISTANT, config)
        text = encoding.decode_utf8(ids)
        if encoding.encode(text, allowed_special="all") != ids:
            raise SystemExit(f"{name}: the text does not give the ids back")
        Path(__file__).with_name(f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
