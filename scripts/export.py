"""Export a classifier for another runtime; `python scripts/export.py --help` shows how."""

import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["export", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    # Python puts this folder first on the path, where evaluate.py would hide the library `evaluate`.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    sys.exit(main())
