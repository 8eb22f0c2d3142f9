"""The console command `vit-custom`: runs `modeling_vit_custom/cli.py` without importing the package around it.

Importing the package registers its classes, which loads torch and transformers and takes seconds. Help, a version and a
misspelt flag do not need these, and during the import nothing would handle Ctrl-C.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any


def main(argv: Sequence[str] | None = None) -> Any:
    """Run `cli.main` and return its exit code. argv: the command and its arguments; None for those of this process."""
    try:
        package = find_spec("modeling_vit_custom")
        assert package is not None and package.origin is not None, "vit-custom is installed without its package"
        return run_path(str(Path(package.origin).with_name("cli.py")))["main"](argv)
    except KeyboardInterrupt:
        print("vit-custom: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
