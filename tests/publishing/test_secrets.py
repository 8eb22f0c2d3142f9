"""The scan for secrets finds every kind wherever it can hide, never prints it, and raises no false alarm."""

import html
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_files import photograph
from PIL import ExifTags, Image, PngImagePlugin
from planted_texts import INNOCENT, PLANTED
from safetensors.numpy import save_file

from modeling_vit_custom.publishing.secret_patterns import _PATTERNS, detectors, kinds_in
from modeling_vit_custom.publishing.secrets import scan_secrets

ROOT = Path(__file__).parents[2]
# Assembled here, so that no scanner takes this file for a leak.
HF = "hf_" + "aB3dE5gH7j" * 3 + "kLmN"
GITHUB = "ghp_" + "A1b2C3d4E5" * 3 + "F6g7H8"
AWS = "AKIA" + "QWERTZUIOP123456"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----"

LINES = {
    "Hugging Face token": (f"login(token='{HF}')", HF),
    "GitHub Token": (f"clone https://{GITHUB}@github.com/a/b", GITHUB),
    "AWS Access Key": (f"region: eu, id: {AWS}", AWS),
    "Private Key": (PEM, PEM),
    "Secret Keyword": ('password = "' + "correct-horse-7" + '"', "correct-horse-7"),
    "Basic Auth Credentials": ("https://ada:" + "sesame77@example.com/x", "sesame77"),
    "assignment of a secret": ("export WANDB_API_KEY=" + "0123456789abcdef", "0123456789abcdef"),
    "path with a user name": ('"train_dir": "/home/ada.l/photos"', "ada.l"),
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("name", ["README.md", "training_args.json", "modeling_vit_custom.py", "notes"])
def test_found_in_any_text_by_line_and_never_shown(tmp_path, kind, name):
    line, secret = LINES[kind]
    (tmp_path / name).write_text(f"first\nsecond\n{line}\n")
    findings = scan_secrets(tmp_path)
    assert f"{name}:3: {kind}" in findings
    assert secret not in " ".join(findings)


@pytest.mark.parametrize(
    "line",
    ["file:///home/ada/x", "/Users/ada/x/y", r"C:\Users\ada\photos", json.dumps({"p": "C:\\Users\\ada\\photos"})],
)
def test_paths_with_a_user_name(tmp_path, line):
    (tmp_path / "a.txt").write_text(line)
    assert scan_secrets(tmp_path) == ["a.txt:1: path with a user name"]


def test_a_line_cannot_vouch_for_itself(tmp_path):
    (tmp_path / "README.md").write_text(GITHUB + "  # pragma: allow" + "list secret")
    assert scan_secrets(tmp_path) == ["README.md:1: GitHub Token"]


def test_utf_16_hides_nothing(tmp_path):
    (tmp_path / "README.md").write_text(f"first\n{HF}\n", encoding="utf-16")
    assert scan_secrets(tmp_path) == ["README.md:2: Hugging Face token"]


def test_files_of_secrets_by_name(tmp_path):
    for name in (".env", "prod.env", "id_rsa", "server.pem"):
        (tmp_path / name).write_text("")
    assert [finding.partition(":")[0] for finding in scan_secrets(tmp_path)] == [
        ".env",
        "id_rsa",
        "prod.env",
        "server.pem",
    ]


def test_images_are_searched_for_texts_and_for_where_they_were_taken(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    exif[ExifTags.Base.Artist] = "Ada"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0"  # an empty comment, as cameras write it
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", f"token {HF}", zip=True)
    photograph().save(tmp_path / "taken.jpg", exif=exif)
    photograph().save(tmp_path / "taken.png", exif=exif)
    photograph().save(tmp_path / "text.png", pnginfo=texts)
    photograph().save(tmp_path / "clean.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    findings = scan_secrets(tmp_path)
    places = ["GPS position in its metadata", "artist in its EXIF data"]
    assert findings == [
        "broken.png: not searched, no readable image (UnidentifiedImageError)",
        *(f"{name}: {place}" for name in ("taken.jpg", "taken.png") for place in places),
        "text.png: Hugging Face token in its metadata",
    ]


def test_a_scan_that_cannot_run_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "detect_secrets.settings", None)
    with pytest.raises(ValueError, match="detect-secrets is missing"):
        scan_secrets(tmp_path)


def test_weights_are_searched_for_texts(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt", "by": HF})
    assert scan_secrets(tmp_path) == ["model.safetensors: Hugging Face token in its metadata"]


def test_no_false_alarm_on_code_cards_fingerprints_and_placeholders(tmp_path):
    for path in [*(ROOT / "modeling_vit_custom").glob("*.py"), *ROOT.glob("*.md"), ROOT / "config.json"]:
        (tmp_path / f"as-text-{path.name}").write_text(path.read_text())
    (tmp_path / "training_args.json").write_text(
        json.dumps({"data": {"fingerprint": "9f86d081884c7d65" * 4}}, indent=1)
    )
    sha = "0123456789abcdef0123456789abcdef01234567"
    (tmp_path / "card.md").write_text(
        f"pipeline('image-classification', model='ada/x', revision='{sha}')\n"
        "export HF_TOKEN=$MY_TOKEN\nHF_TOKEN=your_token_here\nCLS_TOKEN = prefix_tokens\nMAX_TOKENS=1048576\n"
        "https://example.com/home/ada/x/ and /home/ or ~/photos\n"
    )
    assert scan_secrets(tmp_path) == []


PHOTOGRAPH = photograph().resize((24, 16))


def as_image(form: str, after: bytes = b"", **options) -> bytes:
    file = io.BytesIO()
    PHOTOGRAPH.save(file, form, **options)
    return file.getvalue() + after


def png_texts(text: str, **options) -> bytes:
    texts = PngImagePlugin.PngInfo()
    (texts.add_itxt if options.pop("itxt", False) else texts.add_text)("Comment", text, **options)
    return as_image("PNG", pnginfo=texts)


def exif(text: str) -> Image.Exif:
    tags = Image.Exif()
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + text.encode()
    tags[ExifTags.Base.Software] = "camera"
    return tags


def xmp(text: str) -> bytes:
    return f"<x:xmpmeta><rdf:Description note='{html.escape(text)}'/></x:xmpmeta>".encode()


def every_character_escaped(text: str) -> str:
    return '"' + "".join(f"\\u{ord(character):04X}" for character in text) + '"'


def header_with(text: str, key: str = "note") -> bytes:
    """Return the header of a safetensors file with the text in its metadata."""
    header = json.dumps({"__metadata__": {"format": "pt", key: text}}).encode()
    return len(header).to_bytes(8, "little") + header


NOISE = bytes(range(32)) * 20
# where: (name of the file, function from a text to its bytes)
PLACES = {
    "text": ("a.txt", lambda text: f"first\n{text}\nlast".encode()),
    "code": ("a.py", lambda text: f"x = 1\n# {text}\n".encode()),
    "JSON": ("a.json", lambda text: json.dumps({"note": text}).encode()),
    "JSON, slashes escaped": ("a.json", lambda text: json.dumps({"note": text}).replace("/", "\\/").encode()),
    "JSON, everything escaped": ("a.json", lambda text: every_character_escaped(text).encode()),
    "JSON in JSON": ("a.json", lambda text: json.dumps({"note": json.dumps([text])}).encode()),
    "JSON of many lines": ("a.json", lambda text: json.dumps({"note": f"first\n{text}\n\tlast"}).encode()),
    "YAML": ("a.yaml", lambda text: f"a:\n  - |\n    {text}\n".encode()),
    "HTML": ("README.md", lambda text: "".join(f"&#{ord(character)};" for character in text).encode()),
    "UTF-16": ("a.txt", lambda text: f"first\n{text}".encode("utf-16")),
    "UTF-16 without a mark": ("a.txt", lambda text: f"first\n{text}".encode("utf-16-be")),
    "UTF-32": ("a.txt", lambda text: text.encode("utf-32")),
    "no text": ("a.onnx", lambda text: NOISE + f"  {text}  padded to sixteen".encode() + NOISE),
    "safetensors, metadata": ("a.safetensors", header_with),
    "safetensors, a name in its metadata": ("a.safetensors", lambda text: header_with("x", text)),
    "PNG text": ("a.png", png_texts),
    "PNG text, compressed": ("a.png", lambda text: png_texts(text, zip=True)),
    "PNG text, international": ("a.png", lambda text: png_texts(text, itxt=True, zip=True)),
    "PNG, EXIF": ("a.png", lambda text: as_image("PNG", exif=exif(text))),
    "PNG, behind its end": ("a.png", lambda text: as_image("PNG", f"\npadding to sixteen\n{text}".encode())),
    "JPEG comment": ("a.jpg", lambda text: as_image("JPEG", comment=f"a comment: {text}")),
    "JPEG, EXIF": ("a.jpg", lambda text: as_image("JPEG", exif=exif(text))),
    "JPEG, XMP": ("a.jpg", lambda text: as_image("JPEG", xmp=xmp(text))),
    "JPEG, colour profile": (
        "a.jpg",
        lambda text: as_image("JPEG", icc_profile=f"desc, a colour profile {text}".encode("utf-16-be")),
    ),
    "WebP, XMP": ("a.webp", lambda text: as_image("WEBP", xmp=xmp(text))),
    "WebP, EXIF": ("a.webp", lambda text: as_image("WEBP", exif=exif(text))),
    "GIF comment": ("a.gif", lambda text: as_image("GIF", comment=text.encode())),
}


@pytest.fixture(scope="module")
def kinds() -> dict[str, list[str]]:
    with detectors():
        return {what: kinds_in(text) for what, text in PLANTED.items()}


@pytest.mark.parametrize("place", PLACES)
def test_all_that_is_planted_is_found_in_every_place_and_never_shown(tmp_path, kinds, place):
    name, written = PLACES[place]
    for number, text in enumerate(PLANTED.values()):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / name).write_bytes(written(text))
    findings = scan_secrets(tmp_path)
    for number, (what, text) in enumerate(PLANTED.items()):
        found = [finding for finding in findings if finding.startswith(f"{number:02}/")]
        expected = kinds[what]
        assert expected and all(any(kind in finding for finding in found) for kind in expected), (what, expected, found)
        assert not any(part in finding for finding in found for part in text.split() if len(part) > 9), what


def test_nothing_innocent_is_found(tmp_path):
    for number, text in enumerate(INNOCENT.values()):
        (tmp_path / f"{number:02}.md").write_text(f"{text}\n")
        (tmp_path / f"{number:02}.json").write_text(json.dumps({"note": text}))
        (tmp_path / f"{number:02}.png").write_bytes(png_texts(text))
    names = list(INNOCENT)
    assert [(names[int(finding[:2])], finding) for finding in scan_secrets(tmp_path)] == []
    assert len(INNOCENT) >= len(PLANTED) >= 60


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_bytes_after_an_image_are_found_but_padding_is_not(tmp_path, form):
    image, end = as_image(form), form.lower()
    for name, after in (("clean", b""), ("padded", b"\0\0\0\n"), ("zip", b"PK\x03\x04"), ("text", b"me@my-engine.org")):
        (tmp_path / f"{name}.{end}").write_bytes(image + after)
    behind = [finding for finding in scan_secrets(tmp_path) if "after the end of the image" in finding]
    assert behind == [
        f"text.{end}: 16 bytes after the end of the image",
        f"zip.{end}: 4 bytes after the end of the image",
    ]


def test_progressive_and_animated_images_end_where_they_end(tmp_path):
    frames = [PHOTOGRAPH.rotate(90 * turn).quantize() for turn in range(3)]
    (tmp_path / "a.jpg").write_bytes(as_image("JPEG", progressive=True, restart_marker_blocks=2))
    for form in ("gif", "png", "webp"):
        frames[0].save(tmp_path / f"a.{form}", save_all=True, append_images=frames[1:])
    assert scan_secrets(tmp_path) == []


def test_who_made_an_image_is_found_in_xmp_and_in_its_texts(tmp_path):
    by = b"<x:xmpmeta><dc:creator><rdf:Seq><rdf:li>Ada</rdf:li></rdf:Seq></dc:creator></x:xmpmeta>"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "Ada")
    (tmp_path / "a.jpg").write_bytes(as_image("JPEG", xmp=by))
    (tmp_path / "b.png").write_bytes(as_image("PNG", pnginfo=texts))
    (tmp_path / "c.jpg").write_bytes(as_image("JPEG", xmp=b"<x:xmpmeta exif:GPSLatitude='52,31N'/>"))
    assert scan_secrets(tmp_path) == [
        "a.jpg: author in its metadata",
        "b.png: author in its metadata",
        "c.jpg: GPS position in its metadata",
    ]


def test_a_licence_may_say_whose_it_is(tmp_path):
    text = "Copyright (c) 2026 Ada <ada@engine.co.uk>\n"
    (tmp_path / "LICENSE").write_text(text)
    assert scan_secrets(tmp_path) == []
    (tmp_path / "LICENSE").write_text(text + GITHUB)
    (tmp_path / "README.md").write_text(text)
    assert scan_secrets(tmp_path) == ["LICENSE:2: GitHub Token", "README.md:1: e-mail address"]


HEAVY = ["a", "token=", "sk-", "a@", "/home", "ff", "\\u0041", "x.y@", "login password ", "<dc:creator>", "://a"]


@pytest.mark.parametrize("piece", HEAVY)
def test_a_line_made_to_take_long_does_not(piece):
    """Only this package's patterns run: five times the length takes about five times as long, not 25 times."""

    def seconds(length: int) -> float:
        line = piece * (length // len(piece))
        began = time.perf_counter()
        for pattern in _PATTERNS.values():
            pattern.search(line)
        return time.perf_counter() - began

    assert seconds(50_000) < 5 + 8 * seconds(10_000)
