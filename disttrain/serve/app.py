"""The routes of the API and of the page."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.requests import ClientDisconnect

from disttrain import __version__
from disttrain.serve.answers import Boxes, Description, Predictions, Problem, body_of, refusals
from disttrain.serve.guard import Guard
from disttrain.serve.requests import Refused, read_body
from disttrain.serve.service import Service

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}
_ACROSS = 4
"""Examples side by side in the example of a scene."""


def build_app(service: Service) -> Guard:
    """The ASGI application of one process."""
    app = FastAPI(
        title="disttrain",
        version=__version__,
        description="A trained model: classes of images, boxes in scenes.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _add_images(app, service)
    _add_state(app, service)
    _add_page(app, service)
    _add_refusals(app, service)
    return Guard(app, service)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, "application/json")


def _answer(outcome: tuple[int, dict[str, Any]]) -> Response:
    status, content = outcome
    model = content["model"]
    headers = {"X-Model-Version": model["version"], "X-Model-Weights-SHA256": model["weights_sha256"]}
    return _json(content, status, headers)


@contextlib.asynccontextmanager
async def _body(request: Request, service: Service) -> Any:
    """The whole body, held within the budget."""
    declared = request.headers.get("content-length")
    body = await read_body(request.stream(), declared, service.settings.limits.upload_bytes, service.budget)
    try:
        yield body
    finally:
        service.budget.held -= len(body)


@contextlib.asynccontextmanager
async def _gone(request: Request) -> Any:
    """An event that is set once the client has gone, or this has ended."""
    event = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        event.set()

    task = asyncio.create_task(watch())
    try:
        yield event
    finally:
        event.set()
        task.cancel()


def _add_images(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        summary="The classes of images",
        responses={
            200: {"model": Predictions},
            **refusals(401, 408, 413, 415, 503, 504),
            422: {"model": Predictions | Problem},
        },
        openapi_extra=body_of(many=True),
    )
    async def predict(request: Request) -> Response:
        async with _body(request, service) as body:
            return _answer(await service.predict(body, request.headers.get("content-type", "")))

    @app.post(
        "/v1/detect",
        summary="The boxes of a class in a scene",
        responses={200: {"model": Boxes}, **refusals(401, 408, 413, 415, 422, 503, 504)},
        openapi_extra=body_of(many=False),
    )
    async def detect(
        request: Request,
        threshold: Annotated[float, Query(gt=0, lt=1, description="least score of a box")] = 0.5,
        class_name: Annotated[str | None, Query(max_length=200, description="default: plane")] = None,
    ) -> Response:
        content_type = request.headers.get("content-type", "")
        async with _body(request, service) as body, _gone(request) as gone:
            return _answer(await service.detect(body, content_type, threshold, class_name, gone))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", summary="The model that is served", responses={200: {"model": Description}, **refusals(401)})
    async def model() -> Response:
        return _json(service.describe())

    @app.get("/healthz", summary="Whether the process works", responses={503: {}})
    async def healthz() -> Response:
        return _json({"status": "ok"}) if service.works else _json({"status": "the model's thread has ended"}, 503)

    @app.get("/readyz", summary="Whether requests should be sent here", responses={503: {}})
    async def readyz() -> Response:
        return _json({"status": "draining"}, 503) if service.draining else _json({"status": "ready"})

    @app.get("/metrics", summary="Figures for Prometheus", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI, service: Service) -> None:
    for path, (name, kind) in _FILES.items():
        if (_PAGE / name).exists():
            content = (_PAGE / name).read_bytes()

            async def static(content: bytes = content, kind: str = kind) -> Response:
                return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

            app.add_api_route(path, static, methods=["GET"], include_in_schema=False)

    @app.get("/v1/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        golden = service.live.current.golden
        images = {} if golden is None else {f"{index}.png": image for index, image in enumerate(golden.images)}
        if golden is not None:
            images["scene.png"] = _side_by_side(golden.images)
        if name not in images:
            raise Refused(404, "There is no such example.")
        return Response(_png(images[name]), media_type="image/png")


def _side_by_side(images: np.ndarray) -> np.ndarray:
    """uint8 [n, channels, height, width] -> one picture of them."""
    rows = [np.concatenate(list(images[at : at + _ACROSS]), 2) for at in range(0, len(images), _ACROSS)]
    return np.concatenate([row for row in rows if row.shape == rows[0].shape], 1)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))).save(file, "PNG")
    return file.getvalue()


def _add_refusals(app: FastAPI, service: Service) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        close = {"Connection": "close"} if error.status in (408, 413) else {}
        content = {"detail": error.detail, "model": service.live.current.identity}
        return _json(content, error.status, {**error.headers, **close})

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        detail = f"{first['loc'][-1]}: {first['msg']}."
        return _json({"detail": detail, "model": service.live.current.identity}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody is there to read it
