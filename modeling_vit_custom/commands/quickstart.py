"""`vit-custom quickstart`: real digits as files, a model trained from scratch, served from a fresh process."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from ..common.fresh_process import run_fresh
from ..data.mnist5k import mnist5k_files
from ..reporting.course import time_taken
from ..training.arguments.parsing import parse_flags
from ..training.runs.train import train

SERVE_FRESH = Path(__file__).with_name("serve_fresh.py")
SHOWN = 10  # held-out files predicted at the end: one of each digit


def quickstart(output_dir: str | Path, data_root: str | Path, seed: int = 0, *flags: str) -> float:
    """Trains by the recipe mnist5k, shows the saved folder at work, returns the accuracy on 1,000 held-out images.

    flags: further flags of `train`, which win over the recipe's.
    """
    started = time.perf_counter()
    argv = ["mnist5k", "--output_dir", str(output_dir), "--data_root", str(data_root), "--seed", str(seed), *flags]
    metrics = train(*parse_flags(argv))
    test = metrics["test"]
    took = time_taken(metrics["train"])
    print(f"\n{test['accuracy']:.1%} of {test['n']:,} held-out images right, after {took} of training")
    print(f"Predictions from {output_dir} in a process that cannot import this package:\n")
    held_out = [name for name in mnist5k_files() if name.startswith("test/")]
    step = len(held_out) // SHOWN
    serve_fresh(output_dir, [Path(data_root, "mnist5k", name) for name in held_out[step // 2 :: step]])
    print(f"\nDone in {time.perf_counter() - started:.0f} s. The folder {output_dir} is a complete Hub repository.")
    return test["accuracy"]


def serve_fresh(model: str | Path, files: Sequence[str | Path]) -> None:
    """Predicts `files` in a fresh process and prints the result; raises FreshProcessError if it does not serve."""
    paths = [Path(path).resolve() for path in (model, *files)]
    print(run_fresh(SERVE_FRESH, *paths), end="", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `quickstart`; further flags go to `train`."""
    parser = argparse.ArgumentParser(
        prog="quickstart",
        description="MNIST digits as real image files: train from scratch, evaluate, serve from a fresh process.",
        epilog="Flags that are not listed go to train and win over its recipe, for example --num_train_epochs 5.",
    )
    parser.add_argument("--output_dir", default="outputs/quickstart", help="the model's folder (%(default)s)")
    parser.add_argument("--data_root", default="data", help="gets the folder mnist5k (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (%(default)s)")
    args, flags = parser.parse_known_args(argv)
    accuracy = quickstart(args.output_dir, args.data_root, args.seed, *flags)
    print(json.dumps({"accuracy": accuracy}))
    return 0
