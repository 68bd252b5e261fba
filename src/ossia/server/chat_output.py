"""`response_format` becomes the form of the final message."""

from __future__ import annotations

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import CHAT_PATHS, FieldPaths
from ossia.server.chat_tools import check_name
from ossia.server.schema.output import JsonSchemaFormat, ResponseFormat
from ossia.turn import OutputFormat

MAX_GRAMMAR = 64 * 1024  # characters of a regex or grammar
MAX_CHOICES = 1024


def output_format(
    given: ResponseFormat | None, paths: FieldPaths = CHAT_PATHS
) -> OutputFormat | None:
    """What the answer must be; None is free text. `paths` names the fields in errors.

    Raises:
        InvalidRequest: a part of the format is missing or cannot be read.
    """
    if given is None or given.type == "text":
        return None
    match given.type:
        case "json_object":
            return OutputFormat("json_object")
        case "json_schema":
            return _json_schema(given.json_schema, paths)
        case "regex":
            return OutputFormat("regex", pattern=_text(given.pattern, paths.pattern, "regex"))
        case "choice":
            return OutputFormat("choice", choices=_choices(given.choices, paths.choices))
        case "grammar":
            return OutputFormat("lark", pattern=_grammar(given, paths.grammar))


def _json_schema(given: JsonSchemaFormat | None, paths: FieldPaths) -> OutputFormat:
    path = paths.output_schema.removesuffix(".schema")
    if given is None:
        raise _missing(path, "json_schema")
    if given.schema_ is None:
        raise _missing(paths.output_schema, "json_schema")
    if given.name:
        check_name(given.name, f"{path}.name")
    return OutputFormat(
        "json_schema",
        schema=given.schema_,
        name=given.name or "",
        description=given.description or "",
        strict=bool(given.strict),
    )


def _choices(given: list[str] | None, path: str) -> tuple[str, ...]:
    if not given:
        raise _missing(path, "choice")
    if len(given) > MAX_CHOICES:
        raise InvalidRequest(f"{path} takes at most {MAX_CHOICES} texts.", param=path)
    if "" in given:
        raise InvalidRequest(f"{path} has an empty text; leave it out.", param=path)
    if sum(map(len, given)) > MAX_GRAMMAR:
        raise _too_long(path)
    return tuple(dict.fromkeys(given))


def _grammar(given: ResponseFormat, path: str) -> str:
    grammar = _text(given.grammar, path, "grammar")
    if given.syntax != "ebnf":
        return grammar
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(grammar)).removeprefix("%llguidance {}")
    except Exception as error:  # it raises what its parser stumbles on
        reason = " ".join(str(error).split())[:200].rstrip(".") or "it cannot be read"
        raise InvalidRequest(f"{path} is not valid EBNF: {reason}.", param=path) from None


def _text(text: str | None, path: str, kind: str) -> str:
    if not text:
        raise _missing(path, kind)
    if len(text) > MAX_GRAMMAR:
        raise _too_long(path)
    return text


def _missing(path: str, kind: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is required in a format of type {kind}.",
        param=path,
        code="missing_required_parameter",
    )


def _too_long(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is longer than {MAX_GRAMMAR} characters; use a shorter one.", param=path
    )
