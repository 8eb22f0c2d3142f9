"""The README tells the truth: its Python runs, its commands parse, its tree exists, its numbers are the code's."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_vit_custom import VARIANTS, ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("python", "bash")}
TREE = re.findall(r"```\n(modeling_vit_custom/.*?)```", README, re.DOTALL)[0]


def test_building_a_model_runs_and_prints_what_it_says(capsys):
    (block,) = [block for block in BLOCKS["python"] if "from_variant" in block]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == [
        "torch.Size([2, 10]) torch.Size([2, 3, 49, 49])",
        "torch.Size([2, 10])",
    ]


@pytest.mark.slow
def test_quick_start_learns_and_the_first_lines_serve_it(tmp_path):
    """The README's first command in full, from scratch to at least 97 %, then its first lines of Python."""
    quickstart = [sys.executable, ROOT / "scripts" / "quickstart.py", "--disable_tqdm", "true"]
    printed = subprocess.run(quickstart, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1])["accuracy"] >= 0.97
    (block,) = [block for block in BLOCKS["python"] if "pipeline(" in block]
    served = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert served.stdout.split()[0] == "3"  # the digit of the file the README names


def test_every_command_and_flag_exists(capsys):
    lines = "\n".join(BLOCKS["bash"]).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("vit-custom")]
    assert len(commands) >= 6
    helps = {}
    for _, command, *arguments in commands:
        assert command in COMMANDS
        if command not in helps:
            from modeling_vit_custom.cli import main

            with pytest.raises(SystemExit):
                main([command, "--help"])
            helps[command] = capsys.readouterr().out
        for flag in (argument for argument in arguments if argument.startswith("--")):
            assert flag in helps[command], f"{command} has no {flag}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tree_names_every_module_and_folder():
    package = ROOT / "modeling_vit_custom"
    for path in package.glob("*_vit_custom.py"):
        assert path.name.removesuffix("vit_custom.py") in TREE, path.name
    for path in [*package.glob("*/__init__.py"), package / "recipes" / "x"]:
        assert f"{path.parent.name}/" in TREE, path.parent
    for name in re.findall(r"^(?:  )?([\w./]+)(?: |$)", TREE, re.MULTILINE):
        if name.endswith("/") or ("." in name and "_…" not in name):
            assert (ROOT / name).exists() or (package / name).exists(), name


def test_parameter_counts_are_those_of_the_table():
    claimed = map(float, re.search(r"\(([\d.]+), ([\d.]+) and ([\d.]+) M parameters", README).groups())
    for size, millions in zip(["nano", "micro", "mini"], claimed, strict=True):
        assert size in VARIANTS
        with torch.device("meta"):
            model = ViTCustomForImageClassification(ViTCustomConfig.from_variant(f"{size}/4", num_labels=10))
        assert round(model.num_parameters() / 1e6, 2) == millions


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README and "TODO" not in README
