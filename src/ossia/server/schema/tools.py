"""Tools that a request declares, and which of them the model may call."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ossia.server.body import RequestModel


class FunctionDefinition(RequestModel):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments object."
    )
    strict: bool | None = Field(
        None,
        description="true: a schema that cannot be enforced whole is refused. Else as much of it "
        "as can be is enforced.",
    )


class ToolSpec(RequestModel):
    """A function of the client, or a tool that the server runs (mcp, web_search, ...)."""

    type: str
    function: FunctionDefinition | None = None
    server_label: str | None = Field(None, description="Of type mcp: what to call the server.")
    server_url: str | None = Field(
        None, description="Of type mcp: where it is. Left out: a server that is configured here."
    )
    headers: dict[str, str] | None = Field(None, description="Of type mcp.")
    authorization: str | None = Field(None, description="Of type mcp: its bearer token.")
    allowed_tools: list[str] | dict[str, Any] | None = Field(None, description="Of type mcp.")
    require_approval: str | dict[str, Any] | None = Field(
        None, description="Of type mcp: must be never with a server_url, nobody could be asked."
    )


class NamedFunction(RequestModel):
    """The name of a function."""

    name: str


class NamedTool(RequestModel):
    """A declared function, by its name."""

    type: str
    function: NamedFunction | None = None


class AllowedTools(RequestModel):
    """Some of the declared functions. The model is shown all of them and may call these."""

    mode: str = Field(description="auto, or required: at least one of them is called.")
    tools: list[NamedTool]


class ToolChoiceSpec(RequestModel):
    """One function that has to be called (type function), or a set (type allowed_tools)."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
