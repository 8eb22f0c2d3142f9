"""Faults that kill or spoil a training; `python tests/support/faults.py` prints the table as Markdown.

Each row runs a real training in its own process, ends it by a real SIGKILL (or a full disk, or a damaged file), and
runs the same command again. Everything in a run that can be random is: order, augmentation, dropout, drop path. One
server forks the processes, so that they do not have to import anything.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from ranks import fork, log_to, places
from real_digits import write_class_folder, write_shards
from tiny_training import TINY, command
from transformers import modeling_utils
from transformers.trainer_callback import TrainerState

from modeling_vit_custom.commands.train import main as train_command
from modeling_vit_custom.common.claims import ClaimError, check_claims
from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.training.checkpointing import checkpoints
from modeling_vit_custom.training.checkpointing.checkpoints import MANIFEST, UNFINISHED, numbered
from modeling_vit_custom.training.runs import train as recipe
from modeling_vit_custom.training.trainer import resuming
from modeling_vit_custom.training.trainer.batches import BatchTrainer

MODEL = ["--variant", "nano/4", "--image_size", "8", "--config_overrides", f"{TINY},attention_probs_dropout_prob=0.1"]
# 6 steps an epoch; saved in mid-epoch (2, 4, 8, 10, 14) and at epoch ends (6, 12); logging intervals span checkpoints.
FLAGS = [
    "--drop_path_rate", 0.2, "--per_device_train_batch_size", 4, "--max_steps", 14, "--learning_rate", 1e-2,
    "--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2, "--logging_steps", 3,
]  # fmt: skip
TIMES = ("seconds", "resumed", "runtime", "per_second", "data_wait", "sittings", "files")


@dataclass(frozen=True)
class Fault:
    """One fault and its expected outcome.

    fatal: prepares the process of rank `victim` to die. resumes: the step from which the second run resumes.
    spoil: changes the folder between the runs. flags: for both runs; again: for the second run only.
    code, says: exit code of the first run, and a pattern of what it prints. disk: run on a small disk.
    torchrun: start the processes by a real torchrun, which ends with `code`.
    """

    name: str
    fatal: Callable[[], None]
    resumes: int
    spoil: Callable[[Path], None] = lambda run: None
    flags: tuple = ()
    again: tuple = ()
    processes: int = 1
    victim: int = 0
    code: int = -signal.SIGKILL
    says: str = ""
    disk: bool = False
    torchrun: bool = False


# ---------- ways to die


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, before: Callable = lambda *a, **k: None, after: Callable = lambda *a, **k: None):
    """Call `before` and `after` around owner.name, with the same arguments."""
    whole = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any):
        before(*args, **kwargs)
        result = whole(*args, **kwargs)
        after(*args, **kwargs)
        return result

    setattr(owner, name, wrapper)


def at_step(step: int, method: str = "training_step", times: int = 1, act: Callable = die) -> Callable[[], None]:
    """Return a hook that kills in the `times`-th call of a Trainer's method during step `step`."""
    count = [0]

    def check(trainer, *_: Any, **__: Any) -> None:
        count[0] += trainer.state.global_step + 1 == step
        if count[0] == times:
            act(trainer)

    return lambda: around(resuming.ResumingTrainer, method, before=check)


def in_save(owner: Any, name: str, file: str = "", after: bool = False, act: Callable = die) -> Callable[[], None]:
    """Return a hook that kills before or after owner.name is called for `file` of checkpoint-8, or checkpoint-10."""

    def check(*args: Any, **_: Any) -> None:
        paths = [str(arg) for arg in args if isinstance(arg, str | Path)]
        if any(re.search(r"checkpoint-(8|10$)", path) and path.endswith(file) for path in paths):
            act(Path(paths[0]))

    return lambda: around(owner, name, **{"after" if after else "before": check})


def in_end(owner: Any, name: str, file: str = "", after: bool = False) -> Callable[[], None]:
    """Return a hook that kills before or after owner.name is called for a `file` outside every checkpoint."""

    def check(*args: Any, **_: Any) -> None:
        paths = [str(arg) for arg in args if isinstance(arg, str | Path)]
        if any(path.endswith(file) and "checkpoint-" not in path for path in paths):
            die()

    return lambda: around(owner, name, **{"after" if after else "before": check})


