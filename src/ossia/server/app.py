"""The HTTP application: which path is answered by which file."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import ossia
from ossia.server.access_log import AccessLog
from ossia.server.auth import KeyCheck, KeyCheckedApp
from ossia.server.body import RequestModel
from ossia.server.chat import chat_router
from ossia.server.completions import completions_router
from ossia.server.errors import install_error_handlers
from ossia.server.metrics import CONTENT_TYPE
from ossia.server.models import models_router
from ossia.server.openapi import DOCS_PAGE, describe_with
from ossia.server.responses.compact import compact_router
from ossia.server.responses.conversations import conversations_router
from ossia.server.responses.routes import responses_router
from ossia.server.responses.socket import socket_router
from ossia.server.schema.chat import ChatRequest
from ossia.server.schema.completions import CompletionRequest
from ossia.server.schema.responses import (
    CompactRequest,
    ConversationItems,
    ConversationRequest,
    ConversationUpdate,
    ResponsesRequest,
    TurnOptions,
)
from ossia.server.schema.tokenization import DetokenizeRequest, TokenizeRequest
from ossia.server.service import Service
from ossia.server.tokenization import tokenization_router

_BODIES: list[type[RequestModel]] = [
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ResponsesRequest,
    TurnOptions,
    CompactRequest,
    ConversationRequest,
    ConversationUpdate,
    ConversationItems,
]


def create_app(service: Service) -> FastAPI:
    """The application that serves `service`; it may still be loading its model."""
    app = FastAPI(title="Ossia", version=ossia.__version__, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(AccessLog, metrics=service.metrics)
    install_error_handlers(app)
    describe_with(app, _BODIES, ossia.__version__)
    with_key = [Depends(KeyCheck(service.config.api_keys))]
    for router in (
        chat_router(service),
        completions_router(service),
        models_router(service),
        tokenization_router(service),
        responses_router(service),
        compact_router(service),
        conversations_router(service),
        _metrics_router(service),
    ):
        app.include_router(router, dependencies=with_key)
    app.include_router(_open_router(service))
    app.include_router(socket_router(service))
    if service.mcp is not None:
        endpoint = KeyCheckedApp(service.mcp, service.config.api_keys)
        app.router.routes.append(Route("/mcp", endpoint=endpoint, include_in_schema=False))
    return app


def _metrics_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters, gauges and histograms for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return router


def _open_router(service: Service) -> APIRouter:
    """What is answered without a key."""
    router = APIRouter()

    @router.get("/health", response_class=JSONResponse)
    async def health() -> Response:
        """200 while the engine answers, 503 while it loads or restarts."""
        state = "loading" if service.client is None else service.client.state
        ready = state == "ready"
        return JSONResponse(
            {"status": "ok" if ready else state},
            HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    @router.get("/version", response_class=JSONResponse)
    async def version() -> Response:
        """Version of the server."""
        return JSONResponse({"version": ossia.__version__})

    @router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(DOCS_PAGE)

    return router
