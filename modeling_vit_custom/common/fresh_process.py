"""A fresh Python process as a stranger's machine: it cannot import this package, its home is empty, it is offline.

If a saved folder works there, the folder contains everything it needs. When it is imported, this module starts such a
process. When it is run as a file in that process, it hides the package, wherever it is installed, and then runs the
given script.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from importlib.abc import MetaPathFinder
from pathlib import Path

HIDDEN = "modeling_vit_custom"
# The only variables that the process inherits: no token, no cache, no setting of transformers or the Hub's client.
INHERITED = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE",
)  # fmt: skip
TIMEOUT = 600  # seconds


class FreshProcessError(RuntimeError):
    """The script failed in the fresh process; the message holds what it wrote to its error stream."""


def run_fresh(script: str | Path, *arguments: object, timeout: float = TIMEOUT) -> str:
    """Run a Python file in a fresh process, in an empty folder; return what it printed.

    arguments: its sys.argv[1:], as text. Raises FreshProcessError if it fails or takes longer than `timeout` seconds.
    This is no sandbox: code that runs there can do what this user can.
    """
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as work:
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {"HOME": home, "HF_HOME": home, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-P", __file__, str(Path(script).resolve()), *map(str, arguments)]
        try:
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise FreshProcessError(f"{Path(script).name} took longer than {timeout:g} s in a fresh process") from error
    if done.returncode:
        raise FreshProcessError(done.stderr.strip() or f"{Path(script).name} ended with exit code {done.returncode}")
    return done.stdout


class Hide(MetaPathFinder):
    """Import hook that raises ModuleNotFoundError for the hidden package."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == HIDDEN:
            raise ModuleNotFoundError(f"{fullname} is hidden in this process", name=fullname)


def check_hidden() -> None:
    """Raise SystemExit if the package can be imported."""
    try:
        __import__(HIDDEN)
    except ModuleNotFoundError:
        return
    raise SystemExit(f"{HIDDEN} can be imported: this would prove nothing")


if __name__ == "__main__":
    sys.meta_path.insert(0, Hide())
    check_hidden()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
