"""The options of commands that read labelled images: which columns of a table hold what, and what may be followed."""

import argparse
from typing import Any

from ..common.outputs import OutputError, check_replaceable, is_stream
from ..data.source import Columns


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


def table_options(args: argparse.Namespace, problem_type: str | None = None) -> dict[str, Any]:
    """Makes the keywords `columns` and `follow_links` that the functions behind these commands take."""
    columns = Columns(args.image_column_name, args.label_column_name, args.label_separator, problem_type)
    return {"columns": columns, "follow_links": args.follow_links}


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
