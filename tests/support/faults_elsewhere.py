"""Kills of other commands than plain training, and of trainings in the code they do not share with it; see `faults`.

`python tests/support/faults_elsewhere.py` prints the table as Markdown. Each row is a real SIGKILL. The output must
then
be whole, absent or refused by name, and the same command must succeed afterwards.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from faults import FLAGS, MODEL, around, at_step, die, in_save, log_of, outcome
from frozen import FROZEN, inside, write_digits
from ranks import fork, log_to, places
from real_digits import write_class_folder, write_shards
from safetensors.torch import load_file
from tiny_training import QUICK
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, modeling_utils

from modeling_vit_custom.cli import main as vit_custom
from modeling_vit_custom.conversion import convert, export_timm
from modeling_vit_custom.conversion import export as convert_to
from modeling_vit_custom.explanation.resume import UnfinishedFiles
from modeling_vit_custom.features import index_build, map_page
from modeling_vit_custom.features.journal import Journal
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.reporting import page
from modeling_vit_custom.speed import export, table
from modeling_vit_custom.training.objectives import distillation
from modeling_vit_custom.training.runs import finishing
from modeling_vit_custom.training.trainer import ema_lora as weights
from modeling_vit_custom.training.trainer import resuming
from modeling_vit_custom.training.trainer.batches import BatchTrainer

PLAIN = str(FROZEN / "models" / "plain")

# ---------- trainings: LoRA's merge, pre-training, the teacher's cache

LORA = ("train", "--method", "lora", "--model_name_or_path", PLAIN, "--lora_rank", "2", "--lora_dropout", "0.1")
PRETRAIN = ("pretrain", *MODEL)
TAUGHT = ("train", *MODEL, "--teacher", PLAIN)


@dataclass(frozen=True)
class Killed:
    """A training that is killed, and resumes from step `resumes`. torn: until then its folder must be refused."""

    name: str
    command: tuple[str, ...]
    fatal: Callable[[], None]
    resumes: int
    torn: bool = False


def at_the_end(torn: bool) -> Callable[[], None]:
    """Return a hook that kills once half of the final weights, or all of them, are in the run's own folder."""

    def check(_: Any, path: Any, *__: Any, **___: Any) -> None:
        if not re.search("checkpoint-", str(path)):
            if torn:
                os.truncate(path, Path(path).stat().st_size // 2)
            die()

    return lambda: around(modeling_utils, "safe_save_file", after=check)


def after_step_8(trainer: Any) -> None:
    if trainer.state.global_step == 8:
        die()


def of_cache(when: str) -> Callable[[], None]:
    """Return a hook that kills while the teacher's logits are cached: after half the batches, or around the rename."""

    def prepare() -> None:
        distillation.BATCH = 8
        batches = [0]

        def count(*_: Any, **__: Any) -> None:
            batches[0] += 1
            if batches[0] == 3:  # the first batch is that of validation
                die()

        def renamed(_: Any, target: Any, *__: Any) -> None:
            if Path(target).name.startswith("teacher-"):
                die()

        if when == "half":
            around(distillation, "_of_all_sizes", after=count)
        else:
            around(Path, "rename", **{when: renamed})

    return prepare


WEIGHTS = in_save(modeling_utils, "safe_save_file", after=True)
MEASURED = partial(around, BatchTrainer, "prediction_step", before=lambda *args, **_: after_step_8(args[0]))
PICTURES = partial(around, finishing, "reconstructions", before=die)
TRAININGS = [
    Killed("LoRA: killed at step 9", LORA, at_step(9), 8),
    Killed("LoRA: after a checkpoint's merged weights", LORA, WEIGHTS, 6),
    Killed("LoRA: before a checkpoint's adapters", LORA, in_save(weights, "save_file"), 6),
    Killed("LoRA: after a checkpoint's adapters", LORA, in_save(weights, "save_file", after=True), 6),
    Killed("LoRA: half of the merged weights at the end", LORA, at_the_end(torn=True), 14, torn=True),
    Killed("LoRA: after the merged weights at the end", LORA, at_the_end(torn=False), 14),
    Killed("pre-training: killed at step 9", PRETRAIN, at_step(9), 8),
    Killed("pre-training: after a checkpoint's weights", PRETRAIN, WEIGHTS, 6),
    Killed("pre-training: in an evaluation", PRETRAIN, MEASURED, 6),
    Killed("pre-training: half of the weights at the end", PRETRAIN, at_the_end(torn=True), 14, torn=True),
    Killed("pre-training: before its pictures", PRETRAIN, PICTURES, 14),
    Killed("teacher's logits: half kept", TAUGHT, of_cache("half"), 0),
    Killed("teacher's logits: before the rename", TAUGHT, of_cache("before"), 0),
    Killed("teacher's logits: after the rename", TAUGHT, of_cache("after"), 0),
    Killed("taught: killed at step 9", TAUGHT, at_step(9), 8),
]  # fmt: skip


def _train(environment: dict, log: Path, command: list[str], prepare: Callable[[], None] | None) -> None:
    log_to(f"{log}{environment.get('RANK', '')}")
    started = "begins after step"
    around(resuming.ResumingTrainer, "begin", after=lambda self: print(started, self.state.global_step, flush=True))
    distillation.BATCH = 8
    if prepare is not None and environment.get("RANK", "0") == "0":
        prepare()
    sys.exit(vit_custom(command))


class Trainings:
    """Runs trainings below `root`. The expected outcome of a command is computed once."""

    def __init__(self, root: Path):
        self.root, self.whole = root, {}
        self.images = write_class_folder(root / "digits", {"0": 16, "1": 16})

    @cached_property
    def shards(self) -> Path:
        return write_shards(self.root / "shards", (8, 8, 8, 8))

    def run(
        self, run: Path, command: tuple, prepare: Callable[[], None] | None = None, processes: int = 1
    ) -> list[int]:
        os.environ["VIT_CUSTOM_CACHE"] = str(run.parent / "cache")
        name, *flags = command
        data = self.shards if "--streaming" in flags else self.images
        words = [name, "--output_dir", run, *QUICK, "--train_dir", data, "--train_val_split", 0.25, *FLAGS, *flags]
        return fork(_train, places(processes), Path(f"{run}.log"), [str(word) for word in words], prepare)

    def place(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.root)) / "run"

    def expected(self, command: tuple) -> dict:
        if command not in self.whole:
            run = self.place()
            assert self.run(run, command) == [0], log_of(run)[-3000:]
            self.whole[command] = outcome(run)
        return self.whole[command]

    def try_out(self, killed: Killed) -> str:
        """Return the differences from the expected outcome as text, empty if there are none."""
        run = self.place()
        assert self.run(run, killed.command, killed.fatal) == [-9], log_of(run)[-3000:]
        if killed.torn:
            assert refused(run, self.images), "half the weights are read"
        assert self.run(run, killed.command) == [0], log_of(run)[-3000:]
        begun = int(re.findall(r"begins after step (\d+)", log_of(run))[0])
        got, wanted = outcome(run), self.expected(killed.command)
        differs = [name for name in wanted if got[name] != wanted[name]]
        return ", ".join([*differs, *[f"resumed from {begun}"] * (begun != killed.resumes)])


