"""The tools of a request to the Responses API: what the model is shown, and who runs a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ossia.errors import InvalidRequest
from ossia.server.chat_tools import check_name
from ossia.server.server_tools import OWN_LABELS, ServerTools
from ossia.server.toolset import FREE_TEXT, Offer, Toolset, by_name, server_offer
from ossia.tools.tool import Tool
from ossia.turn import ToolChoice, ToolDefinition

JsonObject = Mapping[str, Any]

# OpenAI's names for what gpt-oss has built in.
HOSTED: Mapping[str, str] = {
    "web_search": "browser",
    "web_search_preview": "browser",
    "code_interpreter": "python",
}
_FREE_TEXT_SCHEMA = {
    "type": "object",
    "properties": {FREE_TEXT: {"type": "string"}},
    "required": [FREE_TEXT],
    "additionalProperties": False,
}
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolListing:
    """What an MCP server that the request names has to offer, or why it is not known."""

    label: str
    tools: Sequence[Tool]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RequestTools:
    """The tools of one request."""

    toolset: Toolset
    listings: Sequence[ToolListing] = field(default_factory=tuple)

    def name_of(self, label: str, name: str) -> str:
        """What the model calls the tool `name` of the server `label`."""
        for offer in self.toolset.offers.values():
            if offer.kind == "server" and (offer.server_label, offer.wire_name) == (label, name):
                return offer.name
        return name


async def request_tools(
    specs: Sequence[JsonObject] | None,
    choice: str | JsonObject | None,
    server: ServerTools,
) -> RequestTools:
    """The tools that `specs` name; without any, all that the server runs.

    A tool that this server cannot run is left out with a line in the log: agents send lists of
    tools that were made for other servers. Choosing it is refused.

    Raises:
        InvalidRequest: a tool that cannot be declared, or a choice that is not among the tools.
    """
    offers: list[tuple[str, Offer]] = []
    listings: list[ToolListing] = []
    if specs is None:
        offers += [("tools", offer) for offer in server_offers(server.all(), [])]
    # Servers come last, so that their tools give way to the names of the client's own.
    for index, spec in sorted(enumerate(specs or ()), key=lambda pair: _is_mcp(pair[1])):
        path = f"tools[{index}]"
        if not isinstance(spec, Mapping):
            raise _wrong(path, "an object")
        kind = _text(spec, "type", path)
        if kind == "function":
            offers.append((f"{path}.name", _function(spec, path)))
        elif kind == "custom":
            offers.append((f"{path}.name", _custom(spec, path)))
        elif kind == "namespace":
            offers += _namespace(spec, path, server)
        elif kind == "mcp":
            listing, approval = await _mcp(spec, path, server)
            listings.append(listing)
            taken = [offer.name for _, offer in offers]
            new = _not_offered(listing.tools, offers)
            offers += [
                (path, offer) for offer in server_offers(new, taken, listing.label, approval)
            ]
        elif tools := server.builtin(HOSTED.get(kind, "")):
            new = _not_offered(tools, offers)
            offers += [(path, offer) for offer in server_offers(new, [])]
        else:
            server.note_left_out(kind)
    found = by_name(offers)
    chosen = tool_choice(choice, found)
    return RequestTools(Toolset() if chosen is None else Toolset(found, chosen), listings)


def _not_offered(tools: Sequence[Tool], offers: Sequence[tuple[str, Offer]]) -> list[Tool]:
    """Those that no earlier spec has brought: two may name the same tool of this server."""
    known = {id(offer.tool) for _, offer in offers}
    return [tool for tool in tools if id(tool) not in known]


def _is_mcp(spec: object) -> bool:
    return isinstance(spec, Mapping) and spec.get("type") == "mcp"


def server_offers(
    tools: Sequence[Tool],
    taken: Sequence[str],
    label: str = "",
    needs_approval: Callable[[str], bool] = lambda name: False,
) -> Iterator[Offer]:
    """Offers of tools that the server runs, each under a name that is not `taken`."""
    names = set(taken)
    for tool in tools:
        asks = needs_approval(getattr(tool, "remote_name", tool.name))
        offer = server_offer(tool, names, label=label, needs_approval=asks)
        names.add(offer.name)
        yield offer


def _function(spec: JsonObject, path: str, namespace: str | None = None) -> Offer:
    name = _text(spec, "name", path)
    check_name(name, f"{path}.name")
    parameters = spec.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise _wrong(f"{path}.parameters", "an object, a JSON schema")
    definition = ToolDefinition(
        name=f"{namespace}.{name}" if namespace else name,
        description=str(spec.get("description") or ""),
        parameters=parameters,
        strict=bool(spec.get("strict")),
        path=f"{path}.parameters",
    )
    return Offer(definition, "function", name, namespace)


def _custom(spec: JsonObject, path: str, namespace: str | None = None) -> Offer:
    name = _text(spec, "name", path)
    check_name(name, f"{path}.name")
    description = [str(spec.get("description") or "")]
    format_ = spec.get("format")
    if isinstance(format_, Mapping) and format_.get("type") == "grammar":
        syntax, grammar = format_.get("syntax"), format_.get("definition")
        description.append(f"`{FREE_TEXT}` must follow this {syntax} grammar:\n{grammar}")
    definition = ToolDefinition(
        name=f"{namespace}.{name}" if namespace else name,
        description="\n\n".join(text for text in description if text),
        parameters=_FREE_TEXT_SCHEMA,
        strict=True,
    )
    return Offer(definition, "custom", name, namespace)


def _namespace(spec: JsonObject, path: str, server: ServerTools) -> Iterator[tuple[str, Offer]]:
    namespace = _text(spec, "name", path)
    check_name(namespace, f"{path}.name")
    # The namespace of all functions of harmony is not one of the client's own.
    inner = None if namespace == "functions" else namespace
    tools = spec.get("tools")
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise _wrong(f"{path}.tools", "a list")
    for index, tool in enumerate(tools):
        place = f"{path}.tools[{index}]"
        if not isinstance(tool, Mapping):
            raise _wrong(place, "an object")
        kind = _text(tool, "type", place)
        make = {"function": _function, "custom": _custom}.get(kind)
        if make is None:
            server.note_left_out(kind)
            continue
        yield f"{place}.name", make(tool, place, inner)


async def _mcp(
    spec: JsonObject, path: str, server: ServerTools
) -> tuple[ToolListing, Callable[[str], bool]]:
    label = _text(spec, "server_label", path)
    if not _LABEL.fullmatch(label):
        raise InvalidRequest(
            f"{path}.server_label is {label[:80]!r}; use 1 to 64 letters, digits, dots, hyphens or "
            "underscores.",
            param=f"{path}.server_label",
        )
    allowed = _tool_names(spec.get("allowed_tools"), f"{path}.allowed_tools")
    url = spec.get("server_url")
    if url is None:
        tools = server.by_label(label)
        if tools is None:
            known = ", ".join(sorted(server.labels())) or "none"
            raise InvalidRequest(
                f"{path}.server_url is required, because this server has no tool server called "
                f"{label!r} (it has: {known}).",
                param=f"{path}.server_url",
                code="missing_required_parameter",
            )
        approval = _approval(spec.get("require_approval", "never"), f"{path}.require_approval")
        error = None
    else:
        approval = _approval(spec.get("require_approval", "always"), f"{path}.require_approval")
        tools, error = await server.connect(
            label, _text(spec, "server_url", path), _headers(spec, path), path
        )
    kept = [
        tool
        for tool in tools
        if allowed is None or getattr(tool, "remote_name", tool.name) in allowed
    ]
    return ToolListing(label, kept, error), approval


def _headers(spec: JsonObject, path: str) -> dict[str, str]:
    headers = spec.get("headers") or {}
    if not isinstance(headers, Mapping) or not all(isinstance(v, str) for v in headers.values()):
        raise _wrong(f"{path}.headers", "an object of strings")
    found = dict(headers)
    if authorization := spec.get("authorization"):
        found["Authorization"] = f"Bearer {authorization}"
    return found


def _tool_names(given: Any, path: str) -> frozenset[str] | None:
    """Names in a list, or in an object with `tool_names`; None is all of them."""
    if isinstance(given, Mapping):
        given = given.get("tool_names")
    if given is None:
        return None
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise _wrong(path, "a list of names, or an object with tool_names")
    return frozenset(map(str, given))


def _approval(given: Any, path: str) -> Callable[[str], bool]:
    if given is None or given == "always":
        return lambda name: True
    if given == "never":
        return lambda name: False
    if not isinstance(given, Mapping):
        raise _wrong(path, "always, never, or an object that names tools for both")
    never = _tool_names(given.get("never") or {}, f"{path}.never")
    always = _tool_names(given.get("always") or {}, f"{path}.always")
    if given.get("never") and never is not None:
        return lambda name: name not in never
    return lambda name: always is None or name in always


def tool_choice(given: str | JsonObject | None, offers: Mapping[str, Offer]) -> ToolChoice | None:
    """What the model may or has to call; None hides the tools.

    Raises:
        InvalidRequest: not a choice, or not among the tools.
    """
    if given is None or given == "auto":
        return ToolChoice()
    if given == "none":
        return None
    if given == "required":
        if not offers:
            raise InvalidRequest(
                "tool_choice is required, but there are no tools; declare one, or leave "
                "tool_choice out.",
                param="tool_choice",
            )
        return ToolChoice("required")
    if isinstance(given, Mapping):
        kind = given.get("type")
        if kind == "allowed_tools":
            return _allowed(given, offers)
        return _one_of("required", [given], offers, "tool_choice", listed=False)
    raise InvalidRequest(
        "tool_choice must be none, auto, required, or an object that names a tool.",
        param="tool_choice",
    )


def _allowed(given: JsonObject, offers: Mapping[str, Offer]) -> ToolChoice:
    mode = given.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise InvalidRequest("tool_choice.mode must be auto or required.", param="tool_choice.mode")
    tools = given.get("tools")
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not tools:
        raise InvalidRequest(
            "tool_choice.tools must name a tool; or use tool_choice none.",
            param="tool_choice.tools",
        )
    return _one_of(mode, tools, offers, "tool_choice.tools", listed=True)


def _one_of(
    mode: Literal["auto", "required"],
    wanted: Sequence[Any],
    offers: Mapping[str, Offer],
    path: str,
    *,
    listed: bool,
) -> ToolChoice:
    names: list[str] = []
    builtins = False
    for index, tool in enumerate(wanted):
        place = f"{path}[{index}]" if listed else path
        if not isinstance(tool, Mapping):
            raise _wrong(place, "an object")
        found = [offer for offer in offers.values() if _is_meant(offer, tool)]
        if not found:
            shown = json.dumps(dict(tool), ensure_ascii=False)[:120]
            raise InvalidRequest(
                f"{place} is {shown}, which is not among the tools that can run here; declare it, "
                "or choose one that is.",
                param=place,
            )
        names += [offer.name for offer in found if not offer.is_builtin]
        builtins = builtins or any(offer.is_builtin for offer in found)
    return ToolChoice(mode, tuple(dict.fromkeys(names)), builtins)


def _is_meant(offer: Offer, tool: JsonObject) -> bool:
    """Whether an object of tool_choice means this tool."""
    kind, name = str(tool.get("type")), tool.get("name")
    if kind in HOSTED:
        return offer.is_builtin and offer.name.partition(".")[0] == HOSTED[kind]
    if kind == "mcp":
        return (
            offer.kind == "server"
            and _is_same_server(offer.server_label, str(tool.get("server_label")))
            and name in (None, offer.wire_name)
        )
    if isinstance(tool.get("function"), Mapping):  # as Chat Completions spells it
        name = tool["function"].get("name")
    namespace = tool.get("namespace")
    known = (offer.wire_name, offer.namespace) == (name, namespace) or offer.name == name
    return kind == offer.kind and known


def _is_same_server(label: str, wanted: str) -> bool:
    return label == wanted or (label in OWN_LABELS and wanted in OWN_LABELS)


def _text(spec: JsonObject, name: str, path: str) -> str:
    value = spec.get(name)
    if value is None:
        raise InvalidRequest(
            f"{path}.{name} is required.",
            param=f"{path}.{name}",
            code="missing_required_parameter",
        )
    if not isinstance(value, str):
        raise _wrong(f"{path}.{name}", "a string")
    return value


def _wrong(path: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"{path} must be {wanted}.", param=path, code="invalid_type")
