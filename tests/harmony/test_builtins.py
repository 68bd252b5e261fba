"""Tools that gpt-oss was trained on: declared in the system message, called on analysis."""

from __future__ import annotations

from openai_harmony import Author, Conversation, Message, Role, SystemContent

from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import (
    BuiltinTool,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Turn,
    UserMessage,
)

PYTHON = BuiltinTool("python")
SEARCH = BuiltinTool("browser.search", {"type": "object"})


def prompt(tokenizer: Tokenizer, *items: object, **fields: object) -> str:
    turn = Turn((UserMessage("Hi"), *items), **fields)  # type: ignore[arg-type]
    return tokenizer.decode(render_prompt(turn, tokenizer))


def test_the_browser_is_declared_in_the_words_of_the_training(tokenizer: Tokenizer) -> None:
    content = SystemContent.new().with_browser_tool()
    conversation = Conversation.from_messages(
        [
            Message.from_role_and_content(Role.SYSTEM, content),
            Message.from_role_and_content(Role.USER, "Hi"),
        ]
    )
    ids = tokenizer.harmony.render_conversation_for_completion(conversation, Role.ASSISTANT)
    assert prompt(tokenizer, builtins=(SEARCH,)) == tokenizer.decode(ids)


def test_python_is_said_to_have_no_network(tokenizer: Tokenizer) -> None:
    text = prompt(tokenizer, builtins=(PYTHON,))
    assert "## python\n\nUse this tool to execute Python code" in text
    assert "Internet access for this session is disabled." in text
    assert "namespace browser" not in text


def test_built_in_tools_and_functions_stand_in_different_messages(tokenizer: Tokenizer) -> None:
    text = prompt(tokenizer, builtins=(PYTHON, SEARCH), tools=(ToolDefinition("weather"),))
    system, developer = text.split("<|start|>developer")
    assert system.index("namespace browser") < system.index("## python")
    assert "Calls to these tools must go to the commentary channel: 'functions'." in system
    assert "type weather = () => any;" in developer
    assert "python" not in developer


def test_a_call_and_its_result_stand_on_analysis(tokenizer: Tokenizer) -> None:
    text = prompt(
        tokenizer,
        ToolCall("c1", "python", "print(1)", builtin=True),
        ToolResult("c1", "python", "1\n", builtin=True),
        builtins=(PYTHON,),
    )
    assert text.endswith(
        "<|start|>assistant to=python<|channel|>analysis code<|message|>print(1)<|call|>"
        "<|start|>python to=assistant<|channel|>analysis<|message|>1\n<|end|><|start|>assistant"
    )


def test_the_library_reads_the_result_as_one_of_the_tool(tokenizer: Tokenizer) -> None:
    result = ToolResult("c1", "browser.search", "[0] A page", builtin=True)
    ids = render_prompt(Turn((result,), builtins=(SEARCH,)), tokenizer)
    [_, message] = tokenizer.harmony.parse_messages_from_completion_tokens(
        ids[1 : ids.index(ids[0], 1)] + ids[ids.index(ids[0], 1) : -2], role=Role.SYSTEM
    )
    assert message.author == Author(role=Role.TOOL, name="browser.search")
    assert message.channel == "analysis"
    assert message.recipient == "assistant"
