"""Learn from images without labels; `python scripts/pretrain.py --help` shows how."""

import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.pretrain import main as pretrain

    return pretrain(argv)


if __name__ == "__main__":
    # Python puts this folder first on the path, where evaluate.py would hide the library `evaluate`.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    sys.exit(main())
