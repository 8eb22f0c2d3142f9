"""Predict image files with a saved classifier; `python scripts/predict.py --help` shows how.

Sharded over processes: accelerate launch --multi_gpu --num_processes 2 scripts/predict.py --model DIR FOLDER
"""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.predict import main as predict

    return predict(argv)


if __name__ == "__main__":
    sys.exit(main())
