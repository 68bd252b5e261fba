"""What Chat Completions has and this server does not, each refused with a sentence."""

from __future__ import annotations

from ossia.errors import InvalidRequest
from ossia.server.schema.chat import ChatRequest


def refuse_unsupported(body: ChatRequest) -> None:
    """Refuse what gpt-oss cannot do, and options that need another one.

    Raises:
        InvalidRequest: `param` is the field.
    """
    for name in ("top_logprobs", "include_reasoning_logprobs"):
        if getattr(body, name) and not body.logprobs:
            raise InvalidRequest(f"{name} needs logprobs: true.", param=name)
    if any(modality != "text" for modality in body.modalities or ()):
        raise _refused("modalities", "gpt-oss writes text only; leave modalities out.")
    if body.audio is not None:
        raise _refused("audio", "gpt-oss writes text only; leave audio out.")
    if body.web_search_options is not None:
        raise _refused(
            "web_search_options",
            "This server does not search the web; declare a function that does.",
        )
    if body.moderation is not None:
        raise _refused("moderation", "There is no moderation model here; leave moderation out.")
    if body.max_reasoning_tokens is not None and body.max_reasoning_tokens < 0:
        raise InvalidRequest(
            "max_reasoning_tokens must be 0 or more.", param="max_reasoning_tokens"
        )


def refuse_without_grammar(body: ChatRequest, reason: str) -> None:
    """Refuse what only the turn grammar can enforce, where it does not run.

    Args:
        reason: "ignore_eos" or "--turn-grammar off", whichever keeps it from running.

    Raises:
        InvalidRequest: `param` is the field.
    """
    change = (
        "leave out ignore_eos" if reason == "ignore_eos" else f"start the server without {reason}"
    )
    choice, function = body.tool_choice, body.function_call
    forced = choice not in (None, "auto", "none"), function not in (None, "auto", "none")
    kind = "text" if body.response_format is None else body.response_format.type
    for needed, field in (
        (forced[0], "tool_choice"),
        (forced[1], "function_call"),
        (kind != "text", "response_format"),
        (body.max_reasoning_tokens is not None, "max_reasoning_tokens"),
    ):
        if needed:
            raise _refused(
                field,
                f"{field} needs the turn grammar, which {reason} turns off; {change}, "
                f"or leave out {field}.",
            )


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=field, code="unsupported_value")
