"""The scan for secrets: every kind is found where it can hide, what was found is never said, and no false alarm."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import photograph
from PIL import ExifTags, Image, PngImagePlugin
from safetensors.numpy import save_file

from modeling_vit_custom.publishing.secrets import scan_secrets

ROOT = Path(__file__).parents[1]
# Put together here, so that no scanner takes this file for a leak.
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
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0"  # empty, as cameras leave it
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


def test_a_scan_that_cannot_be_made_has_found_nothing_out(tmp_path, monkeypatch):
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
