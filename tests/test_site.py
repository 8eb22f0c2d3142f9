"""The site of docs/, as `make docs` builds it: strictly, whole, and without a request to any other host."""

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest
from doc_pages import DOCS, NOTEBOOKS, ROOT

pytestmark = pytest.mark.slow


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if find_spec("mkdocs") is None:
        assert not os.environ.get("VIT_CUSTOM_REQUIRE_BROWSER"), "needs the extra docs"
        pytest.skip("needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def address(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_pages_ask_no_other_host_and_fit(address, chromium):
    """Every page on a desktop and a phone, half of them dark; then a search, which is local."""
    requests, said = [], []
    for width, scheme in ((1280, "light"), (390, "dark")):
        tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        pages = ["" if name == "index.md" else f"{name.removesuffix('.md')}/" for name in DOCS]
        for name in pages + [f"notebooks/{path.stem}/" for path in NOTEBOOKS]:
            answer = tab.goto(address + name)
            assert answer.ok, name
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, f"{name} hangs over the side"
            broken = tab.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
            assert broken == [], name
        if width == 1280:
            tab.wait_for_load_state("networkidle")
            tab.click(".md-search__input")
            tab.keyboard.type("token merging")
            tab.wait_for_selector(".md-search-result__item", timeout=60_000)
        tab.close()
    assert said == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def test_what_is_generated_is_on_its_page(site):
    pages = {
        "flags": "--weight_decay",
        "config": "num_register_tokens",
        "changes": "Breaking",
        "security": "safetensors",
    }
    for page, words in pages.items():
        text = (site / page / "index.html").read_text(encoding="utf-8")
        assert words in text and "generated:" not in text
    assert "train_dir" in (site / "api" / "index.html").read_text(encoding="utf-8")


def test_a_notebook_is_a_page_and_a_file(site):
    for path in NOTEBOOKS:
        page = (site / "notebooks" / path.stem / "index.html").read_text(encoding="utf-8")
        assert f'href="../{path.name}" download' in page and "shutil" in page
        assert (site / "notebooks" / path.name).read_bytes() == path.read_bytes()
    start = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="notebooks/{path.stem}/"' in start for path in NOTEBOOKS)
