"""Verify a model: a folder, or a repository on the Hub at one commit, downloaded into an empty folder."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from ..common.model_files import GOLDEN
from ..weight_files_vit_custom import some
from .checks import iterate_checks
from .report import Check, show
from .staging import is_pickle

MAX_FILES = 1_000
MAX_BYTES = 50 * 1024**3
_COMMIT = re.compile(r"[0-9a-f]{40}")


class VerifyError(ValueError):
    """It could not be verified as asked; the message says why."""


def verify(source: str, revision: str | None = None, trust_remote_code: bool = False) -> bool:
    """Prints PASS or FAIL for each check of a folder or a Hub id; returns whether all have passed.

    Raises VerifyError where there is nothing to verify, or the Hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise VerifyError(f"{source} is a folder and has no --revision {revision}.")
        return show(_checks(folder, trust_remote_code))
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise VerifyError(f"{source} is no folder: give one, or a Hub id such as user/name.")
    if trust_remote_code and not _COMMIT.fullmatch(revision or ""):
        raise VerifyError("--trust_remote_code runs code you have read: name its commit, all 40 digits, by --revision.")
    return show(_hub_checks(source, revision, trust_remote_code))


def _checks(folder: Path, trust_remote_code: bool) -> Iterator[Check]:
    yield from iterate_checks(folder, trust_remote_code)
    if not (folder / GOLDEN).exists():
        yield Check("golden images", False, f"not run: there is no {GOLDEN}, which says what the model must answer")


def _hub_checks(repo_id: str, revision: str | None, trust_remote_code: bool) -> Iterator[Check]:
    """The checks of a repository at one commit; it is downloaded only if the list of its files is sensible."""
    with _hub_errors(repo_id):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision or "") and revision != commit):
        raise VerifyError(f"{repo_id}: the Hub gave commit {commit!r} for revision {revision!r}.")
    print(f"{repo_id} at commit {commit}", flush=True)
    if revision != commit:
        print(f"{revision or 'main'} is that commit now and may be another tomorrow: pin it with --revision {commit}")
    listing = check_listing({file.rfilename: file.size or 0 for file in info.siblings or []})
    yield listing
    if listing.passed:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "repository"
            with _hub_errors(repo_id):
                snapshot_download(repo_id, revision=commit, local_dir=folder, cache_dir=Path(scratch) / "cache")
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes on the download
            yield from _checks(folder, trust_remote_code)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Whatever keeps the Hub's client from an answer, as VerifyError: its HTTP library differs by version."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise VerifyError(
            f"{repo_id} is no folder here, and as a Hub id it cannot be had from {HfApi().endpoint}: {said}"
        ) from error


def check_listing(sizes: Mapping[str, int]) -> Check:
    """A repository's file names and their bytes, before anything is downloaded."""
    name, total = "repository listing", sum(sizes.values())
    said = f"{len(sizes):,} files, {total / 1e6:,.1f} MB"
    if len(sizes) > MAX_FILES or total > MAX_BYTES:
        limit = f"more than {MAX_FILES:,} files or {MAX_BYTES / 1e6:,.0f} MB"
        return Check(name, False, f"{said}: {limit} are not downloaded")
    if pickles := sorted(file for file in sizes if is_pickle(file)):
        return Check(name, False, f"{some(pickles)}: no safetensors, reading it can run code; nothing was downloaded")
    return Check(name, True, said)
