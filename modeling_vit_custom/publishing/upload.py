"""Upload of a folder to a Hub repository in one commit; a retry first checks whether the commit has landed.

The Hub client never repeats the request that makes a commit, because its answer can be lost after the commit was made.
Here the parent is fixed at the head first seen. After a failure, the commits made since then are read: one that holds
this folder is ours. If there are none, the request is sent again, and the Hub refuses it if somebody else has moved the
branch.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import GitCommitInfo, RepoFile
from huggingface_hub.utils import validate_repo_id

from ..common.claims import sha256_of
from ..common.text import printable

try:  # HTTP library of the Hub client; its name depends on the client's version
    from httpx2 import TransportError
except ImportError:
    from httpx import TransportError  # type: ignore[assignment]

T = TypeVar("T")
Wanted = tuple[Mapping[str, Path], list[str]]
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
TRANSIENT = {408, 429, 500, 502, 503, 504}
STALE = 412
KEPT = {".gitattributes"}  # the Hub's own list of large files (LFS); neither uploaded nor deleted
EXPLAINED = {
    400: "the Hub refused the content",
    401: "the Hub does not know you: run `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "this token may not write there: use your own namespace, or a token with the write role",
    404: "there is no such repository, or this token may not see it",
}


class PublishError(RuntimeError):
    """The obstacle to publishing and how to remove it; never contains a token."""


def check_installed() -> None:
    """Raise PublishError if a package of the extra `publish` is missing."""
    if missing := [name for name in ("jinja2", "detect_secrets") if find_spec(name) is None]:
        raise PublishError(f"{' and '.join(missing)} missing here: pip install 'vit-custom[publish]'.")


def check_target(repo_id: str, revision: str | None) -> None:
    """Raise PublishError for a name that no repository can have, and for a revision that is not a branch."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(str(error)) from error
    if "/" not in repo_id:
        raise PublishError(f"{repo_id!r} lacks its owner: give NAMESPACE/{repo_id}, your user name or organisation.")
    if revision is not None and (revision.startswith("refs/") or len(revision) == 40):
        raise PublishError(f"--revision {revision} is no branch: give the name of one, which is made if need be.")


def upload_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
    message: str,
    replace: bool = False,
) -> str:
    """Upload `folder` to the repository's branch in one commit; return the 40-hex sha that holds it.

    The repository and the branch `revision` (default: main) are created if missing. `private` applies to a new
    repository only. Other files in the branch stay; with `replace` they are listed and deleted, except .gitattributes,
    and earlier commits keep them. If nothing differs, no commit is made.
    Raises PublishError for other files that would be false or unsafe beside these, without the right to write, for a
    branch that somebody else moved meanwhile, and for a Hub that stays unavailable.
    """
    files, branch = files_of(folder), revision or "main"
    with explained(repo_id):
        repository = Repository(repo_id, repo_type)
        repository.open(private, revision)
        parent = repository.head(branch)
        there = repository.files(parent)
        changed, others = differences(files, there)
        gone, kept = (others, []) if replace else ([], others)
        if not replace:
            repository.demand_harmless(there, kept, files, parent)
        if kept:
            print(f"{repo_id}: other files stay as they are: {printable(', '.join(kept))}")
        if not changed and not gone:
            print(f"{repo_id}: nothing to upload, {branch} holds these files already, at {parent}")
            return parent
        if gone:
            print(f"{repo_id}: deleting what is not published: {printable(', '.join(gone))}")
        operations = [*(CommitOperationAdd(name, files[name]) for name in changed), *map(CommitOperationDelete, gone)]
        sha = repository.commit(operations, branch, parent, (files, kept), message)
        changed, others = differences(files, repository.files(sha))
        if changed or others != kept:
            odd = [*changed, *sorted({*others} ^ {*kept})]
            raise PublishError(
                f"{repo_id}: commit {sha} does not hold what was sent ({', '.join(odd)}). If a .gitignore "
                "in the repository keeps them out, remove it there; then publish again."
            )
    return sha


def commit_holding(
    folder: str | Path, repo_id: str, *, revision: str | None = None, except_for: str, replace: bool = False
) -> str | None:
    """Return the sha of the oldest commit since which the branch holds this folder, with one file (the card) ignored.

    Other files may be in these commits only if the head has them too; with `replace` there may be none.
    Returns None if the head does not hold the folder, or if there is no such model repository or branch.
    """
    files, found = files_of(folder), None
    allowed: set[str] | None = set() if replace else None
    with explained(repo_id):
        repository = Repository(repo_id, "model")
        try:
            commits = repository.commits(revision or "main")
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        for commit in commits:
            changed, others = differences(files, repository.files(commit.commit_id))
            allowed = {*others} if allowed is None else allowed
            if {*changed, *others} - {except_for} - allowed:
                break
            found = commit.commit_id
    return found


def files_of(folder: str | Path) -> dict[str, Path]:
    """Return {name in the repository: file} of a folder. Raises PublishError if it holds no files."""
    everything = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*"))}
    found = {name: path for name, path in everything.items() if path.is_file() and name not in KEPT}
    if not found:
        raise PublishError(f"{folder} holds no files: nothing to publish.")
    return found


def differences(files: Mapping[str, Path], remote: Mapping[str, RepoFile]) -> tuple[list[str], list[str]]:
    """Return (names whose content the repository lacks, names that only the repository has)."""
    changed = [name for name, path in files.items() if name not in remote or not _same(path, remote[name])]
    return changed, sorted(set(remote) - set(files) - KEPT)


def _same(path: Path, remote: RepoFile) -> bool:
    if path.stat().st_size != remote.size:
        return False
    if remote.lfs is not None:
        return sha256_of(path) == remote.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id  # git's blob hash


