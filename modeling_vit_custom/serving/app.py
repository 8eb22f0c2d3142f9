"""A saved classifier as an ASGI application: images decoded in threads, run in batches.

    POST /predict?top_k=5   body: the bytes of an image file, a form of files, or JSON (see `bodies`)
        200 {"predictions": [{"label": "cat", "score": 0.93}, …], "model": "photos", "revision": null}
            of a model that was trained with --reject or --max_error also "unknown": false, "typicality": 0.42
        200 {"results": [{"name": "a.png", "predictions": […]}, {"name": "b.png", "error": "…"}], "model": …}
            for a form and for a list in JSON: an image that cannot be read fails alone
    POST /explain           with --explain only (see `explaining`); 404 without
    GET /health             200 {"status": "ready"}
    GET /info               model, classes, limits, versions, whether it explains, images and batches run so far
    GET /openapi.json       all of this in OpenAPI 3.1; GET /docs: as a page
    GET /metrics            for Prometheus (see `metrics`)

The entries of "predictions" are those of `inference.predict`. An error is {"error": what is wrong and how to go on}:
400 no readable image, 408 the body came too slowly, 413 too large or too many, 415 sent as something else, 422 the
address not understood, 503 overloaded (Retry-After says when to come back), 500 an error of the model. Nothing in a
body is fetched or run.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from io import BytesIO
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from transformers import PreTrainedModel

from .._version import __version__
from ..image_decoding_vit_custom import decode_image
from ..image_limits_vit_custom import DEFAULT_LIMITS
from ..inference.forward import run_batch
from ..tasks.registry import task_of
from .arrivals import Arrivals, GivenUp
from .batching import Batcher, Turns
from .bodies import FORM, ONE, Asked, kind_of, read_form, read_json
from .explaining import DAMAGED, Explaining, read_question
from .guards import BodyLimits, overloaded
from .limits import Limits
from .metrics import KIND, CountRequests, Metrics
from .openapi import docs_page, openapi

ADDRESSES = "GET /health, /info, /docs, /openapi.json and /metrics"
DEFAULT_TOP_K = 5
Output = tuple[torch.Tensor, dict[str, Any]]  # (numbers [K] float32, its `BatchResult.verdict`)


class Service:
    """A classifier, its processor and their limits; the application's endpoints are its methods."""

    def __init__(
        self, model: PreTrainedModel, processor: Any, name: str, revision: str | None, limits: Limits,
        explain: bool = False,
    ):  # fmt: skip
        """Raises UsageError if it is to explain and the model cannot be explained by its gradients."""
        self.model, self.processor, self.limits = model, processor, limits
        self.identity = {"model": name, "revision": revision}
        self.task = task_of(model.config)
        self.labels: dict[int, str] = dict(cast(Any, model.config.id2label))
        self.decode = getattr(processor, "decode", decode_image)
        self.image_limits = replace(DEFAULT_LIMITS, pixels=limits.max_pixels)
        about = {"model": name, "revision": revision or "", "task": self.task.name, "version": __version__}
        self.metrics = Metrics(about)
        self.turns = Turns()
        explained = self.metrics.seconds.labels("explain").observe if explain else None
        self.explaining = explained and Explaining(model, processor, self.turns, explained)
        self.batcher = Batcher(self.run, limits.max_batch_size, limits.batch_timeout_ms / 1000, self.metrics.ran)
        self.decoders = ThreadPoolExecutor(os.cpu_count(), "decoder")
        self.arrivals = Arrivals(limits.max_requests)
        self.requests = 0  # with a complete body, at work or waiting; each image of one counts
        self.worker: asyncio.Task | None = None
        self.document = openapi(self.identity, limits, explain)
        self.docs = docs_page(self.document, self.identity, limits)

    # ---------- from bytes to predictions

    def prepare(self, body: bytes, name: str = ONE) -> torch.Tensor:
        """Return pixel_values [C, h, w] of an image file's bytes; raises ValueError or OSError for other bytes."""
        image = self.decode(body, name=name, limits=self.image_limits)
        layout = {"input_data_format": "channels_first"}  # an image may be as narrow as it has channels
        return self.processor(image, return_tensors="pt", **layout)["pixel_values"][0]

    def run(self, images: list[torch.Tensor]) -> list[Output]:
        """Return the outputs of B images [C, h, w] of any sizes."""
        with self.turns.batch():
            result = run_batch(self.model, [(index, pixels, None) for index, pixels in enumerate(images)])
        outputs = {i: (result.outputs[row], result.verdict(row)) for row, i in enumerate(result.indices)}
        return [outputs[index] for index in range(len(images))]

    def rank(self, output: Output, top_k: int) -> dict[str, Any]:
        """Return the answer for an output; raises ValueError for NaN and infinity."""
        numbers, verdict = output
        if not numbers.isfinite().all():
            raise ValueError(DAMAGED)
        return {"predictions": self.task.entries(numbers[None], self.labels, top_k)[0], **verdict}

    def check(self) -> None:
        """Classify a generated picture; raises ValueError or OSError if that fails."""
        stream = BytesIO()
        picture = Image.linear_gradient("L").resize((32, 31))
        channels = getattr(self.processor, "num_channels", 3)
        if channels in (1, 3):
            picture.save(stream, "PNG")
        else:
            np.save(stream, np.stack([np.asarray(picture)] * channels))
        self.rank(self.run([self.prepare(stream.getvalue())])[0], DEFAULT_TOP_K)

    # ---------- endpoints

    async def predict(self, request: Request) -> Response:
        top_k = _top_k(request)
        kind = kind_of(request.headers)
        body = await self._received(request)
        with self._places(1):
            async with self._in_time():
                most = min(self.limits.max_images, self.limits.max_requests)
                asked = await self._asked(kind, request.headers.get("content-type", ""), body, most)
                del body
                top_k = _one_top_k(top_k, asked.top_k)
                with self._places(len(asked.images) - 1):
                    outputs = await asyncio.gather(*map(self._output, asked.images), return_exceptions=True)
        return JSONResponse({**self._answer(asked, outputs, top_k), **self.identity})

    async def explain(self, request: Request) -> Response:
        assert self.explaining is not None
        question = read_question(request.query_params.multi_items())
        kind = kind_of(request.headers)
        body = await self._received(request)
        with self._places(1), self.explaining.place():
            async with self._in_time():
                asked = await self._asked(kind, request.headers.get("content-type", ""), body, 1)
                del body
                if asked.top_k is not None:
                    raise HTTPException(422, "parameters: /explain knows no top_k. Fix: leave the parameters out.")
                found = await self.explaining(await self._pixels(asked.images[0]), question)
        self.metrics.images.labels("explained").inc()
        if isinstance(found, bytes):
            return Response(found, media_type="image/png")
        return JSONResponse({"explanations": found, **self.identity})

    async def _received(self, request: Request) -> bytes:
        try:
            return await self.arrivals.read(request.stream())
        except GivenUp:
            raise overloaded(f"more than {self.arrivals.most} bodies are under way, this one the slowest") from None

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                yield
        except TimeoutError:
            raise overloaded(f"no answer within {self.limits.timeout_s:g} seconds") from None

    async def _asked(self, kind: str, content_type: str, body: bytes, most: int) -> Asked:
        if kind == "image":
            return Asked([(ONE, body)])
        arguments = (read_form, content_type, body, most) if kind == FORM else (read_json, body, most)
        return await asyncio.get_running_loop().run_in_executor(self.decoders, *arguments)

    async def _output(self, image: tuple[str, bytes]) -> Output:
        return await self.batcher(await self._pixels(image))

    async def _pixels(self, image: tuple[str, bytes]) -> torch.Tensor:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.decoders, self._decoded, *image)
        except (ValueError, OSError) as error:
            self.metrics.images.labels("refused").inc()
            raise HTTPException(400, str(error)) from error

    def _decoded(self, name: str, body: bytes) -> torch.Tensor:
        with self.metrics.decoding():
            return self.prepare(body, name)

    def _answer(self, asked: Asked, outputs: Sequence[Output | BaseException], top_k: int) -> dict[str, Any]:
        """The answer for outputs and reasons why there is none; raises if no image was read or the model failed."""
        refused = [one for one in outputs if isinstance(one, HTTPException)]
        for failed in (one for one in outputs if isinstance(one, BaseException) and one not in refused):
            raise failed
        if len(refused) == len(outputs):
            more = f"none of the {len(refused)} images can be read; the first: " if len(refused) > 1 else ""
            raise HTTPException(400, more + refused[0].detail)
        try:
            found = [
                {"error": one.detail} if isinstance(one, HTTPException) else self.rank(one, top_k)
                for one in cast(Sequence[Output | HTTPException], outputs)
            ]
        except ValueError as error:
            raise HTTPException(500, str(error)) from error
        self.metrics.images.labels("answered").inc(len(found) - len(refused))
        if not asked.listed:
            return found[0]
        return {"results": [{"name": name, **one} for (name, _), one in zip(asked.images, found, strict=True)]}

    @contextmanager
    def _places(self, count: int):
        if self.requests + count > self.limits.max_requests:
            raise overloaded(f"{self.requests} requests are at work or waiting")
        self.requests += count
        try:
            yield
        finally:
            self.requests -= count

    async def health(self, request: Request) -> Response:
        if self.worker is None or self.worker.done():
            return JSONResponse({"status": "stopped", "error": "no batches are run. Fix: restart the server."}, 503)
        return JSONResponse({"status": "ready"})

    async def info(self, request: Request) -> Response:
        return JSONResponse(
            {
                **self.identity,
                "problem_type": self.task.name,
                "classes": [label for _, label in sorted(self.labels.items())],
                "limits": asdict(self.limits),
                "versions": {"vit_custom": __version__} | {n: version(n) for n in ("torch", "transformers", "pillow")},
                "explain": self.explaining is not None,
                "images": self.batcher.items,
                "batches": self.batcher.batches,
            }
        )

    async def measured(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": KIND})

    async def description(self, request: Request) -> Response:
        return JSONResponse(self.document)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self.docs)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer an HTTPException; to an address or method that does not exist, with those that do."""
        assert isinstance(error, HTTPException)
        message = error.detail
        if self.explaining is None and request.url.path == "/explain":
            message = "explanations are off. Fix: start the server with --explain."
        elif error.status_code in (404, 405):
            message = f"the addresses are POST /predict, {'POST /explain, ' * bool(self.explaining)}{ADDRESSES}."
        return JSONResponse({"error": message}, error.status_code, error.headers)

    @asynccontextmanager
    async def working(self, app: Starlette) -> AsyncIterator[None]:
        """Run batches while the application is up: its lifespan."""
        self.worker = asyncio.create_task(self.batcher.work())
        yield
        self.worker.cancel()


def build_app(service: Service) -> Starlette:
    """Build the ASGI application that the module's docstring describes."""
    limits = service.limits
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        *([Route("/explain", service.explain, methods=["POST"])] if service.explaining else []),
        Route("/health", service.health),
        Route("/info", service.info),
        Route("/openapi.json", service.description),
        Route("/docs", service.page),
        Route("/metrics", service.measured),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(CountRequests, metrics=service.metrics, routes={route.path for route in routes}),
            Middleware(BodyLimits, max_bytes=int(limits.max_body_mb * 1e6), seconds=limits.timeout_s),
        ],
        exception_handlers={HTTPException: service.refuse, ClientDisconnect: _nobody_listens, Exception: _failed},
        lifespan=service.working,
    )
    app.router.redirect_slashes = False  # a redirect would be built from the client's own Host header
    return app


# ---------- what a request asks for


def _top_k(request: Request) -> int | None:
    given = request.query_params.multi_items()
    if not given:
        return None
    (name, value), *more = given
    if more or name != "top_k":
        raise HTTPException(422, "the query holds more than one top_k=NUMBER. Fix: /predict?top_k=5")
    if not (value.isascii() and value.isdecimal() and 0 < len(value) < 10 and int(value) > 0):
        raise HTTPException(422, f"top_k={value[:20]!r}: give a whole number from 1 on, as in /predict?top_k=5")
    return int(value)


def _one_top_k(of_query: int | None, of_body: int | None) -> int:
    if of_query and of_body:
        raise HTTPException(422, "top_k is in the address and in the JSON's parameters. Fix: give it once.")
    return of_query or of_body or DEFAULT_TOP_K


# ---------- errors


async def _nobody_listens(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nginx' number, for the metrics: it reaches nobody


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why. Fix: tell who runs it."}, 500)
