"""Classify image files with a saved classifier; `python scripts/predict.py --help` shows how.

Sharded over processes: accelerate launch --multi_gpu --num_processes 2 scripts/predict.py --model DIR FOLDER
"""

import sys


def main(argv: list[str] | None = None) -> int:
    from vit_custom import main as vit_custom

    return vit_custom(["predict", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
