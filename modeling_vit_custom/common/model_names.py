"""Model names (a folder, LIBRARY:NAME or a Hub id, also as REPO@REVISION) and the commits that they stand for."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache

from .errors import UsageError
from .model_files import CONFIG
from .text import printable

COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 5  # to wait for the Hub to answer which commit was meant
_ON_HUB_BY_TIMM = re.compile(r"timm:hf[-_]hub:")
_MODEL_FLAGS = ("--model", "--model_name_or_path")
_REVISION_FLAGS = ("--revision", "--model_revision")


def may_be_id(source: str) -> bool:
    """Return whether `source`, if no such file or folder exists, can be the id of a Hub repository."""
    return source.count("/") <= 1 and not source.startswith((".", "/", "~")) and ":" not in source


def named_model(text: str, revision: str | None = None) -> tuple[str, str | None]:
    """Return (what to load, its revision or None) for a model named `text`, which may be REPO@REVISION.

    An existing path is taken as it is written, even with an @ in its name. So is a text that cannot be a Hub id, such
    as ./a@b.   revision: the value of --revision.   In "timm:hf-hub:REPO" name and revision stay one text, as timm
    takes it.

    Raises UsageError for an empty part, and if text and --revision name different revisions.
    """
    if not text:
        raise UsageError("the model's name is empty: give a folder or a Hub id.")
    if revision == "":
        raise UsageError("--revision is empty: give a branch, tag or commit, or leave it out.")
    source, at, said = text.partition("@")
    if _ON_HUB_BY_TIMM.match(text):
        named = _one_revision(text, said or None, revision)
        return (text if named is None else f"{source}@{named}"), None
    if not at or not may_be_id(source) or Path(text).exists():
        return text, revision
    if not source or not said:
        raise UsageError(
            f"{text!r} names no {'revision after' if source else 'model before'} the @: write REPO@REVISION, such as "
            "me/photos@main."
        )
    return source, _one_revision(text, said, revision)


def _one_revision(text: str, said: str | None, given: str | None) -> str | None:
    if None not in (said, given) and said != given:
        raise UsageError(f"{text} names revision {said}, and --revision {given} another: give one of them.")
    return said or given


def commit_of(source: str, revision: str | None = None, cache_dir: str | None = None) -> str | None:
    """Return the commit, 40 digits, of a model that was loaded from the Hub; only the cache is asked.

    It is None for a file or folder, for LIBRARY:NAME, and if nothing is cached.
    """
    if not may_be_id(source) or Path(source).exists():
        return None
    try:
        cached = try_to_load_from_cache(source, CONFIG, revision=revision, cache_dir=cache_dir)
    except ValueError:  # not a valid repository id
        return None
    commit = Path(cached).parent.name if isinstance(cached, str) else ""
    return commit if COMMIT.fullmatch(commit) else None


def unpinned(source: str, revision: str | None) -> str:
    """Return the error message for code of a Hub repository that is to run without naming a commit.

    The Hub is asked for the current commit, for a few seconds at most.
    """
    try:
        found = HfApi().model_info(source, revision=revision, timeout=SECONDS).sha
    except Exception:  # offline, no such repository, an HTTP library's own error: it differs by version
        found = None
    now = f"{revision or 'main'} is {found} now" if found else f"`hf models info {source}` shows it as sha"
    return (
        f"{source}: to run code from the Hub name its commit, all 40 digits, once you have read it: "
        f"--model {source}@COMMIT, or --revision COMMIT, not {revision!r}. {now}."
    )


def say_commit(
    command: str, words: Sequence[str], source: str, revision: str | None = None, cache_dir: str | None = None
) -> None:
    """Print on a terminal which commit of a Hub model was loaded, and the command that loads it again.

    Nothing is printed into a pipe or file, for a commit that was named, or for a folder.   words: the command's
    arguments.   source, revision: as `named_model` returns them.
    """
    if not sys.stderr.isatty():
        return
    commit = commit_of(source, revision, cache_dir)
    if commit is None or commit == revision:
        return
    again = shlex.join(["vit-custom", command, *_pinned(words, f"{source}@{commit}")])
    print(printable(f"model: {source}@{commit} ({revision or 'main'} today); to repeat: {again}"), file=sys.stderr)


def _pinned(words: Sequence[str], model: str) -> list[str]:
    """Return a command's words with `model` in place of the one they name; add it if only a recipe names one."""
    pinned, rest, found = [], iter(words), False
    for word in rest:
        flag, equals, _ = word.partition("=")
        if flag in _MODEL_FLAGS:
            pinned += [f"{flag}={model}"] if equals else [flag, model]
            found = True
        elif flag not in _REVISION_FLAGS:
            pinned.append(word)
        if flag in (*_MODEL_FLAGS, *_REVISION_FLAGS) and not equals:
            next(rest, None)
    return pinned if found else [*pinned, _MODEL_FLAGS[0], model]  # every command accepts this flag
