"""The options of commands that read labelled images: which columns of a table hold what, and what may be followed."""

import argparse
from typing import Any

from ..common.outputs import OutputError, check_replaceable, is_stream


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds them to a command's parser; `table_options` reads what was given."""
    of_table = "of a table (%(default)s)"
    parser.add_argument("--image_column_name", "--image_column", default="image", metavar="NAME", help=of_table)
    parser.add_argument(
        "--label_column_name", "--label_column", default="label", metavar="NAME", help=f"{of_table}; several: a,b,c"
    )
    parser.add_argument(
        "--label_separator", default="|", metavar="TEXT", help="between labels in one cell (%(default)s)"
    )
    parser.add_argument(
        "--follow_links", action="store_true", help="follow links, and paths in a table, that lead outside"
    )


def table_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `read_splits` and `load_eval_examples`."""
    return {
        "image_column": args.image_column_name,
        "label_column": args.label_column_name,
        "label_separator": args.label_separator,
        "follow_links": args.follow_links,
    }


def report_file(text: str) -> str:
    """Checks, as an argparse type, that a report can be written there, before any work."""
    try:
        if not is_stream(text):
            check_replaceable(text)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"is {value}; give 1 or more")
    return value
