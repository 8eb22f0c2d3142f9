"""Measure training and inference beside the peers; `python scripts/benchmark.py --help` lists what."""

import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    from modeling_vit_custom.commands.benchmark import main as benchmark

    return benchmark(argv)


if __name__ == "__main__":
    # Python puts this folder first on the path, where evaluate.py would hide the library `evaluate`.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    sys.exit(main())
