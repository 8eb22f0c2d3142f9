"""Options shared by several commands: for models, labelled images and tables."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..api.checks import check_report, measured_source, named_columns
from ..common.image_pixels import MAX_PIXELS, MAX_PIXELS_HELP
from ..common.memory import memory_sentence, out_of_memory, smaller_batch
from ..common.model_names import named_model, say_commit
from ..common.outputs import OutputError
from ..common.text import printable
from ..data.source import MEASURED_ON, Columns, Source
from ..tasks.registry import PROBLEM_TYPES

MODEL_HELP = "saved model folder, or a Hub id, also as REPO@REVISION"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model and --revision; `say_loaded` prints which commit was loaded."""
    parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch (default: main)")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust_remote_code."""
    said = "run other people's code in --model; of a Hub id, name its commit"
    parser.add_argument("--trust_remote_code", action="store_true", help=said)


def say_loaded(command: str, argv: Sequence[str] | None, model: str, revision: str | None) -> None:
    """Print on a terminal, as `say_commit` does, which commit a command has loaded.   argv: its arguments."""
    say_commit(command, sys.argv[1:] if argv is None else argv, *named_model(model, revision))


def add_table_options(parser: argparse._ActionsContainer, labelled: bool = True) -> None:
    """Add the options of tables to a command's parser; `columns_of` reads them."""
    of_table = "of a table (%(default)s)"
    parser.add_argument("--image_column_name", "--image_column", default="image", metavar="NAME", help=of_table)
    if labelled:
        parser.add_argument(
            "--label_column_name", "--label_column", default="label", metavar="NAME", help=f"{of_table}; several: a,b,c"
        )
        parser.add_argument(
            "--label_separator", default="|", metavar="TEXT", help="between labels in one cell (%(default)s)"
        )
        parser.add_argument("--problem_type", choices=PROBLEM_TYPES, help="read off the label column if not given")
    parser.add_argument(
        "--follow_links", action="store_true", help="follow links, and paths in a table, that lead outside"
    )


def add_data_dir(
    parser: argparse._ActionsContainer, help: str, labelled: bool = True, all_splits: bool | None = None
) -> None:
    """Add the flags that name images to measure or predict, and those of `add_table_options`.

    They accept every source that training reads.   help: help text of --data_dir.   all_splits: whether all splits are
    read if none is named; by default those without labels.
    """
    parser.add_argument("--data_dir", metavar="DIR", help=help)
    add_dataset_options(parser)
    all_splits = not labelled if all_splits is None else all_splits
    chosen = "all of them" if all_splits else "the first of test, validation, train"
    parser.add_argument("--split", choices=MEASURED_ON, help=f"one of several (default: {chosen})")
    add_table_options(parser, labelled)


def add_dataset_options(parser: argparse._ActionsContainer) -> None:
    """Add the flags of a `datasets` dataset, which replaces a folder."""
    parser.add_argument("--dataset_name", metavar="NAME", help="Hub dataset, or folder of save_to_disk or data files")
    parser.add_argument("--dataset_config_name", metavar="NAME", help="its configuration")
    parser.add_argument("--dataset_revision", metavar="COMMIT", help="its branch, tag or commit")


def source_options(args: argparse.Namespace) -> Source:
    """Build the `Source` for readers of data from the flags of `add_data_dir`."""
    return measured_source(
        args.data_dir,
        args.dataset_name,
        args.dataset_config_name,
        args.dataset_revision,
        args.split,
        args.follow_links,
    )


def columns_of(args: argparse.Namespace) -> Columns:
    """Build the `Columns` for readers of data from the flags of `add_table_options`."""
    return named_columns(args.image_column_name, args.label_column_name, args.label_separator, args.problem_type)


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Add the flag that changes the limit on image size; see `pixels_allowed`."""
    said = MAX_PIXELS_HELP[0].lower() + MAX_PIXELS_HELP[1:]
    parser.add_argument(
        "--max_pixels", type=positive, default=MAX_PIXELS, metavar="N", help=f"{said} (default: %(default)s)"
    )


def ran_out(command: str, error: Exception, size: int, *others: str) -> int:
    """Print that memory ran out and what needs less of it; return the exit code. Raises any other error again.

    size: the value of --batch_size.   others: further fixes.
    """
    if not out_of_memory(error):
        raise error
    fixes = [*smaller_batch(size), *others] or ["it a machine with more"]
    print(printable(f"{command}: {memory_sentence(error, fixes)}"), file=sys.stderr)
    return 2


def fewer_workers(count: int) -> list[str]:
    """Return a fix of `ran_out`: no loading processes; [] if there are none."""
    return [f"--num_workers 0 (now {count})"] if count else []


class Once(argparse.Action):
    """Action for a value given either by a flag or as a positional argument; giving both is an error."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        if values is None:  # the positional argument is missing
            return
        if (before := getattr(namespace, self.dest, None)) is not None:
            parser.error(f"--{self.dest} is given twice, {before} and {values}: give it once.")
        setattr(namespace, self.dest, values)


def add_named(parser: argparse.ArgumentParser, name: str, place: str, help: str, metavar: str) -> None:
    """Add the flag --NAME, and the same value as a positional argument `place`, hidden from the help."""
    parser.add_argument(place, nargs="?", action=Once, help=argparse.SUPPRESS)
    parser.add_argument(f"--{name}", action=Once, metavar=metavar, help=help)


def parse_anywhere(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> dict[str, Any]:
    """Parse arguments whose optional positionals may follow flags.

    parse_args would treat such a positional as missing as soon as a flag comes first.
    """
    return vars(parser.parse_intermixed_args(argv))


def report_file(text: str) -> str:
    """Check before any work that a report can be written to this path; an argparse type."""
    try:
        check_report(text)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive(text: str) -> int:
    """Parse an integer of 1 or more; an argparse type."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"is {value}; give 1 or more")
    return value
