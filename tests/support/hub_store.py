"""The state of a Hub: repositories, commits, stored objects, and the faults of the next requests."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OWNER = "ada"  # owner of the token; only her namespace may be written


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob_id(self) -> str:
        """git's id of the stored bytes: of the file, or of the pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        stored = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: "Commit | None"
    author: str
    title: str
    files: dict[str, File]

    @classmethod
    def make(cls, parent: "Commit | None", author: str, title: str, files: dict[str, File]) -> "Commit":
        tree = sorted((path, file.blob_id) for path, file in files.items())
        sha = hashlib.sha1(json.dumps([parent.sha if parent else None, author, title, tree]).encode()).hexdigest()
        return cls(sha, parent, author, title, files)

    def history(self) -> "list[Commit]":
        """Return the commits from this one back to the first."""
        return [self, *(self.parent.history() if self.parent else [])]


@dataclass
class Repository:
    private: bool
    branches: dict[str, Commit]
    tags: dict[str, Commit] = field(default_factory=dict)
    sdk: str | None = None

    def at(self, revision: str | None) -> Commit:
        named = {**self.tags, **self.branches}
        everything = {commit.sha: commit for head in named.values() for commit in head.history()}
        if commit := named.get(revision or "main") or everything.get(str(revision)):
            return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


@dataclass
class Reply:
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass
class Fault:
    """A fault of the next `times` requests of a route; a status of None cuts the connection."""

    route: str
    times: int
    status: int | None = None
    after_effect: bool = False
    before: Callable[[], object] | None = None


class Hub:
    """The repositories by (kind, id), and the faults of the next requests.

    requests: (method, path) of every request. with_token: those that carried a token.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.cuts: dict[str, int] = {}
        self.requests: list[tuple[str, str]] = []
        self.with_token: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.token, self.read_token = "hf" + "_of_ada_who_may_write", "hf" + "_of_ada_who_may_read"
        self.url = ""

    def fail_next(self, route: str, status: int | None = 503, times: int = 1, after_effect: bool = False) -> None:
        """Answer with `status` (None: cut the connection), before or after the request has had its effect."""
        self.faults.append(Fault(route, times, status, after_effect))

    def cut_next(self, route: str, after: int) -> None:
        """Cut the connection after `after` bytes of the route's next answer that is longer."""
        self.cuts[route] = after

    def before_next(self, route: str, action: Callable[[], object]) -> None:
        """Call `action` before the next request of a route: another user's commit, or a pause."""
        self.faults.append(Fault(route, 1, before=action))

    def fault(self, route: str) -> Fault | None:
        for fault in self.faults:
            if fault.route == route and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def repository(self, repo: str, kind: str = "model") -> Repository:
        return self.repositories[kind, repo]

    def head(self, repo: str, branch: str = "main", kind: str = "model") -> Commit:
        return self.repository(repo, kind).branches[branch]

    def push(self, repo: str, files: dict[str, bytes], title: str, author: str = OWNER, branch: str = "main") -> str:
        """Add a commit that did not come through the client; return its sha."""
        head = self.head(repo, branch)
        added = {path: File(data, b"\0" in data[:512]) for path, data in files.items()}
        self.repository(repo).branches[branch] = Commit.make(head, author, title, {**head.files, **added})
        return self.head(repo, branch).sha
