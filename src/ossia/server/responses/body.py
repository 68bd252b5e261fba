"""The Response object: what a request asked for, and how it stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from openai.types.responses import Response, Tool
from pydantic import TypeAdapter, ValidationError

from ossia.answer.finish import FinishDetails, TurnFinish
from ossia.errors import RequestError
from ossia.server.responses.events import as_json
from ossia.server.schema.responses import ResponsesRequest
from ossia.server.usage import Usage

JsonObject = dict[str, Any]

_TOOL: TypeAdapter[Any] = TypeAdapter(Tool)


def new_body(
    request: ResponsesRequest, response_id: str, model: str, conversation: str | None
) -> JsonObject:
    """A response that has only just been asked for."""
    text = request.text
    reasoning = request.reasoning
    body: JsonObject = {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if request.background else "in_progress",
        "background": bool(request.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions if isinstance(request.instructions, str) else None,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": (reasoning.summary or reasoning.generate_summary) if reasoning else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "temperature": _default(request.temperature, 1.0),
        "text": {"format": _format(request)},
        "tool_choice": request.tool_choice or "auto",
        "tools": [_shown_tool(tool) for tool in request.tools or () if _is_known(tool)],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": _default(request.top_p, 1.0),
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }
    if text is not None and text.verbosity:
        body["text"]["verbosity"] = text.verbosity
    if conversation is not None:
        body["conversation"] = {"id": conversation}
    checked = as_json(Response.construct(**body))
    # What OpenAI's type does not have, or has with less precise types.
    return checked | {
        "created_at": body["created_at"],
        "store": request.store is not False,
        "presence_penalty": _default(request.presence_penalty, 0.0),
        "frequency_penalty": _default(request.frequency_penalty, 0.0),
    }


def ended(
    body: JsonObject,
    output: list[JsonObject],
    usage: Usage,
    reason: TurnFinish | None,
    details: FinishDetails | None,
) -> JsonObject:
    """The response when the model has said all it will: completed, or incomplete."""
    cut = reason == "length"
    final = body | {
        "status": "incomplete" if cut else "completed",
        "output": output,
        "usage": usage_body(usage),
        "completed_at": None if cut else int(time.time()),
    }
    if cut:
        final["incomplete_details"] = {"reason": "max_output_tokens"}
    if details is not None:
        final["finish_details"] = details.body()
    return final


def failed(
    body: JsonObject, output: list[JsonObject], usage: Usage | None, error: RequestError
) -> JsonObject:
    """The response when it could not be brought to its end."""
    return body | {
        "status": "failed",
        "output": output,
        "usage": usage and usage_body(usage),
        "error": {"code": error.code or "server_error", "message": error.message},
    }


def cancelled(body: JsonObject, output: list[JsonObject], usage: Usage | None) -> JsonObject:
    """The response when its client has called it off."""
    return body | {"status": "cancelled", "output": output, "usage": usage and usage_body(usage)}


def usage_body(usage: Usage) -> JsonObject:
    """Tokens in the words of the Responses API."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _format(request: ResponsesRequest) -> JsonObject:
    given = request.text.format if request.text else None
    if given is None:
        return {"type": "text"}
    shown = given.model_dump(mode="json", by_alias=True, exclude_none=True)
    # OpenAI asks for a name, and clients that check their answers want one.
    return {"name": "response", **shown} if given.type == "json_schema" else shown


def _shown_tool(tool: Mapping[str, Any]) -> JsonObject:
    if tool.get("type") != "function":
        hidden = ("headers", "authorization")  # secrets of the client are not sent back
        return {key: value for key, value in tool.items() if key not in hidden}
    defaults = {"description": None, "parameters": None, "strict": False}
    return {**defaults, **tool}


def _is_known(tool: Mapping[str, Any]) -> bool:
    """Whether clients that check their answers know the tool."""
    try:
        _TOOL.validate_python(dict(tool))
    except ValidationError:
        return False
    return True


def _default(value: float | None, default: float) -> float:
    return default if value is None else value
