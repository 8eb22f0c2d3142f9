"""README.md and the pages of docs/: their code, their commands as parsers read them, a place to run them in."""

import argparse
import re
import shlex
from pathlib import Path
from unittest.mock import patch

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomImageProcessor,
)
from modeling_vit_custom.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PAGES = {"README.md": README, **DOCS}


def blocks(text: str, kind: str) -> list[str]:
    """Return the blocks of code of a page that name a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """Return the words of each `vit-custom …` in a page's blocks for a shell, without `vit-custom`."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vit-custom ")]


def section(text: str, heading: str) -> str:
    """Return the text under a heading, up to the next of the same level."""
    level = heading.split()[0]
    return text.split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]


class Parsed(Exception):
    """Raised in the place of doing what a command line asks for."""


def parse(words: list[str]) -> None:
    """Parse a command line by the command's own parser: ends the process for an unknown flag or a refused value."""
    real = argparse.ArgumentParser.parse_known_args

    def stop(parser: argparse.ArgumentParser, args=None, namespace=None):
        found, strangers = real(parser, args, namespace)
        if parser.prog == "vit-custom benchmark":  # which reads the first word alone
            return found, strangers
        assert not strangers, f"{parser.prog}: {strangers}"
        raise Parsed

    with patch.object(argparse.ArgumentParser, "parse_known_args", stop):
        try:
            main(words)
        except Parsed:
            return
    raise AssertionError(f"{words} were not parsed")


def place_for_pages(folder: Path) -> Path:
    """Fill a folder as the pages name it, and return it.

    photos/{train,test}/<class>/…; outputs/photos, a small model of these classes; outputs/pre, one as pre-training
    leaves it.
    """
    from real_digits import write_train_and_test

    write_train_and_test(folder / "photos", train=12, test=4)
    names = dict(enumerate("012"))
    config = ViTCustomConfig.from_variant(
        "nano/8", image_size=32, num_channels=1, id2label=names, label2id={name: i for i, name in names.items()}
    )
    for name, model in (("photos", ViTCustomForImageClassification), ("pre", ViTCustomForMaskedImageModeling)):
        model(config).save_pretrained(folder / "outputs" / name)
        ViTCustomImageProcessor.for_model(config).save_pretrained(folder / "outputs" / name)
    return folder
