"""`vit-custom quickstart`: write real digits as files, train a model from scratch, serve it from a fresh process."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.fresh_process import FreshProcessError, run_fresh
from ..common.text import printable
from ..configuration_vit_custom import ViTCustomConfig
from ..data.mnist5k import mnist5k_files
from ..reporting.course import time_taken
from ..tasks.registry import task_of
from ..training.arguments.parsing import parse_flags
from ..training.runs.exits import exit_code
from ..training.runs.train import train

SERVE_FRESH = Path(__file__).with_name("serve_fresh.py")
SHOWN = 10  # number of held-out files predicted at the end: one of each digit


def quickstart(output_dir: str | Path, data_root: str | Path, seed: int = 0, *flags: str) -> float:
    """Train by the recipe mnist5k, predict with the saved folder, and return the accuracy on 1,000 held-out images.

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
    """Predict `files`, DIR/<truth>/name, in a fresh process and print the results.

    Raises FreshProcessError if the folder cannot be served there, or if pipeline and model predict different classes.
    """
    folder, *paths = (Path(path).resolve() for path in (model, *files))
    config: Any = ViTCustomConfig.from_pretrained(folder)
    task = task_of(config)
    found = json.loads(run_fresh(SERVE_FRESH, folder, task.listing.for_process(), *paths).splitlines()[-1])
    named = task.entries(torch.tensor(found["outputs"]), config.id2label, 1)
    print("truth  predicted  score  file")
    for path, (own,), (best, *_) in zip(paths, named, found["pipeline"], strict=True):
        if best["label"] != own["label"]:
            raise FreshProcessError(f"{path}: the model says {own['label']}, the pipeline {best['label']}")
        truth, place = path.parent.name, "/".join(path.parts[-3:])
        wrong = "" if truth == own["label"] else "   WRONG"
        print(f"{truth:>5}  {best['label']:>9}  {best['score']:.3f}  {place}{wrong}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `quickstart`; further flags go to `train`.

    Return its exit code: 0 done, 1 what was trained is not served, 2 it could not be done as asked, 3 the training
    could not go on, 130 stopped by Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom quickstart",
        description="MNIST digits as real image files: train from scratch, evaluate, serve from a fresh process.",
        epilog="Flags that are not listed go to train and win over its recipe, for example --num_train_epochs 5. "
        "Exit codes: 0 done, 1 what was trained is not served, 2 it could not be done as asked, 3 the training could "
        "not go on, 130 stopped by Ctrl-C.",
    )
    parser.add_argument("--output_dir", default="outputs/quickstart", help="the model's folder (%(default)s)")
    parser.add_argument("--data_root", default="data", help="gets the folder mnist5k (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (%(default)s)")

    def work(flags: Sequence[str], args: argparse.Namespace) -> None:
        print(json.dumps({"accuracy": quickstart(args.output_dir, args.data_root, args.seed, *flags)}))

    try:
        return exit_code("quickstart", lambda: parser.parse_known_args(argv)[::-1], work)
    except (FreshProcessError, OSError) as error:
        print(printable(f"quickstart: {error}"), file=sys.stderr)
        return 1 if isinstance(error, FreshProcessError) else 2
