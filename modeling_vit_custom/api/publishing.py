"""`publish` and `verify` as functions with keyword arguments."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..conversion.export import LIBRARIES
from ..publishing.publish import Origin, check_demo, find_origin, listing_in, prepare, prepare_space
from ..publishing.publish import publish as upload
from ..publishing.upload import check_target
from ..publishing.verify import verify as run_checks
from .checks import named_once, one_of
from .results import Published, Staged, Verified


def publish(
    model: str | Path | None = None,
    repo_id: str | None = None,
    *,
    model_dir: str | Path | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    examples: Sequence[str | Path] = (),
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    space: bool = False,
    replace: bool = False,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    save_as: str | None = None,
    include_index: str | Path | None = None,
) -> Published | Staged:
    """Publish the saved classifier or encoder `model` as `repo_id` on the Hub; returns the sha of its commit.

    model: a folder; `model_dir` is another name for this parameter.   license: license of the weights, as the Hub names
    it. license, datasets and base_model may be left out if a card in the folder already states them.   examples: up to
    5 images, which are published too.   dry_run: do everything but the upload; returns the new folder with "model" and,
    with `space`, "space" as they would be published.   save_as: "hf" or "timm" publishes it as a model of transformers
    or timm, which loads without remote code; None: with its own code.   include_index: the folder of an index that this
    model made; its vectors, names and labels become public.   The others are those of `publishing.publish`. Prints each
    check.

    Raises PublishError; nothing has been uploaded then, unless the message says so. Raises UsageError for a name that
    is missing, or given twice.
    """
    folder = named_once(model=model, model_dir=model_dir)
    repo_id = str(named_once(repo_id=repo_id))
    check_target(repo_id, revision)
    one_of("as", save_as, (None, *LIBRARIES))
    origin = find_origin(folder, license, datasets, base_model)
    if dry_run:
        return _staged(folder, repo_id, origin, space, examples, trust_remote_code, save_as, include_index)
    sha = upload(
        folder,
        repo_id,
        origin,
        private=private,
        revision=revision,
        examples=examples,
        message=message,
        space=space,
        trust_remote_code=trust_remote_code,
        replace=replace,
        library=save_as,
        index=include_index,
    )
    return Published.at(sha, repo_id, f"{constants.ENDPOINT}/{repo_id}/tree/{sha}", folder)


def _staged(model_dir: str | Path, repo_id: str, origin: Origin, space: bool, *how: Any) -> Staged:
    """Write the files that would be published into a new folder and return it; uses no network."""
    if space:
        check_demo(model_dir, how[2])
    folder = Path(tempfile.mkdtemp(prefix="publish-"))
    try:
        prepare(model_dir, folder / "model", repo_id, origin, *how)
        if space:
            prepare_space(folder / "space", repo_id, "0" * 40, listing_in(folder / "model"))
    except BaseException:  # Ctrl+C too: an incomplete model is useless
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Staged(folder)


def verify(
    model: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    *,
    source: str | Path | None = None,
) -> Verified:
    """Print PASS or FAIL for each check of a folder, a Hub id or "REPO@REVISION"; returns the checks.

    The result is true if all have passed.
    model: `source` is another name for this parameter.   revision: the commit of a Hub id.   trust_remote_code: run
    code that differs from this package's. Raises VerifyError if there is nothing to verify or the Hub cannot be
    reached, and UsageError if the model is not named, or named twice.
    """
    return Verified(run_checks(os.fspath(named_once(model=model, source=source)), revision, trust_remote_code))
