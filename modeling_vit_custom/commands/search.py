"""`vit-custom search`: find the images of an index that are most like others."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from transformers.utils.logging import disable_progress_bar

from ..api.searching import search
from ..common.stopping import stopped
from ..common.text import printable
from ..inference.answers import reason
from ..inference.inputs import STANDARD
from .options import MODEL_HELP, add_max_pixels, add_trust, positive, ran_out


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom search",
        description="Find the images of an index that are most like others, by the cosine similarity of their vectors.",
        epilog="""examples:
  %(prog)s --index photos-index new.jpg
  %(prog)s --index photos-index "new/*.jpg" --top_k 3 --output similar.jsonl
  %(prog)s --index photos-index new.jpg --output - | jq ".neighbours[0].path"
  %(prog)s --index photos-index --evaluate --top_k 5

The model is the one that made the index; another one, or other preprocessing, is refused. Every vector is compared,
unless the index has a graph: then some of the nearest may be missed, and --exact compares all the same.
--evaluate measures how often the nearest images are of an image's own class, leaving itself out.
Exit codes: 0 done, 1 an image could not be read, 2 it could not be done as asked, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", metavar="IMAGE|FOLDER|-", help="image files, folders, quoted patterns")
    parser.add_argument("--index", required=True, metavar="DIR", help="a folder that `vit-custom index` made")
    parser.add_argument("--model", metavar="MODEL", help=f"{MODEL_HELP} (default: the one that made the index)")
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch")
    parser.add_argument("--top_k", type=positive, default=10, metavar="K", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", help="write JSON lines, one an image; -: standard output")
    parser.add_argument("--exact", action="store_true", help="compare with every vector, though there is a graph")
    parser.add_argument("--evaluate", action="store_true", help="measure how often neighbours are of the same class")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    add_max_pixels(parser)
    add_trust(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 1 an image failed, 2 not done as asked, 130 stopped."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    try:
        found = search(**vars(args))
    except KeyboardInterrupt:
        return stopped("search")
    except (ValueError, OSError) as error:
        print(printable(f"search: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("search", error, args.batch_size)
    if args.output == STANDARD:
        sys.stdout.write(found.to_json())
    else:
        for line in measured(found.metrics) if args.evaluate else shown(found.records):
            print(printable(line))
    for record in found.records:
        if "error" in record:
            print(f"search: {reason(record)}", file=sys.stderr)
    if found.output is not None:
        print(printable(f"wrote {found.output}"))
    return 1 if found.failed else 0


def shown(records: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines for a screen: an image, then its neighbours, best first."""
    for record in records:
        if "neighbours" in record:
            yield printable(record["path"], keep="")
            for entry in record["neighbours"]:
                label = f"  {printable(entry['label'], keep='')}" if "label" in entry else ""
                yield f"  {entry['similarity']:.3f}{label}  {printable(entry['path'], keep='')}"


def measured(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for a screen that say what --evaluate has found."""
    k, of = figures["top_k"], f" of {figures['of']:,}" if figures["images"] < figures["of"] else ""
    yield f"{figures['images']:,}{of} images of {figures['classes']} classes, each left out of its own search:"
    yield f"{figures['any']:.1%} have one of their own class among the {k} nearest (recall@{k})"
    yield f"{figures['share']:.1%} of the {k} nearest are of the same class ({figures['chance']:.1%} by chance)"
    if figures["copies"]:
        yield f"{figures['copies']:,} images have the content of another one, which counts as a neighbour"
