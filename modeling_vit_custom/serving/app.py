"""A saved classifier as an ASGI application: one image a request, decoded in threads, run in batches.

    POST /predict?top_k=5   body: the bytes of an image file, Content-Type: image/…
        200 {"predictions": [{"label": "cat", "score": 0.93}, …], "model": "photos", "revision": null}
    GET /health             200 {"status": "ready"}
    GET /info               model, classes, limits, versions, images and batches run so far

The entries of "predictions" are those of `inference.predict`. An error is {"error": what is wrong and how to go on}:
400 no readable image, 408 the body came too slowly, 413 too large, 415 not sent as an image, 422 query not
understood, 503 too much to do (Retry-After says when to come back), 500 the model's fault. Nothing in a body is
fetched or run.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from io import BytesIO
from typing import Any, cast

import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers import PreTrainedModel

from .._version import __version__
from ..image_decoding_vit_custom import decode_image
from ..image_limits_vit_custom import DEFAULT_LIMITS
from ..inference.forward import run_batch
from ..inference.predict import ranked_labels
from ..tasks.registry import task_of
from .batching import Batcher
from .guards import BodyLimits
from .limits import Limits

ADDRESSES = "POST /predict, GET /health and GET /info"
DEFAULT_TOP_K = 5
RETRY_SECONDS = 1


class Service:
    """A classifier, its processor and their limits; the application's endpoints are its methods."""

    def __init__(self, model: PreTrainedModel, processor: Any, name: str, revision: str | None, limits: Limits):
        self.model, self.processor, self.limits = model, processor, limits
        self.identity = {"model": name, "revision": revision}
        self.problem_type = task_of(model.config).name
        self.labels: dict[int, str] = dict(cast(Any, model.config.id2label))
        self.decode = getattr(processor, "decode", decode_image)
        self.image_limits = replace(DEFAULT_LIMITS, pixels=limits.max_pixels)
        self.batcher = Batcher(self.run, limits.max_batch_size, limits.batch_timeout_ms / 1000)
        self.decoders = ThreadPoolExecutor(os.cpu_count(), "decoder")
        self.requests = 0  # at work or waiting
        self.worker: asyncio.Task | None = None

    # ---------- from bytes to predictions

    def prepare(self, body: bytes) -> torch.Tensor:
        """The bytes of an image file -> pixel_values [C, h, w]; raises ValueError or OSError for others."""
        image = self.decode(body, name="the image", limits=self.image_limits)
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def run(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        """B images [C, h, w], of any sizes -> their logits, B tensors [K] float32."""
        result = run_batch(self.model, [(index, pixels, None) for index, pixels in enumerate(images)])
        logits = dict(zip(result.indices, result.logits, strict=True))
        return [logits[index] for index in range(len(images))]

    def rank(self, logits: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        """Logits [K] -> the entries of "predictions"; raises ValueError for NaN and infinity."""
        if not logits.isfinite().all():
            raise ValueError("the model's output is NaN or infinite. Fix: serve another checkpoint.")
        return ranked_labels(logits[None], self.problem_type, self.labels, top_k)[0]

    def check(self) -> None:
        """Classifies a picture made here; raises ValueError or OSError where that fails."""
        stream = BytesIO()
        Image.linear_gradient("L").resize((32, 32)).save(stream, "PNG")
        self.rank(self.run([self.prepare(stream.getvalue())])[0], DEFAULT_TOP_K)

    # ---------- endpoints

    async def predict(self, request: Request) -> Response:
        top_k = _top_k(request)
        _check_headers(request)
        with self._place():
            logits = await self._logits(await request.body())
        try:
            predictions = self.rank(logits, top_k)
        except ValueError as error:
            raise HTTPException(500, str(error)) from error
        return JSONResponse({"predictions": predictions, **self.identity})

    async def _logits(self, body: bytes) -> torch.Tensor:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                try:
                    pixels = await asyncio.get_running_loop().run_in_executor(self.decoders, self.prepare, body)
                except (ValueError, OSError) as error:
                    raise HTTPException(400, str(error)) from error
                return await self.batcher(pixels)
        except TimeoutError:
            raise _overloaded(f"no answer within {self.limits.timeout_s:g} seconds") from None

    @contextmanager
    def _place(self):
        if self.requests >= self.limits.max_requests:
            raise _overloaded(f"{self.requests} requests are at work or waiting")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def health(self, request: Request) -> Response:
        if self.worker is None or self.worker.done():
            return JSONResponse({"status": "stopped", "error": "no batches are run. Fix: restart the server."}, 503)
        return JSONResponse({"status": "ready"})

    async def info(self, request: Request) -> Response:
        return JSONResponse(
            {
                **self.identity,
                "problem_type": self.problem_type,
                "classes": [label for _, label in sorted(self.labels.items())],
                "limits": asdict(self.limits),
                "versions": {"vit_custom": __version__} | {n: version(n) for n in ("torch", "transformers", "pillow")},
                "images": self.batcher.items,
                "batches": self.batcher.batches,
            }
        )

    @asynccontextmanager
    async def working(self, app: Starlette) -> AsyncIterator[None]:
        """The time in which batches are run."""
        self.worker = asyncio.create_task(self.batcher.work())
        yield
        self.worker.cancel()


def build_app(service: Service) -> Starlette:
    """The ASGI application of the module's docstring."""
    limits = service.limits
    app = Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            Route("/health", service.health),
            Route("/info", service.info),
        ],
        middleware=[Middleware(BodyLimits, max_bytes=int(limits.max_body_mb * 1e6), seconds=limits.timeout_s)],
        exception_handlers={HTTPException: _refuse, ClientDisconnect: _nobody_listens, Exception: _failed},
        lifespan=service.working,
    )
    app.router.redirect_slashes = False  # a redirect would be built from the client's own Host header
    return app


# ---------- what a request asks for


def _top_k(request: Request) -> int:
    given = request.query_params.multi_items()
    if not given:
        return DEFAULT_TOP_K
    (name, value), *more = given
    if more or name != "top_k":
        raise HTTPException(422, "the query holds more than one top_k=NUMBER. Fix: /predict?top_k=5")
    if not (value.isascii() and value.isdecimal() and 0 < len(value) < 10 and int(value) > 0):
        raise HTTPException(422, f"top_k={value[:20]!r}: give a whole number from 1 on, as in /predict?top_k=5")
    return int(value)


def _check_headers(request: Request) -> None:
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("image/"):
        raise HTTPException(
            415,
            f"Content-Type {content_type[:80]!r}: send the bytes of one image file as the body, with Content-Type: "
            "image/jpeg, image/png or another image type (curl: --data-binary @FILE). Forms and JSON are not read.",
        )
    if encoding := request.headers.get("content-encoding"):
        raise HTTPException(415, f"Content-Encoding {encoding[:80]!r}: send the file's own bytes, without any.")


# ---------- errors


def _overloaded(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}. Fix: try again later.", {"Retry-After": str(RETRY_SECONDS)})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"the addresses are {ADDRESSES}." if error.status_code in (404, 405) else error.detail
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _nobody_listens(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why. Fix: tell who runs it."}, 500)
