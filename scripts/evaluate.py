"""Measure a saved classifier on labelled images; `python scripts/evaluate.py --help` shows how."""

import sys


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.evaluation.evaluate import main as evaluate

    return evaluate(argv)


if __name__ == "__main__":
    sys.exit(main())
