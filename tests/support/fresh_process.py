"""Run Python on a machine that has never seen this package: a new process, an empty folder, an empty cache."""

from pathlib import Path

from modeling_vit_custom.common.fresh_process import run_fresh


def run_without_package(code: str, folder: Path, *arguments: object) -> str:
    """Run `code`, written to `folder`, in a fresh process and return what it prints; `arguments` are its sys.argv[1:].

    Raises FreshProcessError with the process's errors if it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "code.py"
    script.write_text("import sys\n" + code)
    return run_fresh(script, *arguments)
