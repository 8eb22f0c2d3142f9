"""Serving a saved classifier over HTTP: `vit-custom serve`. What it answers: `serving/app.py`.

Starlette and uvicorn carry the requests; `guards` and `batching` bound what comes in.
"""

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import try_to_load_from_cache

from ..common.model_files import CONFIG
from ..common.text import printable
from ..inference.loading import load_classifier
from .limits import Limits

if TYPE_CHECKING:
    import uvicorn

    from .app import Service

MAX_CONNECTIONS = 1000  # open at once, idle ones included; beyond, uvicorn answers 503
SHUTDOWN_SECONDS = 30  # for the requests at work when SIGTERM or Ctrl+C comes


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    revision: str | None = None,
    trust_remote_code: bool = False,
    limits: Limits | None = None,
) -> None:
    """Loads, checks and serves the classifier `model` until SIGTERM or Ctrl+C.

    Requests at work are answered before it returns. The port opens only once the model has classified a picture.
    Raises OSError for a model that is not there or a port that cannot be had, ValueError for a model that cannot
    be served.
    """
    from .app import Service

    classifier, processor = load_classifier(model, trust_remote_code, revision=revision)
    service = Service(classifier, processor, *public_name(model, revision), limits or Limits())
    service.check()
    with _listen(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print(printable(f"serving {model} on {url}: POST /predict, GET /health, GET /info. Ctrl+C stops it."))
        if host not in ("127.0.0.1", "::1", "localhost"):
            print("note: whoever reaches this address may use it; put a proxy with TLS and log-in before it.")
        sys.stdout.flush()
        http_server(service).run([listener])


def public_name(model: str, revision: str | None) -> tuple[str, str | None]:
    """(what answers call a loaded `model`, its commit): a folder's own name and None, or a Hub id and 40 digits."""
    if (folder := Path(model).expanduser()).is_dir():
        return folder.resolve().name, None
    cached = try_to_load_from_cache(model, CONFIG, revision=revision)
    return model, Path(cached).parent.name if isinstance(cached, str) else None


def http_server(service: "Service") -> "uvicorn.Server":
    """uvicorn for `service`, limited where it has limits of its own."""
    import uvicorn

    from .app import build_app
    from .guards import HeadDeadline

    config = uvicorn.Config(
        build_app(service),
        http=HeadDeadline,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen on {host} port {port} ({error}). Fix: give another --host or --port.") from error
