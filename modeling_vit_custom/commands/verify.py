"""`vit-custom verify`: what a saved model, or one on the Hub, holds and answers."""

import argparse
import sys
from collections.abc import Sequence

from ..publishing.verify import VerifyError, verify


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verify",
        description="Verify a saved model: files, weights, code, labels, golden outputs; PASS or FAIL for each.",
        epilog="""examples:
  %(prog)s STAGED_FOLDER
  %(prog)s user/name --revision 0123456789abcdef0123456789abcdef01234567

A folder is verified offline: one as it is published, which `publish --dry_run` leaves; checkpoints are not for
publishing and fail. A repository is downloaded into an empty folder, at one commit. What can be seen
without running its code is checked first; its code runs after that, in a fresh process, if it is byte for byte
the code of this package, or with --trust_remote_code. That process is no sandbox.
Exit codes: 0 all passed, 1 some failed, 2 it could not be verified.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="REPO_OR_DIR", help="saved model folder, or a Hub id")
    parser.add_argument("--revision", metavar="SHA", help="commit of a Hub id; a branch or tag moves")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that differs from this package's")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 all passed, 1 some failed, 2 it could not be verified."""
    args = build_parser().parse_args(argv)
    try:
        return 0 if verify(args.source, args.revision, args.trust_remote_code) else 1
    except VerifyError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
