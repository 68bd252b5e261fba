"""From a request to a response that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ossia.errors import InvalidRequest, RequestError, of_field
from ossia.sampling import SamplingParams
from ossia.server.responses.body import new_body
from ossia.server.responses.identifiers import new_id
from ossia.server.responses.output import Shown
from ossia.server.responses.prepare import RESPONSES_PATHS, prepare_turn
from ossia.server.responses.run import ResponseRun, session_of
from ossia.server.schema.responses import ResponsesRequest
from ossia.server.service import Service
from ossia.server.tool_loop import MAX_SERVER_CALLS, LoopLimits, ToolLoop
from ossia.store.records import StoredResponse


async def start_response(
    service: Service,
    body: ResponsesRequest,
    identifier: str,
    kept: Mapping[str, Sequence[StoredResponse]] = MappingProxyType({}),
) -> ResponseRun:
    """A response that runs.

    `identifier` names the request in the engine. `kept` are chains of responses that can be
    continued although they are not stored, by the id of the last.

    Raises:
        RequestError: it is refused.
    """
    model = service.check_model(body.model)
    _refuse_unsupported(body)
    prepared = await prepare_turn(service, body, kept)
    response_id = new_id("resp")
    loop = ToolLoop(
        service,
        identifier,
        prepared.turn,
        prepared.tools.toolset,
        _sampling(body),
        session=session_of(prepared, response_id),
        limits=LoopLimits(
            body.max_output_tokens,
            MAX_SERVER_CALLS if body.max_tool_calls is None else body.max_tool_calls,
            body.max_reasoning_tokens,
            truncate=body.truncation == "auto",
        ),
        paths=RESPONSES_PATHS,
        pending=prepared.approved,
    )
    try:
        await loop.start()
    except RequestError as error:
        raise of_field(error, "max_output_tokens") from None
    try:
        run = ResponseRun(
            service,
            prepared,
            loop,
            new_body(body, response_id, model, prepared.conversation_id),
            shown=_shown(body),
            store=body.store is not False,
        )
        await run.start()
    except BaseException:
        await loop.stop()
        raise
    return run


def _refuse_unsupported(body: ResponsesRequest) -> None:
    if body.prompt is not None:
        raise InvalidRequest(
            "prompt names a stored prompt, which this server does not have; send its text as "
            "instructions.",
            param="prompt",
            code="unsupported_value",
        )
    if body.background and body.store is False:
        raise InvalidRequest(
            "background needs store: the response is fetched later; leave store out.",
            param="background",
        )
    for name in ("max_output_tokens", "max_tool_calls", "max_reasoning_tokens"):
        least = 1 if name == "max_output_tokens" else 0
        value = getattr(body, name)
        if value is not None and value < least:
            raise InvalidRequest(f"{name} must be {least} or more.", param=name)
    if len(body.metadata or {}) > 16:
        raise InvalidRequest("metadata takes at most 16 keys.", param="metadata")


def _sampling(body: ResponsesRequest) -> SamplingParams:
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    wanted = body.wants("message.output_text.logprobs") or body.top_logprobs
    return SamplingParams(**given, logprobs=body.top_logprobs or 0 if wanted else None)


def _shown(body: ResponsesRequest) -> Shown:
    reasoning, options = body.reasoning, body.stream_options
    return Shown(
        reasoning=body.include_reasoning is not False,
        summary=bool(reasoning and (reasoning.summary or reasoning.generate_summary)),
        encrypted=body.wants("reasoning.encrypted_content"),
        logprobs=body.wants("message.output_text.logprobs") or bool(body.top_logprobs),
        progress=bool(body.stream and options and options.include_tool_progress),
        code_outputs=body.wants("code_interpreter_call.outputs"),
        sources=body.wants("web_search_call.action.sources"),
    )
