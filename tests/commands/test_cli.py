"""`vit-custom` and the scripts: every command in the table is there and starts from anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from modeling_vit_custom.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_usage_lists_the_commands(arguments, capsys):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


def test_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_scripts_are_thin_and_start_from_anywhere(script, tmp_path):
    """`python scripts/x.py` puts scripts/ on the path, where evaluate.py would hide the library `evaluate`."""
    path = ROOT / "scripts" / script
    assert len(path.read_text().splitlines()) <= 60
    command = [sys.executable, str(path), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
