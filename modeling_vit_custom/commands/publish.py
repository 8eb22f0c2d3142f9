"""`vit-custom publish`: a saved model, checked and uploaded."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..publishing.publish import Origin, check_demo, find_origin, listing_in, prepare, prepare_space, publish, snippet
from ..publishing.upload import PublishError, check_target, files_of


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="publish",
        description="Publish a saved model: staged, proven in a fresh process, described, uploaded in one commit.",
        epilog="""examples:
  %(prog)s outputs/photos me/photos --license apache-2.0 --dry_run
  %(prog)s outputs/photos me/photos --license apache-2.0 --private --examples a.jpg b.jpg c.jpg
  %(prog)s outputs/photos me/photos --license mit --base_model me/base --datasets me/pictures --space

Other files of the repository's branch stay. Where they would be false or unsafe beside the model, such as other
weights, figures or code, they are named and nothing is uploaded; --replace names and deletes all others, which earlier
commits keep. Without --examples the golden outputs are those of MODEL_DIR/examples, or of drawn pictures. Log in first:
`hf auth login`.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="a folder that training or save_pretrained made")
    parser.add_argument("repo_id", metavar="REPO", help="NAMESPACE/NAME on the Hub; made if there is none")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch, made if there is none (default: main)")
    parser.add_argument("--dry_run", action="store_true", help="all but the upload; leaves the staged folder")
    parser.add_argument("--space", action="store_true", help="publish the demo too, as a Space of the same name")
    parser.add_argument("--license", help="of the weights, as the Hub names it (apache-2.0, mit, cc-by-4.0, …)")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="ID", help="what it was trained on, on the Hub")
    parser.add_argument("--base_model", metavar="ID", help="what it was fine-tuned from, on the Hub")
    parser.add_argument("--examples", nargs="+", default=[], metavar="IMAGE", help="up to 5 images, to be published")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--replace", action="store_true", help="delete the branch's other files, after naming them")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that differs from this package's")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 1 not published."""
    args = vars(build_parser().parse_args(argv))
    model_dir, repo_id, dry_run = (args.pop(name) for name in ("model_dir", "repo_id", "dry_run"))
    given = {name: args.pop(name) for name in ("license", "datasets", "base_model")}
    try:
        check_target(repo_id, args["revision"])
        origin = find_origin(model_dir, **given)
        if dry_run:
            show_staged(model_dir, repo_id, origin, args["space"], args["examples"], args["trust_remote_code"])
            return 0
        sha = publish(model_dir, repo_id, origin, **args)
    except PublishError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    print(f"\n{constants.ENDPOINT}/{repo_id}/tree/{sha}\n\n{snippet(listing_in(model_dir), repo_id, sha)}")
    return 0


def show_staged(model_dir: str, repo_id: str, origin: Origin, space: bool, *how: Any) -> None:
    """Leaves in a new folder what would be published and prints its files; contacts nothing."""
    if space:
        check_demo(model_dir)
    folder = Path(tempfile.mkdtemp(prefix="publish-"))
    try:
        prepare(model_dir, folder / "model", repo_id, origin, *how)
        if space:
            prepare_space(folder / "space", repo_id, "0" * 40)
    except BaseException:  # Ctrl+C too: half a model is of no use
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"\nstaged, not uploaded: {folder}")
    for name, path in files_of(folder).items():
        print(f"{path.stat().st_size:>13,}  {name}")
