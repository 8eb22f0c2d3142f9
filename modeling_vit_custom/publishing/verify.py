"""Verification of a model: a folder, or a Hub repository at one commit, downloaded into an empty folder."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from ..common.model_files import GOLDEN
from ..common.model_names import COMMIT, may_be_id, named_model, unpinned
from ..weight_files_vit_custom import shorten_list
from .checks import iterate_checks
from .report import Check, show
from .staging import is_pickle

MAX_FILES = 1_000
MAX_BYTES = 50 * 1024**3


class VerifyError(ValueError):
    """The model could not be verified as asked; the message says why."""


def verify(source: str, revision: str | None = None, trust_remote_code: bool = False) -> list[Check]:
    """Print PASS or FAIL for each check of a folder, a Hub id or ID@REVISION; return the checks.

    Raises UsageError for two different revisions. Raises VerifyError if there is nothing to verify, if the Hub cannot
    be reached, for a revision of a folder, and for `trust_remote_code` with a Hub id that is not pinned to a commit.
    """
    source, revision = named_model(source, revision)
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise VerifyError(f"{source} is a folder and has no --revision {revision}.")
        return show(_checks(folder, trust_remote_code))
    if folder.exists() or not may_be_id(source):
        raise VerifyError(f"{source} is no folder: give one, or a Hub id such as user/name.")
    if trust_remote_code and not COMMIT.fullmatch(revision or ""):
        raise VerifyError(unpinned(source, revision))
    return show(_hub_checks(source, revision, trust_remote_code))


def _checks(folder: Path, trust_remote_code: bool) -> Iterator[Check]:
    yield from iterate_checks(folder, trust_remote_code)
    if not (folder / GOLDEN).exists():
        yield Check("golden images", False, f"not run: there is no {GOLDEN}, which says what the model must answer")


def _hub_checks(repo_id: str, revision: str | None, trust_remote_code: bool) -> Iterator[Check]:
    """Checks of a repository at one commit; it is downloaded only if its file list passes `check_listing`."""
    with _hub_errors(repo_id):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit) or (COMMIT.fullmatch(revision or "") and revision != commit):
        raise VerifyError(f"{repo_id}: the Hub gave commit {commit!r} for revision {revision!r}.")
    print(f"{repo_id} at commit {commit}", flush=True)
    if revision != commit:
        print(f"{revision or 'main'} is that commit now and may be another tomorrow: name it {repo_id}@{commit}")
    listing = check_listing({file.rfilename: file.size or 0 for file in info.siblings or []})
    yield listing
    if listing.passed:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "repository"
            with _hub_errors(repo_id):
                snapshot_download(repo_id, revision=commit, local_dir=folder, cache_dir=Path(scratch) / "cache")
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the Hub client's download notes
            yield from _checks(folder, trust_remote_code)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn any error of the Hub client into VerifyError; the client's HTTP library differs by version."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise VerifyError(
            f"{repo_id} is no folder here, and as a Hub id it cannot be had from {HfApi().endpoint}: {said}"
        ) from error


def check_listing(sizes: Mapping[str, int]) -> Check:
    """Check names and sizes in bytes of a repository's files, before anything is downloaded."""
    name, total = "repository listing", sum(sizes.values())
    said = f"{len(sizes):,} files, {total / 1e6:,.1f} MB"
    if len(sizes) > MAX_FILES or total > MAX_BYTES:
        limit = f"more than {MAX_FILES:,} files or {MAX_BYTES / 1e6:,.0f} MB"
        return Check(name, False, f"{said}: {limit} are not downloaded")
    if pickles := sorted(file for file in sizes if is_pickle(file)):
        return Check(
            name, False, f"{shorten_list(pickles)}: no safetensors, reading it can run code; nothing was downloaded"
        )
    return Check(name, True, said)
