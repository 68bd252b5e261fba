"""Reading a JSON request body into its model, and saying in one sentence what is wrong with it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from ossia.errors import InvalidRequest, RequestError
from ossia.server.errors import BodyTooLarge

MAX_BODY_BYTES = 16 * 2**20  # ten times the longest prompt the model can read


class RequestModel(BaseModel):
    """Base of request bodies: no silent conversion of types, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


Model = TypeVar("Model", bound=RequestModel)


async def read_body(request: Request, model: type[Model]) -> Model:
    """The body of `request` as a `model`.

    Raises:
        BodyTooLarge: more than MAX_BODY_BYTES.
        InvalidRequest: not JSON, or a field is missing or has a wrong type; `param` is its path,
            such as messages[0].content.
    """
    raw = await _read(request)
    content_type = request.headers.get("content-type", "application/json")
    subtype = content_type.split(";")[0].strip().lower()
    if not (subtype == "application/json" or subtype.endswith("+json")):
        # Browsers send forms to any host; only JSON needs the consent of this server.
        raise InvalidRequest(
            f"The body has content type {subtype!r}; send JSON with the header "
            "Content-Type: application/json.",
            code="unsupported_content_type",
        )
    return parse_body(raw, model)


def parse_body(raw: bytes, model: type[Model]) -> Model:
    """The JSON text as a `model`.

    Raises:
        InvalidRequest: not JSON, or a field is missing or has a wrong type; `param` is its path.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)) from None


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = BodyTooLarge(
        f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB; send a shorter prompt."
    )
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _refusal(errors: Sequence[ErrorDetails]) -> RequestError:
    # Of the alternatives of a union, the one that went furthest is the one that was meant.
    error = max(errors, key=lambda e: len(_steps(e["loc"])))
    if error["type"] == "json_invalid":
        reason = error["ctx"]["error"]
        return InvalidRequest(f"The body is not valid JSON: {reason}.", code="invalid_json")
    path = _path(_steps(error["loc"]))
    if not path:
        return InvalidRequest("The body must be a JSON object.", code="invalid_json")
    same = [e for e in errors if _path(_steps(e["loc"])) == path]
    return InvalidRequest(f"{path} {_demand(same)}.", param=path, code=_code(error["type"]))


def _steps(loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """`loc` without the names that pydantic gives to the alternatives of a union."""
    return tuple(
        step
        for step in loc
        if isinstance(step, int) or not (step in _alternatives() or "[" in step or step == "")
    )


@functools.cache
def _alternatives() -> frozenset[str]:
    """What pydantic calls the plain types and the models of a union."""
    models = [RequestModel]
    for model in models:
        models += model.__subclasses__()
    return frozenset({"str", "int", "float", "bool", *(model.__name__ for model in models)})


def _path(steps: Sequence[int | str]) -> str:
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path


_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _demand(errors: Sequence[ErrorDetails]) -> str:
    """The end of the sentence that starts with the field's path."""
    first = errors[0]
    if first["type"] == "missing":
        return "is required"
    wanted = list(dict.fromkeys(_TYPES[e["type"]] for e in errors if e["type"] in _TYPES))
    if wanted:
        return "must be " + " or ".join(wanted)
    if first["type"] == "literal_error":
        return f"must be {first['ctx']['expected']}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"].removeprefix("Input ")
    return message[0].lower() + message[1:]


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing_required_parameter"
    return "invalid_type" if kind in _TYPES else "invalid_value"
