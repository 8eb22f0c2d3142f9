"""`vit-custom explain`: show where in images the evidence for a model's answers lies, and how far to trust that."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from transformers.utils.logging import disable_progress_bar

from ..api.explaining import explain_files
from ..common.stopping import stopped
from ..common.text import printable
from ..explanation.choose import AUTO
from ..explanation.files import ALL
from ..explanation.methods.table import DEFAULT, METHODS
from ..explanation.writing import FORMS, PNG
from ..inference.answers import FEW, reason
from ..inference.inputs import STANDARD
from .options import add_max_pixels, add_model, add_trust, positive, ran_out, say_loaded

OUTPUT = "explanations"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom explain",
        description="Show where in images the evidence for a model's answers lies. Beside each map stands how much the "
        "answer changes when its most important patches are hidden, and random ones.",
        epilog="""examples:
  %(prog)s --model outputs/photos cat.jpg
  %(prog)s --model outputs/photos cat.jpg --target cat --contrast dog
  %(prog)s --model outputs/photos photos/ --method all --output compared
  %(prog)s --model outputs/photos "photos/*.jpg" --format html
  %(prog)s --model outputs/photos cat.jpg --output - | jq .faithfulness.sentence

methods:
METHODS
  auto       the one that --choose has found most faithful, kept beside the model
  all        one sheet of all methods that can be compared

A map shows where evidence lies, not what it is or why. Hatched patches are not confirmed: replacing one of them alone
does not lower the score. Pictures show your images: --output in the folder of a model is refused.
Exit codes: 0 done, 1 an image could not be read, 2 it could not be done as asked, 130 stopped by Ctrl-C.""".replace(
            "METHODS",
            "\n".join(f"  {name:<11}{method.words}{_noted(method.caveat)}" for name, method in METHODS.items()),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|FOLDER|-", help="image files, folders, quoted patterns")
    add_model(parser)
    parser.add_argument("--target", metavar="CLASS", help="explain this class (default: the model's answer)")
    parser.add_argument("--contrast", metavar="CLASS", help="rather than this class; rest: than all others")
    parser.add_argument(
        "--method", choices=[*METHODS, AUTO, ALL], default=DEFAULT, metavar="NAME", help="see below (libra)"
    )
    parser.add_argument("--choose", action="store_true", help="by these images (32 or more), and keep it for auto")
    parser.add_argument(
        "--output", default=OUTPUT, metavar="DIR", help="default: %(default)s; -: records alone, to standard output"
    )
    parser.add_argument("--format", choices=FORMS, default=PNG, help="pictures, one page, or records (%(default)s)")
    parser.add_argument("--check", type=on_or_off, default=True, metavar="on|off", help="measure each map (on)")
    parser.add_argument("--confirm", type=int, default=8, metavar="N", help="replace N top patches one by one (8)")
    parser.add_argument("--batch_size", type=positive, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
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
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    try:
        explained = explain_files(**vars(args))
    except KeyboardInterrupt:
        return stopped("explain", "what is finished stays")
    except (ValueError, OSError) as error:
        print(printable(f"explain: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("explain", error, args.batch_size)
    if args.output == STANDARD:
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
    say_loaded("explain", argv, args.model, args.revision)
    return 1 if explained.failed else 0


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
