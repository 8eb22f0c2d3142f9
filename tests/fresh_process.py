"""Run Python on a machine that has never seen this package: a new process, an empty folder, an empty cache."""

import os
import subprocess
import sys
from pathlib import Path

# The package is importable in the environment that runs the tests; this makes it not so.
_FORBID_PACKAGE = """
import sys
class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "modeling_vit_custom":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, _Absent())
try:
    import modeling_vit_custom
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package is still importable")
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
        [sys.executable, "-c", _FORBID_PACKAGE + code, *map(str, arguments)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
