"""Commands and trainings that are killed (see `faults_elsewhere`) leave output that is whole, absent or refused by
name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults_elsewhere import COMMANDS, RESIZED, TRAININGS

SUPPORT = Path(__file__).parent / "support"
NAMES = [*(killed.name for killed in TRAININGS), *RESIZED, *(command.name for command in COMMANDS)]
QUICK = ["convert", "LoRA: half of the merged weights at the end"]


def try_out(names: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "faults_elsewhere.py"), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert sorted(rows) == sorted([name, "yes"] for name in names)


def test_a_killed_conversion_and_a_torn_merge():
    try_out(QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_other_kills():
    try_out([name for name in NAMES if name not in QUICK])
