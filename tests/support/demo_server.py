"""A Space's app.py, which cannot import this package, or the command itself, in a process of its own; and a client
that calls it over HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

# Prints on stderr every address outside this machine that the process looks up or connects to.
WATCH_NETWORK = """
import sys
def watch(event, arguments):
    host = {"socket.connect": lambda a: a[1], "socket.getaddrinfo": lambda a: a}.get(event, lambda a: None)(arguments)
    host = host[0] if isinstance(host, tuple) else None
    if host not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
        print("OUTSIDE", event, host, file=sys.stderr, flush=True)
sys.addaudithook(watch)
sys.modules["uvloop"] = None  # looks up and connects in C, unseen
"""
_RUN_HIDDEN = """
import runpy
sys.modules["modeling_vit_custom"] = None  # importing it raises ModuleNotFoundError
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class DemoServer:
    """The running page: its address, its log, and its functions."""

    def __init__(self, url: str, log: Path):
        self.url, self.log = url, log
        # One connection for each request: after a refusal that did not read the body, the server closes the connection.
        alone = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False, limits=alone)

    def upload(self, path: Path) -> dict[str, Any]:
        """Upload a file; return its record in the form that the functions take."""
        answer = self.http.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def call(self, function: str, argument: Any) -> list[Any] | None:
        """Call a function of the page; return its result, or None if it refuses."""
        started = self.http.post(f"/gradio_api/call/{function}", json={"data": [argument]})
        started.raise_for_status()
        lines = self.http.get(f"/gradio_api/call/{function}/{started.json()['event_id']}").text.splitlines()
        events = pairwise(lines)
        done = [data for event, data in events if event == "event: complete"]
        return json.loads(done[0].removeprefix("data: ")) if done else None


@contextmanager
def running_demo(app: Path, model: Path, work: Path, hidden: bool = True) -> Iterator[DemoServer]:
    """Run `app` with the folder `model` on 127.0.0.1; stop it at the end.   hidden: it cannot import this package."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "GRADIO"))
    }
    environment |= {"HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(work / "uploads")}
    log = work / "log"
    run = _RUN_HIDDEN if hidden else _RUN_HIDDEN.replace('sys.modules["modeling_vit_custom"] = None', "")
    command = [sys.executable, "-c", WATCH_NETWORK + run, str(app), "--model", str(model)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=app.parent, env=environment, stdout=output, stderr=output
        )
    server = DemoServer(f"http://127.0.0.1:{port}", log)
    try:
        for _ in range(720):
            assert process.poll() is None, log.read_text()
            try:
                server.http.get("/").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.25)
        else:
            raise AssertionError(f"no page after three minutes: {log.read_text()}")
        yield server
    finally:
        server.http.close()
        process.terminate()
        process.wait(20)
