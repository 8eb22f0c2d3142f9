"""Limits that uvicorn lacks: the size of a request's body, and the time in which head and body have to arrive."""

import asyncio
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

RETRY_SECONDS = 1
DRAIN_SECONDS = 2  # for a refused client to stop sending and read why; a connection that is reset loses the answer


def overloaded(reason: str) -> HTTPException:
    """Return the error 503, which says when to come back."""
    return HTTPException(503, f"{reason}. Fix: try again later.", {"Retry-After": str(RETRY_SECONDS)})


_two_ends = JSONResponse(
    {"error": "the request has both Content-Length and Transfer-Encoding. Fix: send one of them."}, 400
)


class BodyLimits:
    """ASGI middleware: 413 beyond `max_bytes`, 408 after `seconds`; a connection with unread bytes is closed.

    A body of declared size is refused before any of it is read, a body in chunks as soon as it is too long. A request
    that declares a size and also comes in chunks gets 400: a proxy may see its end elsewhere, and another request
    behind that.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float):
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        declared = int(headers.get(b"content-length", 0))
        chunked = b"transfer-encoding" in headers
        unread = declared > 0 or chunked
        until = asyncio.get_running_loop().time() + self.seconds
        seen = 0

        async def limited_receive() -> Message:
            nonlocal seen, unread
            if declared > self.max_bytes:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"the body did not arrive within {self.seconds:g} seconds. Fix: send a smaller image, or fewer.",
                ) from None
            unread = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._too_large()
            return message

        async def closing_send(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif unread and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _drain(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        app = _two_ends if chunked and b"content-length" in headers else self.app
        await app(scope, limited_receive, closing_send)

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"the body is more than {self.max_bytes:,} bytes. Fix: send a smaller image, or fewer."
        )


async def _drain(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass


class HeadDeadline(H11Protocol):
    """uvicorn's HTTP/1.1; a connection whose request line and headers are not there within `seconds` is closed."""

    seconds = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disarm()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
