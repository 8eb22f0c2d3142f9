"""`vit-custom explain`: show where in images the evidence for a model's answers lies, and how far to trust that; on a
labelled data set, what a model decides by that is not the object."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

from transformers.utils.logging import disable_progress_bar

from ..api.explaining import explain_files, find_shortcuts
from ..common.stopping import stopped
from ..common.text import printable
from ..explanation.choose import AUTO
from ..explanation.files import ALL
from ..explanation.methods.table import DEFAULT, METHODS
from ..explanation.shortcuts.finding import PER_CLASS
from ..explanation.writing import FORMS, PNG, SHORTCUTS
from ..inference.answers import FEW, reason
from ..inference.inputs import STANDARD
from .options import add_data_dir, add_max_pixels, add_model, add_trust, positive, ran_out, say_loaded

OUTPUT = "explanations"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom explain",
        description="Show where in images the evidence for a model's answers lies. Beside each map stands how much the "
        "answer changes when its most important patches are hidden, and random ones. With --data_dir: look for what "
        "the model decides by on labelled images that is not the object, such as a watermark or a border.",
        epilog="""examples:
  %(prog)s --model outputs/photos cat.jpg
  %(prog)s --model outputs/photos cat.jpg --target cat --contrast dog
  %(prog)s --model outputs/photos photos/ --method all --output compared
  %(prog)s --model outputs/photos "photos/*.jpg" --format html
  %(prog)s --model outputs/photos cat.jpg --output - | jq .faithfulness.sentence
  %(prog)s --model outputs/photos --data_dir photos/test --boxes boxes.csv

methods:
METHODS
  auto       the one that --choose has found most faithful, kept beside the model
  all        one sheet of all methods that can be compared

A map shows where evidence lies, not what it is or why. Hatched patches are not confirmed: replacing one of them alone
does not lower the score. Of a data set, shortcuts.html and shortcuts.json are written; what is accused there was
exchanged between images of different classes, and the answers followed.
Pictures show your images: --output in the folder of a model is refused.
Exit codes: 0 done, 1 an image could not be read, 2 it could not be done as asked, 130 stopped by Ctrl-C.""".replace(
            "METHODS",
            "\n".join(f"  {name:<11}{method.words}{_noted(method.caveat)}" for name, method in METHODS.items()),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", metavar="IMAGE|FOLDER|-", help="image files, folders, quoted patterns")
    add_model(parser)
    parser.add_argument("--output", default=OUTPUT, metavar="DIR", help="default: %(default)s; -: to standard output")
    parser.add_argument("--batch_size", type=positive, default=8, metavar="N", help="default: %(default)s")
    maps = parser.add_argument_group("maps of images")
    maps.add_argument("--target", metavar="CLASS", help="explain this class (default: the model's answer)")
    maps.add_argument("--contrast", metavar="CLASS", help="rather than this class; rest: than all others")
    maps.add_argument(
        "--method", choices=[*METHODS, AUTO, ALL], default=DEFAULT, metavar="NAME", help="see below (libra)"
    )
    maps.add_argument("--choose", action="store_true", help="by these images (32 or more), and keep it for auto")
    maps.add_argument("--format", choices=FORMS, default=PNG, help="pictures, one page, or records (%(default)s)")
    maps.add_argument("--check", type=on_or_off, default=True, metavar="on|off", help="measure each map (on)")
    maps.add_argument("--confirm", type=int, default=8, metavar="N", help="replace N top patches one by one (8)")
    shortcuts = parser.add_argument_group("shortcuts in a labelled data set")
    add_data_dir(shortcuts, "folder of class or split folders, a CSV, TSV, JSON or Parquet file, or shards")
    shortcuts.add_argument("--boxes", metavar="FILE", help="CSV of objects: path, x0, y0, x1, y1; suspect backgrounds")
    shortcuts.add_argument(
        "--per_class", type=positive, default=PER_CLASS, metavar="N", help="most images of a class (%(default)s)"
    )
    add_max_pixels(parser)
    add_trust(parser)
    return parser


def on_or_off(text: str) -> bool:
    """Return whether a text says on. Raises ArgumentTypeError for any other than "on" and "off"."""
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r}: give on or off")
    return text == "on"


def _noted(caveat: str | None) -> str:
    return "" if caveat is None else f" ({caveat})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 1 an image failed, 2 not done as asked, 130 stopped."""
    parser = build_parser()
    args = parser.parse_args(argv)
    of_data = args.data_dir is not None or args.dataset_name is not None
    if not of_data and not args.inputs:
        parser.error("name images, or a labelled data set by --data_dir or --dataset_name.")
    flags = _flags_of(find_shortcuts if of_data else explain_files, parser, args)
    disable_progress_bar()
    try:
        code = (_show_shortcuts if of_data else _show_maps)(args.output, flags)
    except KeyboardInterrupt:
        return stopped("explain", "nothing was written" if of_data else "the same command goes on")
    except (ValueError, OSError) as error:
        print(printable(f"explain: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("explain", error, args.batch_size)
    say_loaded("explain", argv, args.model, args.revision)
    return code


def _flags_of(
    function: Callable[..., Any], parser: argparse.ArgumentParser, args: argparse.Namespace
) -> dict[str, Any]:
    """The flags that a function takes. Others end the command, if they are given."""
    flags, taken = vars(args), signature(function).parameters
    place, fix = (
        ("maps of images", "leave it out, or --data_dir")
        if function is find_shortcuts
        else ("a labelled data set", "name one by --data_dir instead of images")
    )
    for name in flags.keys() - taken.keys():
        if flags[name] not in ([], parser.get_default(name)):
            said = "IMAGE" if name == "inputs" else f"--{name}"
            parser.error(f"{said} is for {place}: {fix}.")
    return {name: flags[name] for name in flags.keys() & taken.keys()}


def _show_maps(output: str, flags: dict[str, Any]) -> int:
    """Explain images; print what was found, and return the exit code."""
    explained = explain_files(**flags)
    if output == STANDARD:
        sys.stdout.write(explained.to_json())
    else:
        for line in shown(explained.records[:FEW]):
            print(printable(line))
        print(printable(f"wrote {explained.output}"))
    for record in explained.records:
        if "error" in record:
            print(f"explain: {reason(record)}", file=sys.stderr)
    for note in explained.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    return 1 if explained.failed else 0


def _show_shortcuts(output: str, flags: dict[str, Any]) -> int:
    """Look for shortcuts; print what was found, and return the exit code."""
    report = find_shortcuts(**flags)
    errors = [*report.evidence.errors.values()]
    if output == STANDARD:
        sys.stdout.write(report.to_json())
    else:
        for line in (report.summary(), *report.sentences()):
            print(printable(line))
        print(printable(f"wrote {os.path.join(output, SHORTCUTS)}, and its figures as .json"))
    for error in errors:
        print(printable(f"explain: {error}"), file=sys.stderr)
    return 1 if errors else 0


def shown(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines for a screen: what is explained, then for each method what hiding patches does to it."""
    before = None
    for record in records:
        if "error" in record:
            continue
        sure = "" if record["probability"] is None else f" {record['probability']:.2f}"
        against = f" rather than {printable(record['contrast'], keep='')}" if record["contrast"] else ""
        what = f"{printable(record['path'], keep='')}  {printable(record['label'], keep='')}{against}{sure}"
        yield from [] if what == before else [what]
        said = [record["caveat"], (record["faithfulness"] or {}).get("sentence"), record["little"], *record["notes"]]
        yield f"  {record['method']}: {'; '.join(filter(None, said)) or 'not measured'}"
        before = what
