"""Tools that the server runs: built in, plugged in, and of MCP servers.

What a plug-in needs is here: `function_tool` makes a tool of a typed function, and a class of its
own derives from `Tool`.
"""

from ossia.tools.functions import function_tool
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

__all__ = ["CallContext", "Tool", "ToolError", "ToolOutput", "function_tool"]
