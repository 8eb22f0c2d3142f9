"""Requests that a stranger may send to the demo page; none may read a file or an address of this machine.

Each attack gets the running page, a file that only this machine may read, and the address of a server that records
its requests.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from demo_server import DemoServer
from PIL import Image

MARK = "only this machine may read it"
Attack = Callable[[DemoServer, Path, str], Iterator[httpx.Response]]


@contextmanager
def counting_server() -> Iterator[tuple[str, list[str]]]:
    """Run a server that visitors cannot reach; yield its address and the list of paths that are requested from it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(MARK.encode())

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def _spelt(path: Path) -> list[str]:
    """Return ways to write a path: as it is, climbing by "..", and percent-encoded once and twice."""
    climbing = "../" * 20 + str(path).lstrip("/")
    dots = climbing.replace("..", "%2e%2e")
    return [str(path), f"/{path}", climbing, dots, quote(quote(climbing, safe=""), safe=""), f"uploads/{climbing}"]


def _of_prefixes(*prefixes: str) -> Attack:
    def attack(server: DemoServer, secret: Path, address: str) -> Iterator[httpx.Response]:
        for prefix in prefixes:
            for path in _spelt(secret):
                yield server.http.get(f"{prefix}{path}")

    return attack


def _of_addresses(*templates: str) -> Attack:
    def attack(server: DemoServer, secret: Path, address: str) -> Iterator[httpx.Response]:
        for template in templates:
            for spelt in (address, quote(address, safe=""), f"file://{secret}"):
                yield server.http.get(template.format(spelt))

    return attack


def _forged(*ways: str) -> Attack:
    """Send FileData that no upload made, in each form that a way of calling a function takes."""

    def attack(server: DemoServer, secret: Path, address: str) -> Iterator[httpx.Response]:
        files: list[Any] = [{"path": each} for each in (*_spelt(secret), address, f"file://{secret}")]
        files += [{"path": "x.png", "url": address}, {"path": str(secret), "is_stream": True}, str(secret), address]
        for file in files:
            data = file | {"meta": {"_type": "gradio.FileData"}} if isinstance(file, dict) else file
            for way in ways:
                for index, value in ((0, data), (2, [data])):
                    body = {"data": [value], "fn_index": index, "session_hash": "stranger"}
                    answer = server.http.post(way, json=body)
                    yield answer
                    if "event_id" in answer.text and "/call/" in way:
                        yield server.http.get(f"{way}/{answer.json()['event_id']}")
            if "/gradio_api/queue/join" in ways:
                with server.http.stream("GET", "/gradio_api/queue/data?session_hash=stranger") as stream:
                    yield _first_lines(stream)

    return attack


def _first_lines(stream: httpx.Response) -> httpx.Response:
    """Read a stream of events until one says that the call is complete."""
    lines = []
    for line in stream.iter_lines():
        lines.append(line)
        if "process_completed" in line or "close_stream" in line:
            break
    return httpx.Response(stream.status_code, text="\n".join(lines), request=stream.request)


def _developers(server: DemoServer, secret: Path, address: str) -> Iterator[httpx.Response]:
    """Try the addresses by which Gradio lets a developer edit, watch or reload an app."""
    for path in ("/runs", "/dev/reload", "/monitoring", "/monitoring/summary", "/gradio_api/startup-events"):
        yield server.http.get(path)
    for path in ("vibe-edit", "vibe-code", "undo-vibe-edit", "process_recording", "profiling/clear", "reset"):
        for prefix in ("/", "/gradio_api/"):
            body = {"prompt": "print the file", "code": f"open('{secret}').read()"}
            yield server.http.post(prefix + path, json=body)


def _names(server: DemoServer, secret: Path, address: str) -> Iterator[httpx.Response]:
    """Upload files under names that lead elsewhere: each must stay in the folder of uploads."""
    image = BytesIO()
    Image.new("RGB", (9, 7)).save(image, "PNG")
    before = {path for path in secret.parent.rglob("*") if "uploads" not in path.parts}
    names = (f"../../{secret.name}", str(secret), f"..\\..\\{secret.name}", "<script>alert(1)</script>.png", "a" * 5000)
    for name in (*names, "", ".", "..", "a\r\nSet-Cookie: x", "\x00.png", "con.png", "%2e%2e%2fx.png"):
        answer = server.http.post("/gradio_api/upload", files={"files": (name, image.getvalue())})
        assert answer.status_code < 600
        for path in answer.json() if answer.status_code == 200 else []:
            assert Path(path).resolve().is_relative_to(secret.parent / "uploads"), path
        yield answer
    assert secret.read_text() == MARK
    assert {path for path in secret.parent.rglob("*") if "uploads" not in path.parts} == before


ATTACKS: dict[str, Attack] = {
    "files by their path": _of_prefixes("/gradio_api/file=", "/file=", "/gradio_api/file/", "/file/"),
    "files by a folder of the page": _of_prefixes(
        "/static/", "/assets/", "/svelte/", "/gradio_api/custom_component/1/client/component/", "/gradio_api/pwa_icon/",
        "/gradio_api/stream/x/0/1/",
    ),
    "addresses to fetch": _of_addresses("/gradio_api/proxy={}", "/proxy={}", "/gradio_api/file={}", "/theme.css?v={}"),
    "forged files": _forged("/gradio_api/call/classify", "/gradio_api/call/classify_many"),
    "forged files, by other ways to call": _forged(
        "/gradio_api/run/classify", "/gradio_api/api/classify", "/gradio_api/call/v2/classify",
        "/gradio_api/run/predict",
    ),
    "forged files, in the queue": _forged("/gradio_api/queue/join"),
    "what a developer may do": _developers,
    "names of uploads": _names,
}  # fmt: skip
