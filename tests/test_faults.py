"""Trainings that are killed, run out of disk or get damaged files (see `faults`) end equal, bit for bit, to undisturbed
ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import FAULTS

SUPPORT = Path(__file__).parent / "support"
QUICK = {
    "killed at step 6, mid-epoch",
    "… after optimizer.pt",
    "a second run in the folder; the first killed",
    "an image becomes NaN",
}


def try_out(faults: list) -> None:
    names = [fault.name for fault in faults]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "faults.py"), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert rows == [[fault.name, str(fault.resumes), "yes"] for fault in faults]


def test_a_kill_a_torn_save_two_runs_and_a_bad_image():
    try_out([fault for fault in FAULTS if fault.name in QUICK])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_full_disks():
    try_out([fault for fault in FAULTS if fault.disk])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_other_faults():
    try_out([fault for fault in FAULTS if not fault.disk and fault.name not in QUICK])
