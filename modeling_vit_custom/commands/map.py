"""`vit-custom map`: draw images as points of a plane, near those like them, as one HTML page."""

import argparse
import sys

from transformers.utils.logging import disable_progress_bar

from ..api.searching import map_images
from ..common.stopping import stopped
from ..common.text import printable
from ..features.map import POINTS
from .options import MODEL_HELP, add_data_dir, add_max_pixels, add_trust, fewer_workers, positive, ran_out


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom map",
        description="Draw images as points of a plane, near those with similar vectors, in one HTML file with small "
        "pictures.",
        epilog="""examples:
  %(prog)s --model outputs/photos --data_dir photos --output map.html
  %(prog)s --index photos-index --output map.html
  %(prog)s --index photos-index --data_dir photos.parquet --points 1000 --output map.html

Places are those of t-SNE (scikit-learn, in the extra train). With --index, pictures are read from the files that it
names, or from --data_dir. The page holds names and pictures: it is refused in the folder of a model.
Exit codes: 0 done, 2 it could not be done as asked, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="map.html", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--index", metavar="DIR", help="a folder that `vit-custom index` made")
    parser.add_argument("--model", metavar="MODEL", help=f"instead of an index: {MODEL_HELP}")
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch (default: main)")
    add_data_dir(parser, "a folder, or a CSV, TSV, JSON or Parquet file of images or paths", all_splits=True)
    parser.add_argument(
        "--points", type=positive, default=POINTS, metavar="N", help="draw N of more images (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the places, and of what is drawn of more")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    add_max_pixels(parser)
    add_trust(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 done, 2 not done as asked, 130 stopped."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    try:
        mapped = map_images(**vars(args))
    except KeyboardInterrupt:
        return stopped("map")
    except (ValueError, OSError) as error:
        print(printable(f"map: {error}"), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        return ran_out("map", error, args.batch_size, *fewer_workers(args.num_workers))
    for note in mapped.notes:
        print(printable(f"note: {note}"))
    of = f" of {mapped.images:,}" if mapped.points < mapped.images else ""
    said = "" if mapped.trustworthiness is None else f", trustworthiness {mapped.trustworthiness:.3f}"
    print(f"{mapped.points:,}{of} images, {mapped.classes} classes, {mapped.pictures:,} pictures{said}")
    print(printable(f"wrote {mapped.output}"))
    return 0