class Repository:
    """One repository, through the Hub client, which finds the token itself: HF_TOKEN, or `hf auth login`."""

    def __init__(self, repo_id: str, repo_type: str):
        self.api = HfApi()
        self.named: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}

    def open(self, private: bool, revision: str | None = None) -> None:
        """Create the repository and the branch if missing; print who can see the repository."""
        sdk = "gradio" if self.named["repo_type"] == "space" else None
        patiently(lambda: self.api.create_repo(**self.named, private=private, exist_ok=True, space_sdk=sdk))
        is_private = self.is_private()
        seen = "private" if is_private else "PUBLIC"
        kept = "" if is_private == private else " and stays so: it existed, its settings on the Hub decide"
        print(f"{self.named['repo_id']}: the repository is {seen}{kept}")
        if revision is not None:
            patiently(lambda: self.api.create_branch(**self.named, branch=revision, exist_ok=True))

    def is_private(self) -> bool:
        return bool(patiently(lambda: self.api.repo_info(**self.named)).private)

    def head(self, branch: str) -> str:
        return str(patiently(lambda: self.api.repo_info(**self.named, revision=branch)).sha)

    def files(self, revision: str) -> dict[str, RepoFile]:
        tree = self.api.list_repo_tree(**self.named, revision=revision, recursive=True)  # patient by itself
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def commits(self, branch: str) -> list[GitCommitInfo]:
        """Return the branch's commits, newest first."""
        return self.api.list_repo_commits(**self.named, revision=branch)  # patient by itself

    def demand_harmless(
        self, there: Mapping[str, RepoFile], others: Sequence[str], files: Mapping[str, Path], revision: str
    ) -> None:
        """Raise PublishError if one of `others` may not stay beside `files`, or if the Space is another app.

        there: all files of the revision, including `others`.
        """
        name = self.named["repo_id"]
        if self.named["repo_type"] == "space":
            if "app.py" in there and "model.json" not in there:
                raise PublishError(f"{name}: the Space of that name is another app; --replace puts the demo there.")
            return
        if not others:
            return
        from .others import reasons_to_go

        def fetch(names: Sequence[str], folder: Path) -> None:
            for name in names:
                self.api.hf_hub_download(**self.named, filename=name, revision=revision, local_dir=folder)

        published = {name: path.stat().st_size for name, path in files.items()}
        reasons = reasons_to_go({other: there[other].size for other in others}, published, fetch)
        if reasons:
            said = "; ".join(f"{other} ({why})" for other, why in list(reasons.items())[:10])
            more = f" and {len(reasons) - 10} more" if len(reasons) > 10 else ""
            raise PublishError(
                printable(
                    f"{name} holds files that would be false or unsafe beside these: {said}{more}. "
                    f"Nothing is uploaded beside them: remove them there, or pass --replace, which deletes all "
                    f"{len(others)} that are not published: {', '.join(others)}."
                )
            )

    def commit(self, operations: list, branch: str, parent: str, wanted: Wanted, message: str) -> str:
        """Make one commit on `parent` after which the branch holds `wanted`: (files, names of others that stay).

        Returns its sha, even if only the Hub's answer was lost.
        """
        for pause in (*PAUSES, None):
            try:
                done = self.api.create_commit(
                    **self.named, operations=operations, commit_message=message, revision=branch, parent_commit=parent
                )
                return done.oid
            except Exception as error:
                failure = error
            if not is_transient(failure) and status_of(failure) != STALE:
                raise failure
            since = list(takewhile(lambda commit: commit.commit_id != parent, self.commits(branch)))
            for commit in since:
                if differences(wanted[0], self.files(commit.commit_id)) == ([], wanted[1]):
                    print(f"{self.named['repo_id']}: the answer was lost, the commit had landed")
                    return commit.commit_id
            if since:
                last = since[0]
                raise PublishError(
                    f"{self.named['repo_id']}: {', '.join(last.authors)} has committed {last.title!r} "
                    f"({last.commit_id}) to {branch} meanwhile. Nothing was uploaded over it: look at that commit, "
                    "then publish again to replace it, or name another --revision."
                )
            if pause is None:
                raise failure
            reason = short(http_cause(failure) or failure)
            print(f"{self.named['repo_id']}: not committed; again in {pause:g} s ({reason})")
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def patiently(call: Callable[[], T]) -> T:
    """Return the result of a call that is safe to repeat; after a transient error, pause and call again."""
    for pause in PAUSES:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(pause)
    return call()


def http_cause(error: BaseException | None) -> BaseException | None:
    """Return the HTTP error or broken connection behind an error of the Hub client; None if there is none."""
    while error is not None and not isinstance(error, HfHubHTTPError | TransportError):
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    cause = http_cause(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def is_transient(error: BaseException) -> bool:
    return isinstance(http_cause(error), TransportError) or status_of(error) in TRANSIENT


def short(error: BaseException) -> str:
    """Return an error's text in one line, with the token masked should it occur there."""
    text = " ".join(str(error).split()) or type(error).__name__
    token = get_token()
    return text.replace(token, "[token]") if token else text


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub client into a PublishError that says how to go on."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PublishError(f"{repo_id}: the client is offline; unset HF_HUB_OFFLINE to publish.") from error
    except ValueError as error:  # an impossible name, metadata that the Hub refuses
        raise PublishError(f"{repo_id}: {short(error)}") from error
    except Exception as error:
        if (cause := http_cause(error)) is None:
            raise
        reason = EXPLAINED.get(status_of(error) or 0, "the Hub cannot be reached or is unavailable: try again later")
        raise PublishError(f"{repo_id}: {reason} ({short(cause)})") from error
