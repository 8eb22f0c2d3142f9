"""A Hub on the loopback address: it answers an unmodified huggingface_hub client, and fails on demand.

    with running_hub() as hub:
        HfApi(endpoint=hub.url, token=hub.token).upload_folder(…)
        hub.fail_next("commit", 503, after_effect=True)   # the next commit is stored, its answer is lost

Everything is kept in memory; every commit stays, so that a revision pins content. The client alone decides to use Xet,
which this server does not speak: set HF_HUB_DISABLE_XET=1. The token's user is "ada", who may write only her
namespace.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hub_store import OWNER, Commit, File, Hub, Refusal, Reply, Repository
from huggingface_hub import ModelCard, constants

REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>model|space|dataset)s/{REPO}"
PAGE = rf"/(?:(?P<kind>space|dataset)s/)?{REPO}"
# (name for fault injection, request, name of the method that answers)
ROUTES = (
    ("whoami", "GET /api/whoami-v2", "whoami"),
    ("create_repo", "POST /api/repos/create", "create_repo"),
    ("validate", "POST /api/validate-yaml", "validate"),
    ("preupload", rf"POST {API}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("commit", rf"POST {API}/commit/(?P<revision>[^/]+)", "commit"),
    ("branch", rf"POST {API}/branch/(?P<name>[^/]+)", "branch"),
    ("tag", rf"POST {API}/tag/(?P<revision>[^/]+)", "tag"),
    ("tree", rf"GET {API}/tree/(?P<revision>[^/]+)", "tree"),
    ("commits", rf"GET {API}/commits/(?P<revision>[^/]+)", "commits"),
    ("info", rf"GET {API}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("lfs", rf"POST {PAGE}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("verify", "POST /lfs/verify", "lfs_verify"),
    ("put", "PUT /lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("head", rf"HEAD {PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("download", rf"GET {PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


class Handler(BaseHTTPRequestHandler):
    """Answers one request: finds the route, applies its fault, sends the reply."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, self.path))
        if "Authorization" in self.headers:
            self.hub.with_token.append((self.command, self.path))
        name, answer, values = self.route(f"{self.command} {url.path}")
        fault = self.hub.fault(name)
        if fault and fault.before:
            fault.before()
        failing = fault is not None and fault.before is None
        reply = Reply({"error": "injected"}, status=(fault.status if fault and fault.status else 503))
        if not failing or (fault and fault.after_effect):
            try:
                with self.hub.lock:
                    done = answer(body, **values)
            except Refusal as refusal:
                done = Reply({"error": refusal.message}, {"X-Error-Code": refusal.code}, refusal.status)
                done.headers["X-Error-Message"] = refusal.message
            reply = reply if failing else done
        if fault and failing and fault.status is None:
            self.close_connection = True
            return
        self.send(reply, name)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def route(self, request: str) -> tuple[str, Callable[..., Reply], dict[str, Any]]:
        for name, pattern, method in ROUTES:
            if match := re.fullmatch(pattern, request):
                values = {key: unquote(value) if value else None for key, value in match.groupdict().items()}
                if "kind" in values:
                    values["kind"] = values["kind"] or "model"
                return name, getattr(self, method), values
        return "none", self.nothing, {}

    def send(self, reply: Reply, route: str) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for key, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if len(body) > self.hub.cuts.get(route, len(body)):
            body, self.close_connection = body[: self.hub.cuts.pop(route)], True
        self.wfile.write(body)

    # Permissions

    def user(self) -> str | None:
        """Return the name behind the token; None without a token. Refuses an unknown token."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (self.hub.token, self.hub.read_token):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return OWNER if token else None

    def may_write(self, namespace: str) -> None:
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        if namespace != OWNER or self.hub.read_token in self.headers["Authorization"]:
            raise Refusal(403, f"You don't have the rights to write to the namespace {namespace!r}")

    def readable(self, kind: str, repo: str) -> Repository:
        repository = self.hub.repositories.get((kind, repo))
        user = self.user()
        if repository is None or (repository.private and user != repo.split("/")[0]):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def writable(self, kind: str, repo: str) -> Repository:
        repository = self.readable(kind, repo)
        self.may_write(repo.split("/")[0])
        return repository

    # The routes

    def nothing(self, body: bytes) -> Reply:
        raise Refusal(404, f"no route {self.command} {self.path}")

    def whoami(self, body: bytes) -> Reply:
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        role = "write" if self.hub.token in self.headers["Authorization"] else "read"
        access = {"displayName": "test", "role": role}
        return Reply(
            {"type": "user", "name": OWNER, "orgs": [], "auth": {"type": "access_token", "accessToken": access}}
        )

    def create_repo(self, body: bytes) -> Reply:
        asked = json.loads(body)
        namespace, kind = asked.get("organization") or OWNER, asked.get("type") or "model"
        self.may_write(namespace)
        repo = f"{namespace}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo}", "name": repo}
        if (kind, repo) in self.hub.repositories:
            return Reply({**url, "error": "You already created this repo"}, status=409)
        attributes = File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
        first = Commit.make(None, namespace, "initial commit", {".gitattributes": attributes})
        private = asked.get("visibility") == "private"
        self.hub.repositories[kind, repo] = Repository(private, {"main": first}, sdk=asked.get("sdk"))
        return Reply(url)

    def validate(self, body: bytes) -> Reply:
        try:
            ModelCard(json.loads(body)["content"]).data.to_dict()
        except (ValueError, yaml.YAMLError) as error:
            return Reply({"errors": [{"message": str(error)}], "warnings": []}, status=400)
        return Reply({"errors": [], "warnings": []})

    def info(self, body: bytes, kind: str, repo: str, revision: str | None) -> Reply:
        repository = self.readable(kind, repo)
        commit = repository.at(revision)
        siblings = [{"rfilename": path, "size": len(file.data)} for path, file in sorted(commit.files.items())]
        found = {"_id": repo, "id": repo, "sha": commit.sha, "private": repository.private, "siblings": siblings}
        if card := commit.files.get("README.md"):
            data = ModelCard(card.data.decode()).data.to_dict()
            found |= {name: data[name] for name in ("pipeline_tag", "library_name", "tags") if name in data}
            found["cardData"] = data
        return Reply(found)

    def tree(self, body: bytes, kind: str, repo: str, revision: str) -> Reply:
        entries = []
        for path, file in sorted(self.readable(kind, repo).at(revision).files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.data), "oid": file.blob_id}
            if file.lfs:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 134}
            entries.append(entry)
        return Reply(entries)

    def commits(self, body: bytes, kind: str, repo: str, revision: str) -> Reply:
        return Reply([
            {"id": one.sha, "title": one.title, "message": "", "date": "2026-01-01T00:00:00.000Z",
             "authors": [{"user": one.author}]}
            for one in self.readable(kind, repo).at(revision).history()
        ])  # fmt: skip

    def preupload(self, body: bytes, kind: str, repo: str, revision: str) -> Reply:
        there = self.writable(kind, repo).at(revision).files
        ignored = there[".gitignore"].data.decode().split() if ".gitignore" in there else []
        answers = []
        for asked in json.loads(body)["files"]:
            path, lfs = asked["path"], b"\0" in base64.b64decode(asked["sample"])
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": path in ignored}
            if path in there:
                answer["oid"] = there[path].sha256 if there[path].lfs else there[path].blob_id
            answers.append(answer)
        return Reply({"files": answers})

    def lfs_batch(self, body: bytes, kind: str, repo: str) -> Reply:
        self.writable(kind, repo)
        objects = []
        for asked in json.loads(body)["objects"]:
            links = {
                "upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs/verify"},
            }
            objects.append(asked if asked["oid"] in self.hub.objects else {**asked, "actions": links})
        return Reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> Reply:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content does not have this sha256")
        self.hub.objects[oid] = body
        return Reply()

    def lfs_verify(self, body: bytes) -> Reply:
        asked = json.loads(body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "no such object")
        return Reply()

    def commit(self, body: bytes, kind: str, repo: str, revision: str) -> Reply:
        repository = self.writable(kind, repo)
        if revision not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repository.branches[revision]
        header, *operations = [json.loads(line) for line in body.splitlines()]
        if header["value"].get("parentCommit", head.sha) != head.sha:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            key, value = operation["key"], operation["value"]
            if key == "deletedFile":
                del files[value["path"]]
            elif key == "lfsFile":
                files[value["path"]] = File(self.hub.objects[value["oid"]], lfs=True)
            else:
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
        commit = Commit.make(head, str(self.user()), header["value"]["summary"], files)
        repository.branches[revision] = commit
        return Reply(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit.sha}", "commitOid": commit.sha, "success": True}
        )

    def branch(self, body: bytes, kind: str, repo: str, name: str) -> Reply:
        repository = self.writable(kind, repo)
        if name in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[name] = repository.at(json.loads(body).get("startingPoint"))
        return Reply()

    def tag(self, body: bytes, kind: str, repo: str, revision: str) -> Reply:
        repository, name = self.writable(kind, repo), json.loads(body)["tag"]
        if name in repository.tags:
            raise Refusal(409, "Tag reference exists already")
        repository.tags[name] = repository.at(revision)
        return Reply()

    def resolve(self, body: bytes, kind: str, repo: str, revision: str, path: str) -> Reply:
        commit = self.readable(kind, repo).at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            return Reply({}, {**headers, "X-Error-Code": "EntryNotFound"}, 404)
        file = commit.files[path]
        headers["ETag"] = f'"{file.blob_id}"'
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(file.data) - 1}/{len(file.data)}"
            return Reply(file.data[start:], headers, 206)
        return Reply(file.data, headers)


def client_environment(hub: Hub, token: str | None = None) -> dict[str, str]:
    """Return the environment in which a fresh process talks to this Hub and to no other address."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return environment | ({"HF_TOKEN": token} if token else {})


def point_client_at(hub: Hub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Point the client of this process, which has already read its environment, at the Hub; with the write token."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    # transformers keeps the client that its first call has made, with the address of that time
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no token"))
    monkeypatch.setenv("HF_TOKEN", hub.token)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a Hub that answers at `hub.url` until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
