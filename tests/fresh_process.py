"""Run Python on a machine that has never seen this package: a new process, an empty folder, an empty cache."""

import os
import subprocess
import sys
from pathlib import Path

from modeling_vit_custom.training.quickstart import FRESH_PROCESS

# The quick start's own way of hiding the package, which is importable in the environment that runs the tests.
_HIDE_PACKAGE = f"""
import runpy, sys
quickstart = runpy.run_path({str(FRESH_PROCESS)!r})
sys.meta_path.insert(0, quickstart["Hide"]())
quickstart["check_hidden"]()
"""


def run_without_package(code: str, folder: Path, *arguments: object) -> str:
    """What `code` prints in a fresh process in the empty `folder`; `arguments` are its sys.argv[1:].

    Raises AssertionError with the process's errors where it fails.
    """
    work, cache = folder / "work", folder / "cache"
    work.mkdir(parents=True), cache.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _HIDE_PACKAGE + code, *map(str, arguments)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
