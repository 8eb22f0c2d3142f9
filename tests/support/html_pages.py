"""Helpers for tests of HTML pages: count tags, and open a page in a real browser."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

HOSTILE = "<img src=x onerror=document.title='ran'>"
POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")


class Tags(HTMLParser):
    """Counts tags, and collects the targets of their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def drop_policy(page: Path) -> None:
    """Remove the page's security policy, so that its escaping alone must protect it."""
    text = page.read_text(encoding="utf-8")
    assert POLICY.search(text)
    page.write_text(POLICY.sub("", text), encoding="utf-8")


def look(chromium, page: Path, shots: Path, check: Callable = lambda tab: None) -> None:
    """Open a page in light, dark and on a phone; check that it is complete, fits, and neither runs nor fetches
    anything."""
    requests, dialogs, said = [], [], []
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 390)):
        tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(page.as_uri())
        assert tab.title() != "ran"
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert tab.evaluate("document.documentElement.scrollWidth") == width, "the page scrolls sideways"
        check(tab)
        tab.screenshot(path=shots / f"{scheme}-{width}.png", full_page=True)
        tab.close()
    assert dialogs == [] and said == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()] * 3
    light, dark = (
        Image.open(shots / f"{name}.png").convert("L").getpixel((3, 3)) for name in ("light-1200", "dark-1200")
    )
    assert light > 200 > 60 > dark
