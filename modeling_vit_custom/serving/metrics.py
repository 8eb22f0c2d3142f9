"""What the server counts, for Prometheus: GET /metrics.

Each application has a registry of its own. Addresses that do not exist are one route, "other", so that nobody can make
series without end. What uvicorn refuses before the application (a damaged head, too many connections) is not here.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KIND = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one application; `about` are the labels of vit_custom_model_info."""

    def __init__(self, about: dict[str, str]):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "vit_custom_requests",
            "Requests by route and status; 499: the client hung up.",
            ["route", "status"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "vit_custom_requests_in_flight", "Requests under way, their bodies included.", registry=registry
        )
        self.images = Counter(
            "vit_custom_images", "Images, answered, explained or refused as unreadable.", ["result"], registry=registry
        )
        self.seconds = Histogram(
            "vit_custom_seconds",
            "Seconds of an image to be decoded and to wait for a batch, of a batch in the model, of an explanation.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram("vit_custom_batch_images", "Images of a batch.", buckets=IMAGES, registry=registry)
        Info("vit_custom_model", "The model that is loaded.", registry=registry).info(about)
        for result in ("answered", "refused"):
            self.images.labels(result)
        for stage in ("decode", "queue", "model"):
            self.seconds.labels(stage)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format, of kind KIND."""
        return generate_latest(self.registry)

    def ran(self, waits: Sequence[float], seconds: float) -> None:
        """Count a batch: how long each of its images had waited, and how long the model took."""
        self.batch.observe(len(waits))
        self.seconds.labels("model").observe(seconds)
        for wait in waits:
            self.seconds.labels("queue").observe(wait)

    @contextmanager
    def decoding(self):
        """Time the decoding of an image, readable or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.labels("decode").observe(time.perf_counter() - start)


class CountRequests:
    """ASGI middleware that counts each request under its route, or "other" if that is none of `routes`, and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Collection[str]):
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 500  # what an exception becomes above

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        route = scope["path"] if scope["path"] in self.routes else "other"
        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, watched_send)
            finally:
                self.metrics.requests.labels(route, str(status)).inc()
