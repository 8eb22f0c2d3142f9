"""How a process leaves the group that it has joined."""

import subprocess
import sys
from pathlib import Path

LEAVES = """
import atexit, os, sys
from multiprocessing import get_context
import torch.distributed as dist
from modeling_vit_custom.common.processes import leave_processes

def work():
    leave_processes()
    print("the child goes on", flush=True)

atexit.register(lambda: print("exit functions run in", "the parent" if os.getpid() == pid else "a child"))
pid = os.getpid()
leave_processes()
print("alone: goes on", flush=True)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
child = get_context("fork").Process(target=work)
child.start()
child.join()
print("the work is done")
leave_processes()
print("not reached", flush=True)
"""


def test_a_launched_process_ends_at_once_after_its_exit_functions(tmp_path):
    """Nothing that was printed is lost, and a fork runs none of its parent's exit functions."""
    command = [sys.executable, "-c", LEAVES, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "alone: goes on",
        "the child goes on",
        "the work is done",
        "exit functions run in the parent",
    ]
