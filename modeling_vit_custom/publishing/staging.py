"""Staging: files that may be published are copied into a clean folder by an allow-list, never by oversight."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ..common.json_files import read_json
from ..common.model_files import (
    CARD,
    CONFUSION_PICTURE,
    CONVERSION,
    EXPLANATION,
    GOLDEN,
    IMAGES,
    METRICS,
    REPORT_PAGE,
    RUN_FILE,
    SPEEDS,
    SPEEDS_PICTURE,
    TRAIN_LOG,
    TRAINER_STATE,
    TRAINING_PICTURE,
    WEIGHTS,
    WEIGHTS_INDEX,
)
from ..common.outputs import check_new_folder
from ..weight_files_vit_custom import check_weight_map
from .code_files import SHIPPED, VERSION, foreign_code, reached_modules, read_configs
from .forms import form_in

# Published if present, in addition to the weights and the reached modules.
OPTIONAL = (
    METRICS, RUN_FILE, CONVERSION, TRAINING_PICTURE, CONFUSION_PICTURE, GOLDEN,
    SPEEDS, SPEEDS_PICTURE, EXPLANATION, "examples/*.png", "examples/[0-9].npy", CARD, "LICENSE",
)  # fmt: skip
GIT_ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz", "*.h5", "*.msgpack")
# Reasons why a file or folder is left out; the first pattern that matches its name counts.
REASONS = (
    (("checkpoint-*", "runs"), "state of the training"),
    ((REPORT_PAGE,), "may show private images"),
    ((IMAGES, TRAIN_LOG), "says which files of this machine were trained on"),
    ((".*",), "hidden"),
    (PICKLES, "not safetensors: reading it can run code"),
    ((TRAINER_STATE, "optimizer*", "scheduler*", "rng_state*"), "state of the training"),
    (("*.safetensors",), "not the weights that would be loaded"),
    (("*.py",), "no entry of auto_map or custom_pipelines leads to it"),
    (("*",), "not among the files that are published"),
)


class StagingError(ValueError):
    """The folder cannot be published as it is; the message names the file and the fix."""


@dataclass
class Plan:
    """copied: names relative to the model's folder.   left_out: name -> reason.   notes: other things to report."""

    copied: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stage(model_dir: Path, staging_dir: Path, say: Callable[[str], None] = print) -> list[str]:
    """Copy the files that may be published into the empty or new `staging_dir`; report what is left out and why.

    Returns the sorted relative names of the files there, including the .gitattributes written here. Raises
    StagingError, before anything is copied, if a needed file is missing, is a link, or is not what its name says.
    """
    model_dir, staging_dir = Path(model_dir), Path(staging_dir)
    check_new_folder(staging_dir, StagingError)
    plan = plan_staging(model_dir)
    for name in plan.copied:
        (staging_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model_dir / name, staging_dir / name, follow_symlinks=False)
    (staging_dir / ".gitattributes").write_text(GIT_ATTRIBUTES, encoding="utf-8")
    for note in plan.notes:
        say(note)
    for name, reason in plan.left_out.items():
        say(f"left out: {name} ({reason})")
    return sorted([*plan.copied, ".gitattributes"])


def plan_staging(model_dir: Path) -> Plan:
    """Return what `stage` would copy and leave out. Raises StagingError."""
    if not model_dir.is_dir():
        raise StagingError(f"{model_dir} is not a folder: give one that training or save_pretrained made.")
    try:
        return _plan(model_dir)
    except StagingError:
        raise
    except OSError as error:
        raise StagingError(f"{error.filename}: {error.strerror}.") from error
    except ValueError as error:
        raise StagingError(f"{model_dir.name}: {error}") from error


def _plan(model_dir: Path) -> Plan:
    configs = form_in(model_dir).configs
    missing = [name for name in configs if not (model_dir / name).is_file()]
    if missing:
        raise StagingError(f"{model_dir} has no {' and no '.join(missing)}: save model and processor there.")
    modules = reached_modules(model_dir, *read_configs(model_dir))
    wanted = [*configs, *weight_files(model_dir), *modules, *OPTIONAL]
    plan = Plan()
    for path in _entries(model_dir):
        name = path.relative_to(model_dir).as_posix()
        listed = any(fnmatchcase(name, pattern) for pattern in wanted) and not path.name.startswith(".")
        if listed and path.is_symlink():
            raise StagingError(f"{name} is a link: put the file itself there (cp -rL copies a folder so).")
        if listed and path.is_file():
            plan.copied.append(name)
        else:
            plan.left_out[name + "/" * path.is_dir()] = "a link" if path.is_symlink() else _reason(path.name)
    for name in plan.copied:
        if name.endswith(".json"):
            read_json(model_dir / name)
    for name in sorted(set(modules).intersection(foreign_code(model_dir))):
        kind = "differs from that of" if (SHIPPED / name).is_file() else "is no module of"
        plan.notes.append(f"customised code: {name} {kind} {VERSION}; who loads this model runs it")
    return plan


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weights that transformers loads: model.safetensors, or an index and its shards.

    Raises ValueError if there are none, if a shard named by the index is missing, and if both forms are there.
    """
    if (folder / WEIGHTS).is_file() and (folder / WEIGHTS_INDEX).is_file():
        raise ValueError(
            f"{WEIGHTS} and {WEIGHTS_INDEX} are both there: transformers loads the first, which may be an older model. "
            "Remove one of the two."
        )
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise ValueError(f"there is no {WEIGHTS}: save the model as safetensors, which is save_pretrained's default.")
    shards = sorted(set(read_index(folder).values()))
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise ValueError(f"{WEIGHTS_INDEX} names {missing[0]}, which is not in the folder: save the model again.")
    return [WEIGHTS_INDEX, *shards]


def read_index(folder: Path) -> dict[str, str]:
    """Return {tensor name: shard} of model.safetensors.index.json.

    Raises ValueError for names that cannot be shards.
    """
    weight_map = read_json(folder / WEIGHTS_INDEX).get("weight_map")
    check_weight_map(weight_map, WEIGHTS_INDEX)
    return weight_map  # type: ignore[return-value]


def _entries(model_dir: Path) -> Iterator[Path]:
    """Everything directly in the folder and in its examples/, sorted; any other folder is one entry."""
    for path in sorted(model_dir.iterdir()):
        if path.name == "examples" and path.is_dir() and not path.is_symlink():
            yield from sorted(path.iterdir())
        else:
            yield path


def is_pickle(name: str) -> bool:
    """Return whether a file's name marks a format that can run code when read, or one that is not published here.

    The .npy files of the example images do not count: the image decoder never unpickles.
    """
    return not fnmatchcase(name, "examples/[0-9].npy") and any(
        fnmatchcase(name.rpartition("/")[2].lower(), pattern) for pattern in PICKLES
    )


def _reason(name: str) -> str:
    return next(reason for patterns, reason in REASONS if any(fnmatchcase(name, pattern) for pattern in patterns))
