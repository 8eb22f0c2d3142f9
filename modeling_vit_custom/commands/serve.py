"""`vit-custom serve`: images over HTTP."""

import argparse
import signal
import sys
from dataclasses import fields

from transformers.utils.logging import disable_progress_bar

from ..common.text import printable
from ..serving.limits import Limits
from ..serving.server import serve


def add_limits(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Limits."""
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
