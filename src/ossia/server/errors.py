"""Every refusal leaves the server in OpenAI's shape: {"error": {message, type, param, code}}."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ossia.errors import InternalError, InvalidRequest, RequestError


class BodyTooLarge(RequestError):
    """The request body exceeds what the server reads."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


def error_body(error: RequestError) -> dict[str, Any]:
    """The JSON object that clients receive for `error`."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: RequestError) -> Response:
    """The whole answer for `error`."""
    headers = {"www-authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return Response(
        msgspec.json.encode(error_body(error)),
        status_code=error.status,
        media_type="application/json",
        headers=headers,
    )


def internal_error(identifier: str) -> InternalError:
    """What a client is told about a fault of ours in the request with this id."""
    return InternalError(
        f"The server failed on this request; its log has the reason under {identifier}."
    )


def install_error_handlers(app: FastAPI) -> None:
    """Answer refusals of handlers and of the router."""
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(RequestValidationError, _unread_query)


async def _refused(_: Request, error: Exception) -> Response:
    return error_response(cast(RequestError, error))


async def _unread_query(_: Request, error: Exception) -> Response:
    # Bodies are read by body.py, so it is a value in the address.
    first = cast(RequestValidationError, error).errors()[0]
    name = str(first["loc"][-1])
    wanted = {"bool_parsing": "true or false", "int_parsing": "a whole number"}
    demand = wanted.get(first["type"], "another value")
    return error_response(
        InvalidRequest(f"{name} must be {demand}.", param=name, code="invalid_type")
    )


async def _not_routed(request: Request, raised: Exception) -> Response:
    raised = cast(HTTPException, raised)
    method, path = request.method, request.url.path
    if raised.status_code == HTTPStatus.NOT_FOUND:
        error = RequestError(
            f"There is no {method} {path} here; GET /docs lists what there is.",
            code="unknown_url",
        )
    elif raised.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (raised.headers or {}).get("Allow", "another method")
        error = RequestError(
            f"{path} does not answer {method}; use {allowed}.", code="method_not_allowed"
        )
    else:
        error = RequestError(str(raised.detail))
    error.status = raised.status_code
    response = error_response(error)
    response.headers.update(raised.headers or {})
    return response
