"""What the tools of one request are: what the model is shown, and who runs a call of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ossia.errors import InvalidRequest
from ossia.tools.checks import plain_json
from ossia.tools.tool import Tool
from ossia.turn import BuiltinTool, ToolChoice, ToolDefinition

FREE_TEXT = "input"  # the one argument of a tool that takes any text


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool that the model may call.

    Attributes:
        definition: how the model is told about it; its name is what the model writes.
        kind: a function of the client, one that takes free text, or a tool that the server runs.
        wire_name: what the client calls it, within `namespace` if there is one.
        tool: runs it, if the server does.
        server_label: what the client calls the server that it belongs to.
        needs_approval: the client is asked before the server runs it.
    """

    definition: ToolDefinition | BuiltinTool
    kind: Literal["function", "custom", "server"] = "function"
    wire_name: str = ""
    namespace: str | None = None
    tool: Tool | None = None
    server_label: str = ""
    needs_approval: bool = False

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.definition.name

    @property
    def is_builtin(self) -> bool:
        """Whether gpt-oss was trained on it."""
        return isinstance(self.definition, BuiltinTool)


@dataclass(frozen=True, slots=True)
class Toolset:
    """The tools of a request by the name that the model uses, and the choice among them."""

    offers: Mapping[str, Offer] = field(default_factory=dict)
    choice: ToolChoice = field(default_factory=ToolChoice)

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        """Functions, in the order of the request."""
        found = (offer.definition for offer in self.offers.values())
        return tuple(one for one in found if isinstance(one, ToolDefinition))

    @property
    def builtins(self) -> tuple[BuiltinTool, ...]:
        """Tools that gpt-oss was trained on."""
        found = (offer.definition for offer in self.offers.values())
        return tuple(one for one in found if isinstance(one, BuiltinTool))

    @property
    def runs_on_server(self) -> bool:
        """Whether any of them is run here."""
        return any(offer.kind == "server" for offer in self.offers.values())

    def without_server_tools(self, choice: ToolChoice) -> ToolChoice:
        """What is left of a choice when the server has run as many calls as it may."""
        names = tuple(
            name
            for name, offer in self.offers.items()
            if offer.kind != "server" and (choice.names is None or name in choice.names)
        )
        return ToolChoice(choice.mode if names else "auto", names, builtins=False)


def by_name(offers: Iterable[tuple[str, Offer]]) -> dict[str, Offer]:
    """Offers by the name that the model uses; each comes with the field that declares it.

    Raises:
        InvalidRequest: two have the same name.
    """
    found: dict[str, Offer] = {}
    for path, offer in offers:
        if offer.name in found:
            raise InvalidRequest(
                f"Two tools have the name {offer.name!r}; each needs its own.", param=path
            )
        found[offer.name] = offer
    return found


def server_offer(
    tool: Tool, taken: Collection[str] = (), *, label: str = "", needs_approval: bool = False
) -> Offer:
    """The offer of a tool that the server runs; its label precedes a name that is `taken`."""
    label = label or tool.server_label
    definition: ToolDefinition | BuiltinTool
    if tool.builtin is not None:
        schema = None if tool.builtin == "python" else plain_json(tool.parameters)
        definition = BuiltinTool(tool.name, schema)
    else:
        name = f"{label}.{tool.name}" if tool.name in taken else tool.name
        definition = ToolDefinition(name, tool.description, plain_json(tool.parameters))
    return Offer(
        definition,
        "server",
        getattr(tool, "remote_name", tool.name),
        tool=tool,
        server_label=label,
        needs_approval=needs_approval or tool.needs_approval,
    )
