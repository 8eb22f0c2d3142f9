"""The versions and formats that SECURITY.md promises are those that are installed and opened."""

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

from modeling_vit_custom.data.folders import IMAGE_SUFFIXES, PLUGIN_SUFFIXES, readable_suffixes
from modeling_vit_custom.image_files_vit_custom import FORMATS, accepted_formats
from modeling_vit_custom.tasks import classification_demo as demo

ROOT = Path(__file__).parent.parent
FLOORS = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE))


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for texts in lists for text in texts]


def test_the_floors_are_listed():
    assert FLOORS.keys() == {"pillow", "gradio", "starlette", "h11", "python-multipart", "onnx"}


@pytest.mark.parametrize("package", FLOORS)
def test_no_version_with_a_known_flaw_is_installed(package):
    named = [requirement for requirement in requirements() if requirement.name == package]
    assert named, f"no list of requirements names {package}"
    lowest = {spec.version for each in named for spec in each.specifier if spec.operator == ">="}
    assert lowest == {FLOORS[package]} and all(len(each.specifier) for each in named)
    assert Version(version(package)) >= Version(FLOORS[package])


def test_the_extras_that_serve_include_their_http_parser():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("serve", "demo"):
        assert {"starlette", "h11", "python-multipart"} <= {Requirement(text).name for text in extras[extra]}


def test_images_are_opened_in_one_place_and_as_listed_formats():
    """Every other `Image.open` names its formats itself."""
    found = []
    for path in sorted((ROOT / "modeling_vit_custom").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open", "open_image"):
                found.append(path.name)
                assert ast.unparse(node.func) == "open_image" or "formats" in {word.arg for word in node.keywords}, path
    assert {"image_files_vit_custom.py", "secrets.py", "scan.py", "dataset.py", "looks.py"} <= set(found)
    assert FORMATS == demo.FORMATS


def test_every_suffix_that_was_readable_still_is():
    Image.init()
    known = Image.registered_extensions()
    accepted = set(accepted_formats())
    assert readable_suffixes() - {".npy"} == {suffix for suffix in IMAGE_SUFFIXES if known.get(suffix) in accepted}
    assert IMAGE_SUFFIXES - readable_suffixes() <= set(PLUGIN_SUFFIXES)
    assert set(accepted_formats()) >= set(FORMATS) - {"HEIF", "JXL"}
