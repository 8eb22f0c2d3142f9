"""How `benchmark few` has each method run: the command that a user would type, in a process of its own, measured."""

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

MINUTES, CPU_SECONDS = 5.0, 600.0  # of auto; of what is given the time of `default`, where that has not run
TOLD = 5  # last lines of what a command that failed has written
ROOT = __name__.partition(".")[0]
_PATH = re.compile(r"(?<![\w:/])(?:/[^/\s'\",:]+)*/(?=[^/\s'\",:])")


@dataclass(frozen=True)
class Job:
    """One row's images and folders. timm: the checkpoint for timm. grey: no image has colours. default: its row."""

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
    """Runs a command to its end; what it keeps for a next time, decoded images for one, goes to `folder`."""
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
    """{"accuracy": …} and what else a method has told: by the metrics it left, or in the last line it printed."""
    metrics = job.output / METRICS
    if metrics.is_file():
        return {"accuracy": json.loads(metrics.read_text(encoding="utf-8"))["test"]["accuracy"]}
    return json.loads(ran.stdout.splitlines()[-1])


def last_lines(text: str) -> list[str]:
    """The end of what a command wrote, each line as it looked last, without paths of this machine."""
    lines = [line.rstrip().rpartition("\r")[2].strip() for line in text.split("\n")]
    return [without_paths(line) for line in lines if line][-TOLD:]


def without_paths(text: str) -> str:
    """The text with each path shortened to its name."""
    return _PATH.sub("", text)


# ---------- the methods


def train(job: Job, *flags: str) -> list[str]:
    """`vit-custom train` with the images of a job."""
    folders = ["--train_dir", str(job.train), "--test_dir", str(job.test), "--output_dir", str(job.output)]
    return [sys.executable, "-m", "modeling_vit_custom.cli", "train", *flags, *folders]


def fine_tune(job: Job, *flags: str) -> list[str]:
    """`vit-custom train` from the checkpoint."""
    return train(job, *flags, "--model_name_or_path", job.checkpoint, "--image_size", str(job.size))


def peer(job: Job, module: str, what: str, *flags: str) -> list[str]:
    """A script of this folder with the images of a job."""
    folders = ["--train", str(job.train), "--test", str(job.test)]
    return [sys.executable, "-W", "ignore", "-m", f"{ROOT}.commands.{module}", what, *folders, *flags]


def scikit_learn(job: Job, classifier: str) -> list[str]:
    return peer(job, "few_peers", classifier, "--checkpoint", job.checkpoint, "--size", str(job.size))


def from_scratch(job: Job) -> list[str]:
    """The recipe for small pictures, for as long as `default` took."""
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
DRAWN_OFTEN = tuple(METHODS)[:4]  # the others run on the first draw alone


def export_for_timm(checkpoint: str, size: int, output: Path, folder: Path) -> Ran:
    """Converts the checkpoint for timm: once, and in no row's time."""
    words = ["export", "--checkpoint", checkpoint, "--size", str(size), "--output", str(output)]
    return run([sys.executable, "-W", "ignore", "-m", f"{ROOT}.commands.few_timm", *words], folder)


def as_typed(command: list[str]) -> list[str]:
    """A command as it stands in the results: the program's name instead of Python's, and no path of this machine."""
    words = command[command.index("-m") + 1 :]
    named = ["vit-custom", *words[1:]] if words[0].endswith(".cli") else ["python", "-m", *words]
    return [Path(word).name if os.path.isabs(word) else word for word in named]
