"""Methods of `benchmark few`: each is a command that a user would type, run and measured in its own process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.model_files import METRICS
from .few_data import MNIST5K

MINUTES, CPU_SECONDS = 5.0, 600.0  # budget of auto; of the methods that get the time of `default`, if that has not run
LAST_LINES = 5  # number of last lines kept from a failed command
ROOT = __name__.partition(".")[0]
_PATH = re.compile(r"(?<![\w:/])(?:/[^/\s'\",:]+)*/(?=[^/\s'\",:])")


@dataclass(frozen=True)
class Job:
    """Images and folders of one row.

    timm: the checkpoint for timm.   grey: whether no image has colours.   default: the row of method `default`, if any.
    """

    data: str
    train: Path
    test: Path
    output: Path
    checkpoint: str
    timm: Path
    size: int
    grey: bool
    default: dict[str, Any] | None


@dataclass(frozen=True)
class Ran:
    """used: cpu_seconds, seconds and memory_mb, as `measured` has them."""

    code: int
    used: dict[str, float]
    stdout: str
    stderr: str


def run(command: list[str], folder: Path) -> Ran:
    """Run a command to its end. Its cache, such as decoded images, is written below `folder`."""
    environment = os.environ | {"VIT_CUSTOM_CACHE": str(folder / "cache")}
    files = {name: folder / name for name in ("stdout", "stderr", "used")}
    line = [sys.executable, "-S", str(Path(__file__).with_name("measured.py")), str(files["used"]), *command]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": environment}
    with files["stdout"].open("wb") as stdout, files["stderr"].open("wb") as stderr:
        process = subprocess.Popen(line, stdout=stdout, stderr=stderr, **streams)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    stdout_text, stderr_text, used = (file.read_text(encoding="utf-8", errors="replace") for file in files.values())
    return Ran(code, json.loads(used), stdout_text, stderr_text)


def accuracy_of(job: Job, ran: Ran) -> dict[str, Any]:
    """Read {"accuracy": …} from the metrics file of a run, else that and more from the last line that it printed."""
    metrics = job.output / METRICS
    if metrics.is_file():
        return {"accuracy": json.loads(metrics.read_text(encoding="utf-8"))["test"]["accuracy"]}
    return json.loads(ran.stdout.splitlines()[-1])


def last_lines(text: str) -> list[str]:
    """Return the last lines of a command's output, without paths; a line that was redrawn counts in its last state."""
    lines = [line.rstrip().rpartition("\r")[2].strip() for line in text.split("\n")]
    return [without_paths(line) for line in lines if line][-LAST_LINES:]


def without_paths(text: str) -> str:
    """Shorten each path in the text to its file name."""
    return _PATH.sub("", text)


# ---------- the methods


def train(job: Job, *flags: str) -> list[str]:
    """Return the command `vit-custom train` with the images of a job."""
    folders = ["--train_dir", str(job.train), "--test_dir", str(job.test), "--output_dir", str(job.output)]
    return [sys.executable, "-m", "modeling_vit_custom.cli", "train", *flags, *folders]


def fine_tune(job: Job, *flags: str) -> list[str]:
    """Return the command `vit-custom train` that starts from the checkpoint."""
    return train(job, *flags, "--model_name_or_path", job.checkpoint, "--image_size", str(job.size))


def peer(job: Job, module: str, what: str, *flags: str) -> list[str]:
    """Return the command that runs a module of `commands` with the images of a job."""
    folders = ["--train", str(job.train), "--test", str(job.test)]
    return [sys.executable, "-W", "ignore", "-m", f"{ROOT}.commands.{module}", what, *folders, *flags]


def scikit_learn(job: Job, classifier: str) -> list[str]:
    return peer(job, "few_peers", classifier, "--checkpoint", job.checkpoint, "--size", str(job.size))


def from_scratch(job: Job) -> list[str]:
    """Return the command of the recipe for small pictures, with the wall time that `default` took."""
    minutes = job.default["seconds"] / 60 if job.default else MINUTES
    channels = f"num_channels={1 if job.grey else 3}"
    flags = ["--variant", "micro/4", "--config_overrides", channels, "--max_minutes", f"{minutes:.2f}"]
    mirrored = ["--augmentation", "light"] if job.data == MNIST5K else []  # no mirrored digits
    return train(job, "fashion_mnist", *flags, *mirrored)


def timm(job: Job) -> list[str]:
    seconds = job.default["cpu_seconds"] if job.default else CPU_SECONDS
    return peer(job, "few_timm", "train", "--checkpoint", str(job.timm), "--cpu_seconds", f"{seconds:.0f}")


METHODS: dict[str, Callable[[Job], list[str]]] = {
    "logistic_regression": lambda job: scikit_learn(job, "logistic_regression"),
    "knn": lambda job: scikit_learn(job, "knn"),
    "features_once": lambda job: fine_tune(job, "--method", "fitted_head"),
    "default": fine_tune,
    "auto": lambda job: fine_tune(job, "auto", "--max_minutes", f"{MINUTES:g}"),
    "lora": lambda job: fine_tune(job, "--method", "lora"),
    "full": lambda job: fine_tune(job, "--method", "full"),
    "scratch": from_scratch,
    "timm": timm,
}
DRAWN_OFTEN = tuple(METHODS)[:4]  # the others run only on the first draw


def export_for_timm(checkpoint: str, size: int, output: Path, folder: Path) -> Ran:
    """Convert the checkpoint for timm; done once, and not counted in the time of any row."""
    words = ["export", "--checkpoint", checkpoint, "--size", str(size), "--output", str(output)]
    return run([sys.executable, "-W", "ignore", "-m", f"{ROOT}.commands.few_timm", *words], folder)


def as_typed(command: list[str]) -> list[str]:
    """Return a command as shown in the results: with the program's name instead of Python's, and without paths."""
    words = command[command.index("-m") + 1 :]
    named = ["vit-custom", *words[1:]] if words[0].endswith(".cli") else ["python", "-m", *words]
    return [Path(word).name if os.path.isabs(word) else word for word in named]
