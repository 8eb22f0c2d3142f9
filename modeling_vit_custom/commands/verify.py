"""`vit-custom verify`: check files and outputs of a saved model, or of one on the Hub."""

import argparse
import sys
from collections.abc import Sequence

from ..api.publishing import verify
from ..common.errors import UsageError
from ..publishing.verify import VerifyError
from .options import MODEL_HELP, add_named, parse_anywhere


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom verify",
        description="Verify a saved model: files, weights, code, labels, golden outputs; PASS or FAIL for each.",
        epilog="""examples:
  %(prog)s --model STAGED_FOLDER
  %(prog)s --model user/name@0123456789abcdef0123456789abcdef01234567

A folder is verified offline: one as it is published, which `publish --dry_run` leaves; checkpoints are not for
publishing and fail. A repository is downloaded into an empty folder, at one commit. What can be seen
without running its code is checked first; its code runs after that, in a fresh process, if it is byte for byte
the code of this package, or with --trust_remote_code. That process is no sandbox.
Exit codes: 0 all passed, 1 some failed, 2 it could not be verified, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_named(parser, "model", "source", MODEL_HELP, "MODEL")
    parser.add_argument("--revision", metavar="SHA", help="commit of a Hub id; a branch or tag moves")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that differs from this package's")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 all passed, 1 some failed, 2 it could not be verified, 130 stopped."""
    args = parse_anywhere(build_parser(), argv)
    try:
        return 0 if verify(**args) else 1
    except (VerifyError, UsageError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
