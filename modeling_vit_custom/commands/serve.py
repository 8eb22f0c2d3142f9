"""`vit-custom serve`: serve a classifier over HTTP."""

import argparse
import signal
import sys
from dataclasses import fields

from transformers.utils.logging import disable_progress_bar

from ..common.stopping import stopped
from ..common.text import printable
from ..serving.limits import Limits
from ..serving.server import serve
from .options import add_model, add_trust, say_loaded


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of Limits."""
    for limit in fields(Limits):
        parser.add_argument(
            f"--{limit.name}",
            type=limit.type,
            default=limit.default,
            metavar="N",
            help=f"{limit.metadata['help']}; default: %(default)s",
        )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom serve",
        description="Serve a saved classifier over HTTP: images in, labels out, in batches.",
        epilog="""examples:
  %(prog)s --model outputs/mnist
  curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "http://127.0.0.1:8000/predict?top_k=3"
  curl -F file=@a.jpg -F file=@b.png http://127.0.0.1:8000/predict
  echo "{\\"inputs\\": \\"$(base64 < photo.jpg)\\"}" |
    curl -H "Content-Type: application/json" -d @- http://127.0.0.1:8000/predict
  curl http://127.0.0.1:8000/health
  %(prog)s --model outputs/mnist --explain
  curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "http://127.0.0.1:8000/explain?format=png" -o why.png

A request is the bytes of an image, a form of files, or JSON with base64: {"images": ["<base64>", …]} or {"inputs":
"<base64>"}. Of several images, one that cannot be read has an "error" in its place. Every error says what is wrong and
how to go on. SIGTERM and Ctrl+C let the requests at work finish. Needs the extra: pip install "vit-custom[serve]".
There is no log-in and no TLS: for other machines, put a proxy before it. Memory: about 2 × max_requests × max_body_mb
for bodies, 4 × max_body_mb more for each form or JSON that is being read, one a CPU core at once, and 10 to 26 bytes a
pixel (measured on JPEG and PNG of 24 megapixels) for each image that is being decoded, one a CPU core at once.
Exit codes: 0 served until SIGTERM or Ctrl-C, 2 it could not be served as asked, 130 stopped by Ctrl-C before that.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    add_trust(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this machine only"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--explain", action="store_true", help="answer POST /explain too: where the evidence lies")
    add_limits(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Return its exit code: 0 served until it was stopped, 2 it could not be served as asked, 130 stopped by Ctrl-C before
    it served.
    """
    args = vars(build_parser().parse_args(argv))
    disable_progress_bar()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn, once it has shut down, raises the signal again
    loaded = []

    def on_loaded(model: str, revision: str | None) -> None:
        loaded.append(model)
        say_loaded("serve", argv, model, revision)

    try:
        limits = Limits(**{limit.name: args.pop(limit.name) for limit in fields(Limits)})
        serve(**args, limits=limits, on_loaded=on_loaded)
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "python_multipart", "prometheus_client", "jinja2"):
            raise
        print(f'serve: {error}. Fix: pip install "vit-custom[serve]"', file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(printable(f"serve: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0 if loaded else stopped("serve", "nothing was served")
    return 0
