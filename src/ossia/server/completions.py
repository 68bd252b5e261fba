"""POST /v1/completions: raw text or token ids, without any chat format."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.answer.assembler import Delta, TextAssembler, TextToken, VisibleText
from ossia.errors import InvalidRequest
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.access_log import note_usage, request_id
from ossia.server.body import read_body
from ossia.server.generation import Choice, Generation
from ossia.server.logprobs import completion_logprobs
from ossia.server.openapi import takes
from ossia.server.schema.completions import CompletionRequest
from ossia.server.service import Service
from ossia.server.sse import DONE, EventStream, event, nobody_left, unless_client_leaves

DEFAULT_MAX_TOKENS = 16  # as in OpenAI's API


def completions_router(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter()

    @router.post("/v1/completions", openapi_extra=takes(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue raw text or token ids."""
        body = await read_body(request, CompletionRequest)
        model = service.check_model(body.model)
        prompts = _prompts(body.prompt, service.tokenizer)
        generation = _start(service, body, prompts, request_id(request))
        answer = _Answer(service.tokenizer, body, model, prompts, request)
        if body.stream:
            return EventStream(answer.stream(generation))
        whole = await unless_client_leaves(request, answer.whole(generation))
        return nobody_left() if whole is None else whole

    return router


def _start(
    service: Service, body: CompletionRequest, prompts: Sequence[Sequence[int]], identifier: str
) -> Generation:
    """Put all prompts into the engine, or refuse all of them."""
    n, stop = body.choices(), body.stop_strings()
    _refuse_unsupported(body, n)
    service.admit(n * len(prompts))
    generation = Generation(service.engine, service.metrics, identifier)
    for prompt in prompts:
        room = service.engine.info.max_model_len - len(prompt)
        max_tokens = body.max_tokens
        if max_tokens is None:
            max_tokens = max(1, min(DEFAULT_MAX_TOKENS, room))
        params = body.sampling(max_tokens=max_tokens, logprobs=body.logprobs)
        show_special = body.skip_special_tokens is False
        assemblers = [
            TextAssembler(service.tokenizer, stop, show_special=show_special) for _ in range(n)
        ]
        generation.add(prompt, params, assemblers)
    return generation


def _refuse_unsupported(body: CompletionRequest, n: int) -> None:
    if body.suffix:
        raise InvalidRequest(
            "gpt-oss cannot fill in text before a suffix; leave suffix out.", param="suffix"
        )
    if body.best_of is not None and body.best_of != n:
        raise InvalidRequest(
            "best_of is not offered; ask for n choices and pick one.", param="best_of"
        )
    if body.echo and body.logprobs is not None:
        raise InvalidRequest(
            "logprobs of the prompt are not computed; ask for echo or for logprobs, not for both.",
            param="logprobs",
        )


def _prompts(
    prompt: str | list[str] | list[int] | list[list[int]], tokenizer: Tokenizer
) -> list[list[int]]:
    """Token ids of each prompt."""
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt)]
    if not prompt:
        raise InvalidRequest("prompt is empty; send at least one token.", param="prompt")
    prompts: list[list[int]] = []
    own: list[int] = []
    for item in prompt:
        if isinstance(item, str):
            prompts.append(tokenizer.encode(item))
        elif isinstance(item, list):
            prompts.append(item)
        else:
            own.append(item)
    return [own] if own else prompts


class _Answer:
    """The wire form of one answer, streamed or whole."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        body: CompletionRequest,
        model: str,
        prompts: Sequence[Sequence[int]],
        request: Request,
    ) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._prompts = prompts
        self._request = request
        self._head: dict[str, Any] = {
            "id": f"cmpl-{request_id(request)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    async def whole(self, generation: Generation) -> Response:
        texts = [[self._echo(choice)] for choice in generation.choices]
        tokens: list[list[TextToken]] = [[] for _ in generation.choices]
        async for choice, deltas in generation.run():
            text, new = _joined(deltas)
            texts[choice.index].append(text)
            tokens[choice.index] += new
        choices = [
            self._choice(choice, "".join(texts[choice.index]), tokens[choice.index], 0)
            for choice in generation.choices
        ]
        usage = generation.usage
        note_usage(self._request, usage)
        body = {**self._head, "choices": choices, "usage": usage.body()}
        return Response(msgspec.json.encode(body), media_type="application/json")

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        head = {**self._head, "usage": None} if self._body.wants_usage() else self._head
        sent = [0] * len(generation.choices)  # characters
        begun = [False] * len(generation.choices)
        try:
            async for choice, deltas in generation.run():
                index = choice.index
                text, tokens = _joined(deltas)
                if not begun[index]:
                    begun[index] = True
                    text = self._echo(choice) + text
                yield event({**head, "choices": [self._choice(choice, text, tokens, sent[index])]})
                sent[index] += len(text)
            if self._body.wants_usage():
                yield event({**head, "choices": [], "usage": generation.usage.body()})
            yield DONE
        finally:
            note_usage(self._request, generation.usage)

    def _echo(self, choice: Choice) -> str:
        if not self._body.echo:
            return ""
        ids = self._prompts[choice.prompt]
        if self._body.skip_special_tokens is not False:
            ids = [token for token in ids if not self._tokenizer.is_special(token)]
        return self._tokenizer.decode(ids)

    def _choice(
        self, choice: Choice, text: str, tokens: Sequence[TextToken], offset: int
    ) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = completion_logprobs(self._tokenizer, tokens, offset)
        return {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": choice.assembler.finish_reason,
        }


def _joined(deltas: Sequence[Delta]) -> tuple[str, list[TextToken]]:
    visible = [delta for delta in deltas if isinstance(delta, VisibleText)]
    return "".join(d.text for d in visible), [token for d in visible for token in d.tokens]
