"""The audit's page is one complete file of bounded size, and no name in it can run as code."""

import re

import pytest
from audit_folders import put, tile, write_clean
from html_pages import HOSTILE, Tags, drop_policy, look
from PIL import Image

from modeling_vit_custom.audit import page
from modeling_vit_custom.audit.audit import audit
from modeling_vit_custom.commands.audit_data import main


@pytest.fixture
def folder(tmp_path):
    """Return a clean folder with a class, a file and a second copy whose names could act as HTML."""
    root = write_clean(tmp_path / "a <u>folder & more")
    for number in range(10):
        put(root / "train" / HOSTILE / f"{number}.png", tile("china", 25 + number))
    put(root / "train" / "<script>" / '"><script>alert(1)<.png', tile("china", 0))
    put(root / "train" / "china" / "'copy' & \u202esame.png", tile("china", 10))
    return root


def test_names_are_text_and_the_page_needs_no_other_file(folder, tmp_path):
    written = page.write_page(tmp_path / "audit.html", audit(folder))
    text = written.read_text(encoding="utf-8")
    tags = Tags(text)
    assert not {"script", "iframe", "object", "link", "u"} & set(tags.tags) and not tags.handlers
    assert all(re.match(r"data:image/(png|jpeg);base64,|#finding-\d+$", address) for address in tags.addresses)
    assert "&lt;img src=x onerror=" in text
    assert "default-src 'none'" in text and "\u202e" not in text and "\\u202esame" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_clean_folder_has_a_page_that_says_so(tmp_path):
    root = write_clean(tmp_path / "data")
    assert main([str(root), "--html", str(tmp_path / "deep" / "audit.html")]) == 0
    text = (tmp_path / "deep" / "audit.html").read_text()
    assert "Nothing to report" in text and ">china<" in text and "12 + 3" in text


def test_thumbnails_are_bounded_in_number_and_size(tmp_path, monkeypatch):
    root = write_clean(tmp_path / "data")
    for number in range(30):
        put(root / "train" / "flower" / f"blank{number}.png", Image.new("RGB", (900 + number, 700), (number, 9, 9)))
    result = audit(root)
    text = page.write_page(tmp_path / "audit.html", result).read_text()
    assert Tags(text).tags.count("img") <= 2 * page.SHOWN and "… and 18 more" in text
    assert len(text) < 100_000
    monkeypatch.setattr(page, "MAX_THUMBNAILS", 5)
    assert Tags(page.write_page(tmp_path / "audit.html", result).read_text()).tags.count("img") == 5


@pytest.mark.parametrize("with_policy", [True, False])
def test_in_a_browser_nothing_runs_and_all_is_shown(folder, tmp_path, chromium, with_policy):
    """The page is tried without its security policy as well: its escaping alone must protect it."""
    written = page.write_page(tmp_path / "audit.html", audit(folder))
    if not with_policy:
        drop_policy(written)

    def check(tab):
        assert tab.title().startswith("Data audit: ") and tab.locator("script").count() == 0
        assert tab.get_by_text(HOSTILE, exact=True).first.is_visible()
        assert tab.evaluate("document.images.length") >= 2

    look(chromium, written, tmp_path, check)
