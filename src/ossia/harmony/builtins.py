"""The tools that gpt-oss was trained on, as its system message declares them.

The words are those of the training, which oss-harmony knows. Only what would be wrong of this
server is put right: its python tool has no network.
"""

from __future__ import annotations

from collections.abc import Sequence

from openai_harmony import Message, Role, SystemContent, ToolNamespaceConfig

from ossia.harmony.tokenizer import MESSAGE, Tokenizer
from ossia.turn import BuiltinTool

_NETWORK_OF_TRAINING = "Internet access for this session is UNKNOWN. Depends on the cluster."
_NETWORK = "Internet access for this session is disabled."


def render_builtins(tools: Sequence[BuiltinTool], tokenizer: Tokenizer) -> str:
    """The `# Tools` section of the system message, for one tool or more."""
    namespaces = {tool.namespace for tool in tools}
    content = SystemContent.new()
    if "browser" in namespaces:
        content = content.with_browser_tool()
    if "python" in namespaces:
        python = ToolNamespaceConfig.python()
        assert python.description is not None
        python.description = python.description.replace(_NETWORK_OF_TRAINING, _NETWORK)
        content = content.with_tools(python)
    ids = tokenizer.harmony.render(Message.from_role_and_content(Role.SYSTEM, content))
    text = tokenizer.decode(ids[ids.index(MESSAGE) + 1 : -1])
    start, end = text.index("# Tools"), text.index("# Valid channels")
    return text[start:end].strip()