def half_removed(path: Path) -> None:
    for file in sorted(path.iterdir())[::2]:
        file.unlink()
    die()


def start_second_run(trainer: Any) -> None:
    """Run the same command in a second process while this one still runs, then kill this one."""
    second = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(train_command(sys.argv)))
    second.start()
    second.join()
    print(f"the second run ended with {second.exitcode}", flush=True)
    die()


def nan_image(name: str, first_epoch: int) -> Callable[[], None]:
    """Return a hook that makes the pixels of a training image NaN from an epoch on."""

    def prepare() -> None:
        whole = BatchTrainer._prepare_inputs

        def spoilt(trainer: Any, inputs: dict) -> dict:
            data, prepared = trainer.train_dataset, whole(trainer, inputs)
            if "draws" in inputs and data.epoch >= first_epoch:
                named = [data.examples.names[index].endswith(name) for index in inputs["index"]]
                prepared["pixel_values"][torch.tensor(named)] = torch.nan
            return prepared

        BatchTrainer._prepare_inputs = spoilt

    return prepare


def filled(left: int = 0) -> Callable[[Any], None]:
    """Return a hook that fills the run's disk except for `left` bytes; `emptied` frees it."""

    def fill(inside: Any) -> None:
        run = Path(str(inside.args.output_dir) if hasattr(inside, "args") else inside).absolute()
        disk = next(path for path in (run, *run.parents) if path.is_mount())
        with open(disk / "filler", "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - left)

    return fill


def emptied(run: Path) -> None:
    (run.parent / "filler").unlink()


# ---------- damage


def newest(run: Path) -> Path:
    return max(numbered(run).items())[1]


def truncated(name: str) -> Callable[[Path], None]:
    return lambda run: os.truncate(newest(run) / name, (newest(run) / name).stat().st_size // 2)


def flipped(name: str) -> Callable[[Path], None]:
    def flip(run: Path) -> None:
        data = bytearray((newest(run) / name).read_bytes())
        data[len(data) // 2] ^= 1
        (newest(run) / name).write_bytes(data)

    return flip


def removed(name: str) -> Callable[[Path], None]:
    return lambda run: (newest(run) / name).unlink()


# ---------- the table

WORKERS, ALONE = ("--dataloader_num_workers", 2), ("--dataloader_num_workers", 0)
ACCUMULATED = ("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2)
RANKS = ("--ddp_backend", "gloo", "--per_device_train_batch_size", 2)
BOTH = (*RANKS, "--gradient_accumulation_steps", 2, "--per_device_train_batch_size", 1)
BY_EPOCH = ("--eval_strategy", "epoch", "--logging_strategy", "epoch", "--load_best_model_at_end", "false")
ENDED = 3

KILLS = [
    Fault("killed at step 1", at_step(1), 0),
    Fault("killed at step 6, mid-epoch", at_step(6), 4),
    Fault("killed at step 11, mid-epoch, 2 workers", at_step(11), 10, flags=WORKERS),
    Fault("killed at step 9, 2 workers; none after", at_step(9), 8, flags=WORKERS, again=ALONE),
    Fault("killed at step 7, after an epoch's end", at_step(7, "_get_grad_norm"), 6),
    Fault("killed at step 13, after an epoch's end, 2 workers", at_step(13), 12, flags=WORKERS),
    Fault("killed at step 7; evaluated by epoch, saved by step", at_step(7), 6, flags=BY_EPOCH),
    Fault("killed half-way through step 9, accumulated", at_step(9, times=2), 8, flags=ACCUMULATED),
    Fault("… of step 8, accumulated, 2 workers", at_step(8, times=2), 6, flags=(*ACCUMULATED, *WORKERS)),
    Fault("killed in the evaluation of step 8", at_step(9, "prediction_step"), 6),
    Fault("killed after the last step", lambda: around(recipe, "finish", before=die), 14),
    Fault("rank 1 of 2 killed at step 11", at_step(11), 10, flags=RANKS, processes=2, victim=1),
    Fault("rank 0 of 2 killed at step 7, 2 workers", at_step(7), 6, flags=(*RANKS, *WORKERS), processes=2),
]  # fmt: skip
STREAMED = ("--streaming", "true", "--shuffle_buffer", 5)
LOADED = (*STREAMED, *WORKERS)
KILLS += [
    Fault("killed at step 9, streamed", at_step(9), 8, flags=STREAMED),
    Fault("killed at step 11, streamed, 2 workers; none after", at_step(11), 10, flags=LOADED, again=ALONE),
    Fault("rank 1 of 2 killed at step 11, streamed", at_step(11), 10, flags=(*STREAMED, *RANKS), processes=2, victim=1),
]
TORN = in_save(torch, "save", "rng_state_1.pth")
LAUNCHED = {"flags": RANKS, "processes": 2, "victim": 1, "code": 1, "torchrun": True}
KILLS.append(Fault("rank 1 of 2 killed at step 11, under torchrun", at_step(11), 10, **LAUNCHED))

SAVES = [
    Fault("rank 1 of 2 killed in the save", TORN, 6, flags=RANKS, processes=2, victim=1),
    Fault("killed in the save: after config.json", in_save(ViTCustomConfig, "save_pretrained", after=True), 6),
    Fault("… after model.safetensors", in_save(modeling_utils, "safe_save_file", after=True), 6),
    Fault("… after preprocessor_config.json", in_save(ViTCustomImageProcessor, "save_pretrained", after=True), 6),
    Fault("… after optimizer.pt", in_save(torch, "save", "optimizer.pt", after=True), 6),
    Fault("… after scheduler.pt", in_save(torch, "save", "scheduler.pt", after=True), 6),
    Fault("… after rng_state.pth", in_save(torch, "save", "rng_state.pth", after=True), 6),
    Fault("… after trainer_state.json", in_save(TrainerState, "save_to_json", after=True), 6),
    Fault("… before manifest.json", in_save(checkpoints, "write_json", MANIFEST), 6),
    Fault("… after manifest.json", in_save(checkpoints, "write_json", MANIFEST, after=True), 6),
    Fault("… before the rename", in_save(resuming, "put_in_place"), 6),
    Fault("… after the rename", in_save(os, "rename", after=True), 8),
    Fault("killed in the rotation: before its rename", in_save(os, "rename", "removed-checkpoint-10"), 12),
    Fault("… after its rename", in_save(os, "rename", "removed-checkpoint-10", after=True), 12),
    Fault("… half removed", in_save(shutil, "rmtree", "removed-checkpoint-10", act=half_removed), 12),
]

# In the final save, after the last step: the folder must never hold a record of other weights than those beside it.
MOVED = (os, "replace")
ENDS = [
    Fault("killed in the final save: aside", in_end(modeling_utils, "safe_save_file", "model.safetensors"), 14),
    Fault("… before model.safetensors is moved", in_end(*MOVED, "model.safetensors"), 14),
    Fault("… after model.safetensors is moved", in_end(*MOVED, "model.safetensors", after=True), 14),
    Fault("… after metrics.json", in_end(*MOVED, "metrics.json", after=True), 14),
]

FULL = r"disk full at step 8: [\d,]+ bytes are needed and [\d,]+ are available in "
DISKS = [
    Fault(
        "disk too full before the save", at_step(8, act=filled(10_000)), 6, emptied, code=ENDED, says=FULL, disk=True
    ),
    *(
        Fault(f"disk full before {file}", fatal, 6, emptied, code=ENDED, says=FULL, disk=True)
        for file, fatal in (
            ("model.safetensors", in_save(modeling_utils, "safe_save_file", act=filled())),
            ("optimizer.pt", in_save(torch, "save", "optimizer.pt", act=filled())),
            ("rng_state.pth", in_save(torch, "save", "rng_state.pth", act=filled())),
            ("trainer_state.json", in_save(TrainerState, "save_to_json", act=filled())),
            (MANIFEST, in_save(checkpoints, "write_json", MANIFEST, act=filled())),
        )
    ),
]

STARVED = in_save(torch, "save", "optimizer.pt", act=filled())
ON_DISK = {"code": ENDED, "says": FULL, "disk": True}
DISKS.append(Fault("disk full, 2 ranks", STARVED, 6, emptied, flags=RANKS, processes=2, **ON_DISK))

DAMAGES = [
    Fault("newest: optimizer.pt truncated", at_step(9), 6, truncated("optimizer.pt")),
    Fault("newest: one bit of model.safetensors flipped", at_step(9), 6, flipped("model.safetensors")),
    Fault("newest: manifest.json removed", at_step(9), 6, removed(MANIFEST)),
]

SECOND = r"--output_dir .* is being written by process \d+ on .*\n(.*\n)*the second run ended with 2"
DIVERGED = r"the loss is nan at step 11, on {}: one of the images is at fault"


def nan(*batch: str) -> dict:
    """Return the fields of a fault: image 1/1.png becomes NaN in the second epoch; the error names just the batch."""
    names = ", ".join(f"[^ ]*digits/{name}.png" for name in batch)
    return {"fatal": nan_image("1/1.png", 1), "resumes": 10, "code": ENDED, "says": DIVERGED.format(names)}


OTHERS = [
    Fault("a second run in the folder; the first killed", at_step(9, act=start_second_run), 8, says=SECOND),
    Fault("an image becomes NaN", **nan("1/11", "1/4", "1/3", "1/1")),
    Fault("… accumulated, 2 workers", **nan("1/3", "1/1"), flags=(*ACCUMULATED, *WORKERS)),
    Fault("… accumulated, in rank 1 of 2", **nan("1/1"), flags=BOTH, processes=2, victim=1),
]

FAULTS = [*KILLS, *SAVES, *ENDS, *DISKS, *DAMAGES, *OTHERS]


# ---------- trainings


def _child(
    environment: dict[str, str], output_dir: str, flags: list, prepare: Callable[[], None] | None, victim: int
) -> None:
    rank = environment.get("RANK", "")
    log_to(f"{output_dir}.log{rank}")
    around(
        resuming.ResumingTrainer,
        "begin",
        after=lambda trainer: print(f"begins after step {trainer.state.global_step}", flush=True),
    )
    if prepare is not None and int(rank or 0) == victim:
        prepare()
    sys.argv = command(Path(output_dir), *flags, model=MODEL)
    sys.exit(train_command(sys.argv))


@dataclass
class Lab:
    """Runs trainings below `root`. The expected outcome is computed once for all rows with the same flags."""

    root: Path
    whole: dict[tuple, dict] = field(default_factory=dict)

    def __post_init__(self):
        self.images = write_class_folder(self.root / "digits", {"0": 16, "1": 16})  # 24 train images after the split

    @cached_property
    def shards(self) -> Path:
        return write_shards(self.root / "shards", (8, 8, 8, 8))  # also 24 train images

    def flags(self, more: tuple) -> list:
        images = self.shards if "--streaming" in more else self.images
        return ["--train_dir", images, "--train_val_split", 0.25, *FLAGS, *more]

    def train(
        self, run: Path, *flags: Any, prepare: Callable[[], None] | None = None, processes: int = 1, victim: int = 0
    ) -> list[int]:
        """Run a training; return the exit codes of its processes. `prepare` is called first in process `victim`."""
        return fork(_child, places(processes), str(run), self.flags(flags), prepare, victim)

    def torchrun(self, run: Path, *flags: Any, prepare: str = "", processes: int = 2, victim: int = 0) -> list[int]:
        """Run a training by torchrun, as `train` does; `prepare` is the name of a fault."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        arguments = [run, prepare, victim, *self.flags(flags)]
        done = subprocess.run([*launcher, __file__, "--child", *map(str, arguments)], capture_output=True, timeout=500)
        return [done.returncode] * processes

    def expected(self, flags: tuple, processes: int) -> dict:
        if (flags, processes) not in self.whole:
            run = self.root / f"whole-{len(self.whole)}"
            assert self.train(run, *flags, processes=processes) == [0] * processes, log_of(run)[-3000:]
            self.whole[flags, processes] = outcome(run)
        return self.whole[flags, processes]

    def try_fault(self, fault: Fault) -> tuple[int, list[str]]:
        """Return the step from which the second run resumed, and the parts that differ from an undisturbed run."""
        place = Path(tempfile.mkdtemp(dir=self.root))
        with small_disk(place) if fault.disk else nullcontext():
            return self._try(fault, place / "run")

    def _try(self, fault: Fault, run: Path) -> tuple[int, list[str]]:
        train = self.torchrun if fault.torchrun else self.train
        prepare: Any = fault.name if fault.torchrun else fault.fatal
        codes = train(run, *fault.flags, prepare=prepare, processes=fault.processes, victim=fault.victim)
        assert codes[fault.victim] == fault.code and all(codes), (codes, log_of(run)[-3000:])
        assert re.search(fault.says, log_of(run)), log_of(run)[-3000:]
        refuse_claims(run)
        fault.spoil(run)
        codes = train(run, *fault.flags, *fault.again, processes=fault.processes)
        assert codes == [0] * fault.processes, log_of(run)[-3000:]
        assert not (run / UNFINISHED).exists() and not (run / ".lock").exists()
        begins = [line for line in log_of(run).splitlines() if line.startswith("begins after step")]
        got, expected = outcome(run), self.expected(fault.flags, fault.processes)
        return int(begins[0].split()[-1]), [name for name in expected if got[name] != expected[name]]


def refuse_claims(run: Path) -> None:
    """Check that the records of an interrupted run are refused as those of a run that has not ended."""
    try:
        check_claims(run)
    except ClaimError as error:
        assert "has not ended" in str(error), error
    else:
        raise AssertionError(f"{run} was cut off and its records are believed")


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a file system of 8 MiB; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def log_of(run: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted(run.parent.glob(f"{run.name}.log*")))


def outcome(run: Path) -> dict[str, Any]:
    """Return everything a training produced, for comparison bit for bit, without times and folder names."""
    last = newest(run)
    state = json.loads((last / "trainer_state.json").read_text())
    states = {path.name: torch.load(path, weights_only=False) for path in last.glob("*.p*t*")}
    assert check_claims(run)[1] == [], "every record names the weights beside it"
    return {
        "checkpoints": sorted(numbered(run)),
        "model": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "weights": hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest(),
        "optimizer": digest(states["optimizer.pt"]),
        "schedule": states["scheduler.pt"],
        "random numbers": digest([states[name] for name in sorted(states) if name.startswith("rng")]),
        "logs": list(untimed(state["log_history"])),
        "state": {name: state[name] for name in ("best_metric", "best_global_step", "epoch", "global_step")},
        "metrics": next(untimed([json.loads((run / "metrics.json").read_text())])),
    }


def untimed(entries: list[dict]) -> Iterator[dict]:
    for entry in entries:
        yield {
            name: next(untimed([value])) if isinstance(value, dict) else value
            for name, value in entry.items()
            if not name.endswith(TIMES)
        }


def digest(value: Any) -> str:
    if torch.is_tensor(value):
        return hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return digest([[digest(name), digest(item)] for name, item in value.items()])
    if isinstance(value, list | tuple):
        return hashlib.sha256("".join(digest(item) for item in value).encode()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def main(*names: str) -> int:
    """Try the faults of these names, or all; return how many did not have the expected outcome."""
    print("| fault | resumed from step | equal to an undisturbed run, bit for bit |\n| - | - | - |")
    wrong = 0
    with ExitStack() as stack:
        lab = Lab(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for fault in FAULTS:
            if not names or fault.name in names:
                step, differences = lab.try_fault(fault)
                wrong += bool(differences) or step != fault.resumes
                expected = "" if step == fault.resumes else f" instead of {fault.resumes}"
                equal = f"no: {', '.join(differences)}" if differences else "yes"
                print(f"| {fault.name} | {step}{expected} | {equal} |", flush=True)
    return wrong


def child(run: str, name: str, victim: str, *flags: str) -> None:
    """Run one process of torchrun."""
    fatal = {fault.name: fault.fatal for fault in FAULTS}.get(name)
    _child({"RANK": os.environ["RANK"]}, run, list(flags), fatal, int(victim))


if __name__ == "__main__":
    sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main(*sys.argv[1:]))