def refused(model: Path, images: Path) -> bool:
    """Return whether `predict` exits with code 2 on the model: with a message, without a traceback."""
    return fork(_predict, [{}], model, images, tempfile.mktemp(dir=model.parent)) == [2]


def _predict(environment: dict, model: Path, images: Path, output: str) -> None:
    log_to(f"{output}.log")
    sys.exit(vit_custom(["predict", str(images), "--model", str(model), "--output", output]))


# ---------- another number of processes

STILL = (
    "--drop_path_rate", "0", "--adam_epsilon", "1e-4", "--learning_rate", "3e-3",
    "--load_best_model_at_end", "false",
    "--config_overrides", MODEL[-1] + ",hidden_dropout_prob=0,attention_probs_dropout_prob=0",
)  # fmt: skip
BATCHES = ("--per_device_train_batch_size", "{}")
SUMMED = ("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "{}")
STREAM = ("--streaming", "true", "--shuffle_buffer", "5")
RESIZED = {
    f"{before} to {after}, {name}": (before, after, flags)
    for before, after in ((2, 1), (1, 2))
    for name, flags in {"plain": BATCHES, "accumulated": SUMMED, "streamed": (*BATCHES, *STREAM)}.items()
}


def try_resized(trainings: Trainings, name: str) -> str:
    """Kill at step 9, resume with another number of processes; compare with the weights of an undisturbed run."""
    before, after, flags = RESIZED[name]

    def command(processes: int) -> tuple:
        together = ("--ddp_backend", "gloo") if processes > 1 else ()
        return ("train", *MODEL, *STILL, *together, *(flag.format(4 // processes) for flag in flags))

    run, whole = trainings.place(), trainings.place()
    codes = trainings.run(run, command(before), at_step(9, times=1), before)
    assert codes[0] == -9 and all(codes), log_of(run)[-3000:]
    assert trainings.run(run, command(after), processes=after) == [0] * after, log_of(run)[-3000:]
    said = f"is of {before} process.es., now there are {after}"
    assert re.search(said, log_of(run)) and "begins after step 8" in log_of(run), log_of(run)[-3000:]
    assert trainings.run(whole, command(1)) == [0], log_of(whole)[-3000:]
    got, wanted = (load_file(folder / "model.safetensors") for folder in (run, whole))
    apart = max(float((got[key] - wanted[key]).abs().max()) for key in wanted)
    return "" if apart < 1e-5 else f"weights off by {apart:.1e}"


# ---------- other commands

WHOLE, ABSENT, REFUSED = "whole", "absent", "refused"


@dataclass(frozen=True)
class Command:
    """A command that is killed at each of `moments` in turn, then run to the end. leaves: state of `output` after each
    kill."""

    name: str
    argv: tuple[str, ...]
    output: str
    moments: tuple[Callable[[], None], ...]
    leaves: str
    needs: tuple[str, ...] = ()


def torn_text(name: str) -> Callable[[], None]:
    """Return a hook that kills in Path.write_bytes of a file of this name and leaves it empty, as the system may."""

    def check(path: Path, *_: Any, **__: Any) -> None:
        if path.name.startswith(name):
            path.touch()
            die()

    return lambda: around(Path, "write_bytes", before=check)


def torn_tensors() -> None:
    """Kill in the middle of writing a file of tensors."""

    def check(_: Any, path: Any, *__: Any, **___: Any) -> None:
        os.truncate(path, 100)
        die()

    around(export_timm, "save_file", after=check)


SAVED = partial(around, modeling_utils, "safe_save_file", after=die)
PROCESSED = partial(around, ViTCustomImageProcessor, "save_pretrained", after=die)
EXPORT = ("export", "--model", "plain", "--output", "new", "--format", "torch_export")
SPEEDS = ("speed_table", "--model", "speeds", "--data_dir", "digits", "--seconds", "0.01", "--token_merging", "1.5x",
          "--sizes", "--formats")  # fmt: skip
COMMANDS = [
    Command(
        "convert", ("convert", "vit", "new"), "new",
        (SAVED, PROCESSED, lambda: around(convert, "write_stamped", before=die)), ABSENT, ("conversion.json",),
    ),
    Command("convert, into an empty folder", ("convert", "vit", "empty"), "empty", (SAVED, PROCESSED), REFUSED,
            ("conversion.json",)),
    Command(
        "convert --to hf", ("convert", "plain", "new", "--to", "hf"), "new",
        (SAVED, lambda: around(convert_to, "write_stamped", before=die)), ABSENT, ("conversion.json",),
    ),
    Command(
        "convert --to timm, a file", ("convert", "plain", "new.safetensors", "--to", "timm"), "new.safetensors",
        (torn_tensors,), ABSENT,
    ),
    Command(
        "speed_table", SPEEDS, "speeds",
        (
            lambda: around(table, "write_json", before=die), lambda: around(table, "plot_speeds", before=die),
            lambda: around(table, "plot_speeds", after=die), lambda: around(table, "write_section", before=die),
            lambda: around(table, "write_stamped", before=die),
            torn_text("speeds.json"), torn_text("config.json"), torn_text("README.md"),
        ),
        WHOLE, ("speeds.json", "speeds.png"),
    ),
    Command(
        "export", EXPORT, "new",
        (
            lambda: around(export, "write", after=die), lambda: around(export, "rates", before=die), PROCESSED,
            lambda: around(export, "write_json", after=die),
        ),
        ABSENT, ("export.json", "model.pt2"),
    ),
    Command(
        "index", ("index", "--model", "plain", "--data", "digits", "--output", "new", "--batch_size", "8"), "new",
        (
            lambda: around(Journal, "add", after=die), lambda: around(Journal, "add", before=die),
            lambda: around(index_build, "write_json", before=die), lambda: around(index_build, "write_json", after=die),
        ),
        ABSENT, ("index.json", "images.jsonl", "vectors.npy"),
    ),
    Command(
        "map", ("map", "--model", "plain", "--data", "digits", "--output", "new/map.html"), "new",
        (lambda: around(map_page, "_sheets", after=die), lambda: around(page, "write_page", before=die)),
        ABSENT, ("map.html",),
    ),
    Command(
        "explain", ("explain", "--model", "plain", "--output", "new", "--check", "off", "--batch_size", "4", "digits"),
        "new",
        (
            lambda: around(UnfinishedFiles, "add", after=die), lambda: around(UnfinishedFiles, "_keep", after=die),
            lambda: around(UnfinishedFiles, "finish", before=die),
        ),
        REFUSED, ("explanations.jsonl",),
    ),
]  # fmt: skip
CARD = "# A model\n\nWhat its maker wrote.\n"


def prepared(folder: Path) -> Path:
    """Fill a folder: digits, two models of ours (one with a card), a model of transformers, an empty folder."""
    write_digits(folder)
    for name in ("plain", "speeds"):
        shutil.copytree(FROZEN / "models" / name, folder / name)
    (folder / "speeds" / "README.md").write_text(CARD)
    (folder / "empty").mkdir()
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8,
                       patch_size=4, num_channels=1)  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder / "vit")
    return folder


def _run(environment: dict, argv: tuple[str, ...], prepare: Callable[[], None] | None) -> None:
    log_to("log")
    if prepare is not None:
        prepare()
    sys.exit(vit_custom(list(argv)))


def left(folder: Path, images: Path) -> str:
    if not folder.exists():
        return ABSENT
    return REFUSED if refused(folder, images) else WHOLE


def try_command(root: Path, command: Command) -> str:
    """Return the differences from the expected outcome as text, empty if there are none."""
    place, wrong = prepared(Path(tempfile.mkdtemp(dir=root))), []
    with inside(place):
        for number, moment in enumerate(command.moments):
            assert fork(_run, [{}], command.argv, moment) == [-9], Path("log").read_text()[-3000:]
            if (found := left(Path(command.output), Path("digits"))) != command.leaves:
                wrong.append(f"moment {number}: {found}")
            if (card := Path(command.output, "README.md")).exists() and not card.read_text().startswith(CARD[:-1]):
                wrong.append(f"moment {number}: the card is torn")
        assert fork(_run, [{}], command.argv, None) == [0], Path("log").read_text()[-3000:]
        wrong += [f"no {name}" for name in command.needs if not Path(command.output, name).is_file()]
    return ", ".join(wrong)


def main(*names: str) -> int:
    """Try the rows of these names, or all; return how many did not have the expected outcome."""
    print("| fault | went as it should |\n| - | - |")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        trainings = Trainings(root)
        rows: dict[str, Callable[[], str]] = {
            **{killed.name: partial(trainings.try_out, killed) for killed in TRAININGS},
            **{name: partial(try_resized, trainings, name) for name in RESIZED},
            **{command.name: partial(try_command, root, command) for command in COMMANDS},
        }
        wrong = 0
        for name, try_out in rows.items():
            if not names or name in names:
                try:
                    said = try_out()
                except AssertionError as error:
                    said = " ".join(str(error).split())[-1000:]
                wrong += bool(said)
                print(f"| {name} | {f'no: {said}' if said else 'yes'} |", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
