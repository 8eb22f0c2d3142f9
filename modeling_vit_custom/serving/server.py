"""A saved classifier served over HTTP: `vit-custom serve`. `serving/app.py` describes the answers.

Starlette and uvicorn carry the requests; `guards` and `batching` bound what comes in.
"""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.image_pixels import pixels_allowed
from ..common.model_names import commit_of, named_model
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
    explain: bool = False,
    on_loaded: Callable[[str, str | None], None] = lambda model, revision: None,
) -> None:
    """Load, check and serve the classifier `model` until SIGTERM or Ctrl+C.

    explain: whether POST /explain is answered too.   on_loaded: called with model and revision once they are loaded and
    checked.   Requests at work are answered before this returns. The port opens only after the model has classified a
    picture. Raises OSError for a model that does not exist or a port that is not available, ValueError for a model that
    cannot be served, or not be explained.
    """
    from .app import Service

    model, revision = named_model(model, revision)
    classifier, processor = load_classifier(model, trust_remote_code, revision=revision)
    service = Service(classifier, processor, *public_name(model, revision), limits or Limits(), explain)
    service.check()
    on_loaded(model, revision)
    with pixels_allowed(service.limits.max_pixels), _listen(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        posts = "POST /predict, POST /explain" if explain else "POST /predict"
        print(printable(f"serving {model} on {url}: {posts}, GET /health, GET /info. Ctrl+C stops it."))
        print(f"{url}/docs shows how to ask.")
        if host not in ("127.0.0.1", "::1", "localhost"):
            print("note: anyone who reaches this address can use it; put a proxy with TLS and log-in before it.")
        sys.stdout.flush()
        http_server(service).run([listener])


def public_name(model: str, revision: str | None) -> tuple[str, str | None]:
    """Return (the model's name in answers, its commit): a folder's own name and None, or a Hub id and 40 digits."""
    if (folder := Path(model).expanduser()).is_dir():
        return folder.resolve().name, None
    return model, commit_of(model, revision)


def http_server(service: "Service") -> "uvicorn.Server":
    """Build uvicorn's server for `service`, with uvicorn's own limits set."""
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
