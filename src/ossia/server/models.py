"""GET /v1/models: what is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ossia.server.service import Service


def models_router(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter()

    @router.get("/v1/models", response_class=JSONResponse)
    async def list_models() -> Response:
        """The names that requests may use; all mean the one served model."""
        models = [_model(service, name) for name in service.model_names]
        return JSONResponse({"object": "list", "data": models})

    @router.get("/v1/models/{model:path}", response_class=JSONResponse)
    async def retrieve_model(request: Request) -> Response:
        """One of the names."""
        name = service.check_model(request.path_params["model"])
        return JSONResponse(_model(service, name))

    return router


def _model(service: Service, name: str) -> dict[str, Any]:
    info = service.engine.info
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "ossia",
        "root": info.model,
        "architecture": info.architecture,
        "max_model_len": info.max_model_len,
        "dtype": info.dtype,
        "quantization": info.quantization,
    }
