"""A service behind real sockets in a thread of this process, and what tests of it share."""

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from serving_load import MAX_BODY

from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.serving.app import Service
from modeling_vit_custom.serving.limits import Limits
from modeling_vit_custom.serving.server import http_server

LIMITS = {"max_body_mb": MAX_BODY / 1e6, "timeout_s": 5, "batch_timeout_ms": 20}


def make_service(folder: Path, explain: bool = False, **limits) -> Service:
    return Service(*load_classifier(str(folder)), folder.name, None, Limits(**{**LIMITS, **limits}), explain)


@contextmanager
def running(service: Service):
    """Run `service` behind real sockets in a thread of this process; yield (URL, uvicorn server)."""
    server = http_server(service)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.should_exit = True  # what uvicorn does on SIGTERM
            thread.join(30)
            assert not thread.is_alive()


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def exchange(url: str, *parts: bytes, seconds: float = 20) -> bytes:
    """Return all bytes that the server answers to `parts` until it closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as client:
        for part in parts:
            client.sendall(part)
        return b"".join(iter(lambda: client.recv(4096), b""))
