"""`vit-custom publish`: check a saved model and upload it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from ..api.checks import named_once
from ..api.publishing import publish
from ..common.errors import UsageError
from ..conversion.export import LIBRARIES
from ..publishing.publish import listing_in, snippet
from ..publishing.upload import PublishError, files_of
from .options import add_named, parse_anywhere


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom publish",
        description="Publish a saved model: staged, proven in a fresh process, described, uploaded in one commit.",
        epilog="""examples:
  %(prog)s --model outputs/photos --repo_id me/photos --license apache-2.0 --dry_run
  %(prog)s --model outputs/photos --repo_id me/photos --license apache-2.0 --private --examples a.jpg b.jpg c.jpg
  %(prog)s --model outputs/photos --repo_id me/photos --license mit --base_model me/base --datasets me/pictures --space
  %(prog)s --model outputs/photos --repo_id me/photos-vit --license mit --as hf    # loads without trust_remote_code

Other files of the repository's branch stay. Where they would be false or unsafe beside the model, such as other
weights, figures or code, they are named and nothing is uploaded; --replace names and deletes all others, which earlier
commits keep. Without --examples the golden outputs are those of MODEL/examples, or of drawn pictures. Log in first:
`hf auth login`.

--as hf (timm) converts the model, as `convert --to` does, to a class of transformers (timm) and its image processor,
runs both models from the same images, and publishes the converted one: no code goes up, and none is needed to load it.
What the library cannot express is refused with the field's name.
Exit codes: 0 published, 2 it could not be published, 130 stopped by Ctrl-C.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_named(parser, "model", "model_dir", "a folder that training or save_pretrained made", "DIR")
    add_named(parser, "repo_id", "repo_id", "NAMESPACE/NAME on the Hub; made if there is none", "REPO")
    parser.add_argument(
        "--as",
        "--save_as",
        dest="save_as",
        choices=list(LIBRARIES),
        help="as a model of transformers (hf) or timm, without code (default: with its own code)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch, made if there is none (default: main)")
    parser.add_argument("--dry_run", action="store_true", help="all but the upload; leaves the staged folder")
    parser.add_argument("--space", action="store_true", help="publish the demo too, as a Space of the same name")
    parser.add_argument("--license", help="of the weights, as the Hub names it (apache-2.0, mit, cc-by-4.0, …)")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="ID", help="what it was trained on, on the Hub")
    parser.add_argument("--base_model", metavar="ID", help="what it was fine-tuned from, on the Hub")
    parser.add_argument("--examples", nargs="+", default=[], metavar="IMAGE", help="up to 5 images, to be published")
    parser.add_argument(
        "--include_index", metavar="INDEX", help="publish an index of images too: vectors, names and labels"
    )
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--replace", action="store_true", help="delete the branch's other files, after naming them")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that differs from this package's")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 published, 2 it could not be published, 130 stopped by Ctrl-C."""
    args = parse_anywhere(build_parser(), argv)
    try:
        published = publish(**args)
    except (PublishError, UsageError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    if isinstance(published, Path):
        print(f"\nstaged, not uploaded: {published}")
        for name, path in files_of(published).items():
            print(f"{path.stat().st_size:>13,}  {name}")
    else:
        where = f"{constants.ENDPOINT}/{args['repo_id']}/tree/{published}"
        folder = named_once(model=args["model"], model_dir=args["model_dir"])
        print(f"\n{where}\n\n{snippet(listing_in(folder), args['repo_id'], published, args['save_as'])}")
    return 0
