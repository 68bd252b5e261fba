"""Every failure a user can cause, and the one table from failure to HTTP status and wire code.

Messages are one sentence that says what to change. Start-up failures derive from `StartupError`
and are printed by the command line; failures of one request derive from `RequestError` and are
sent to the client in OpenAI's error shape.
"""

from __future__ import annotations


class OssiaError(Exception):
    """Base of all errors that carry a sentence for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StartupError(OssiaError):
    """The server or command cannot start as configured."""


class ConfigError(StartupError):
    """An option, or a combination of options, that cannot work here."""


class CheckpointError(StartupError):
    """A checkpoint that is missing, damaged or not a gpt-oss model; names the file and tensor."""


class RequestError(OssiaError):
    """One request failed. `param` names the field at fault, if there is one."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


def of_field(error: RequestError, name: str) -> RequestError:
    """A refusal of `max_tokens`, for a request that has it under another `name`; others as is."""
    if error.param != "max_tokens":
        return error
    return type(error)(error.message.replace("max_tokens", name), param=name, code=error.code)


class InvalidRequest(RequestError):
    """A field has a wrong type or a value out of range."""

    code = "invalid_value"


class ContextLengthExceeded(RequestError):
    """Prompt plus requested tokens do not fit into the model's context."""

    code = "context_length_exceeded"


class Unauthorized(RequestError):
    """The API key is missing or wrong."""

    status = 401
    code = "invalid_api_key"


class ModelNotFound(RequestError):
    """The request names a model that this server does not serve."""

    status = 404
    code = "model_not_found"


class Overloaded(RequestError):
    """The waiting queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class EngineUnavailable(RequestError):
    """The engine process stopped while this request ran, or has not started."""

    status = 503
    type = "server_error"
    code = "engine_unavailable"


class InternalError(RequestError):
    """A fault of ours. The message names the request so that the log can be searched."""

    status = 500
    type = "server_error"
    code = "internal_error"
