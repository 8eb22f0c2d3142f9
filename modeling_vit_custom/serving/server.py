"""Serving a saved classifier over HTTP: `vit-custom serve`. What it answers: `serving/app.py`.

Starlette and uvicorn carry the requests; `guards` and `batching` bound what comes in.
"""

import argparse
import signal
import socket
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import try_to_load_from_cache
from transformers.utils.logging import disable_progress_bar

from ..data.raw import printable
from ..inference.loading import load_classifier
from .limits import Limits, add_limits

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
    cached = try_to_load_from_cache(model, "config.json", revision=revision)
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serve",
        description="Serve a saved classifier over HTTP: images in, labels out, in batches.",
        epilog="""examples:
  %(prog)s --model outputs/mnist
  curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "http://127.0.0.1:8000/predict?top_k=3"
  curl http://127.0.0.1:8000/health

Requests are images, one each; every error says what is wrong and how to go on. SIGTERM and Ctrl+C let the requests
at work finish. Needs the extra: pip install "vit-custom[serve]". There is no log-in and no TLS: for other machines,
put a proxy before it. Memory: about max_requests × max_body_mb for bodies, and 10 to 26 bytes a pixel (measured
on JPEG and PNG of 24 megapixels) for each image that is being decoded, one a CPU core at once.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR|REPO", help="saved model folder, or a Hub id")
    parser.add_argument("--revision", metavar="SHA", help="commit of a Hub id")
    parser.add_argument("--trust_remote_code", action="store_true", help="run other people's code in --model")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this machine only"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s; 0 takes a free one")
    add_limits(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 stopped as asked, 2 it could not be served as asked."""
    args = vars(build_parser().parse_args(argv))
    disable_progress_bar()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn, once it has shut down, raises the signal again
    try:
        limits = Limits(**{limit.name: args.pop(limit.name) for limit in fields(Limits)})
        serve(**args, limits=limits)
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        print(f'serve: {error}. Fix: pip install "vit-custom[serve]"', file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(printable(f"serve: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0
