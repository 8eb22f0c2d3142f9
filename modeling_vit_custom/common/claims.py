"""Records that name their weights: a file that says what a model did is trusted only for the weights it names.

A JSON record holds `"weights": {"sha256": …}`. For model.safetensors this is what `sha256sum` prints, for several
shards what `sha256sum model-*.safetensors | sha256sum` prints. It is null while a training has not ended, because its
weights are not written yet. A record of an earlier version has no such key. Files that cannot name weights themselves,
such as pictures, are named by the record that is written with them: `"files": {name: SHA-256}`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from .json_files import write_json
from .model_files import (
    CARD,
    CONFIG,
    CONFUSION_PICTURE,
    CONVERSION,
    CONVERTED_FOLDERS,
    EXPLANATION,
    EXPORT,
    GOLDEN,
    INDEX_IMAGES,
    INDEX_RECORD,
    INDEX_VECTORS,
    METRICS,
    RECIPE_FILE,
    RECONSTRUCTION_PICTURE,
    RUN_FILE,
    SHARDS,
    SPEEDS,
    SPEEDS_PICTURE,
    TRAINING_PICTURE,
    WEIGHTS,
    WEIGHTS_INDEX,
)

STAMP, FILES = "weights", "files"
BEFORE = "before_conversion"  # the weights of ours of which a folder for another library was made
# Record: the files that it may name, and the fix if it names other weights than those beside it.
RECORDS: dict[str, tuple[tuple[str, ...], str]] = {
    METRICS: (
        (TRAINING_PICTURE, CONFUSION_PICTURE, RECONSTRUCTION_PICTURE),
        "remove it and its pictures, and measure these weights with `vit-custom evaluate`",
    ),
    RUN_FILE: ((RECIPE_FILE,), "remove it: it tells of another training"),
    CONVERSION: ((), "remove it, or convert again into a new folder"),
    SPEEDS: ((SPEEDS_PICTURE,), "remove it, and measure these weights with `vit-custom speed_table`"),
    EXPLANATION: ((), "remove it, and measure these weights with `choose_method`"),
    GOLDEN: ((), "remove it: `vit-custom publish` writes a new one"),
    INDEX_RECORD: ((INDEX_IMAGES, INDEX_VECTORS), "remove image_index/: it holds vectors of another model"),
}
_IN_CARD = re.compile(r"weights with SHA-256 `([0-9a-f]{64})`")


class ClaimError(ValueError):
    """A record names other weights than those beside it; the message names it, both digests and the fix."""


# ---------- which weights


def sha256_of(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: str | os.PathLike) -> str | None:
    """Return the SHA-256 of a folder's weights (see this module's docstring), or None without a safetensors file."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return sha256_of(folder / WEIGHTS)
    shards = sorted(folder.glob(SHARDS))
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in shards]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def digest_of(source: str, revision: str | None = None) -> str | None:
    """Return the SHA-256 of a model's weights, or None if no safetensors file is at hand.

    source: the model's folder, an export's folder (which has a file in place of weights) or a Hub id, looked up in the
    cache.
    """
    folder = Path(source).expanduser()
    if (folder / EXPORT).is_file():
        return read_record(folder / EXPORT)["sha256"]
    if not folder.is_dir():
        config = try_to_load_from_cache(source, CONFIG, revision=revision)
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    return weights_digest(folder)


def stamped(record: Mapping[str, Any], folder: str | os.PathLike, files: Iterable[str] = ()) -> dict[str, Any]:
    """Return `record` with the digests of the weights in `folder` and of those `files` that lie there."""
    folder, digest = Path(folder), weights_digest(folder)
    named = {name: sha256_of(folder / name) for name in files if (folder / name).is_file()}
    return {**record, STAMP: digest and {"sha256": digest}, **({FILES: named} if named else {})}


def read_record(path: Path) -> dict[str, Any]:
    """Return what a record of this package holds; {} if there is none, or none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def unfinished(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `record` marked as that of a training whose weights are not written yet."""
    return {**record, STAMP: None}


def named_weights(record: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 that a record names, or None. Raises ClaimError for a stamp of another form."""
    stamp = record.get(STAMP)
    if stamp is None:
        return None
    if not isinstance(stamp, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(stamp.get("sha256"))):
        raise ClaimError(f"{STAMP} must be null or hold a SHA-256, not {str(stamp)[:80]!r}")
    return stamp["sha256"]


def card_line(digest: str) -> str:
    """Return the sentence of a model card that `check_claims` reads."""
    return f"The figures and outputs above are of the weights with SHA-256 `{digest}`."


# ---------- checks


def check_claims(
    folder: str | os.PathLike, names: Iterable[str] = (*RECORDS, CARD), given: Mapping[str, Any] | None = None
) -> tuple[list[str], list[str]]:
    """Check the records in `folder` against its weights; return (records that name them, records that name none).

    The latter are of an earlier version.   given: records by name, used in place of the files.
    Raises ClaimError for a record of other weights, of a training that has not ended, or with another picture.
    """
    folder, given, digest = Path(folder), given or {}, weights_digest(folder)
    held, unnamed = [], []
    for name in names:
        if name not in given and not (folder / name).is_file():
            continue
        if name == CARD:
            found = _IN_CARD.search((folder / CARD).read_text(encoding="utf-8", errors="replace"))
            record: Any = {STAMP: {"sha256": found[1]}} if found else {}
        else:
            record = given.get(name) if name in given else json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ClaimError(f"{name} holds no record. Remove it.")
        if STAMP in record:
            _check_record(folder, name, record, digest)
            held.append(name)
        else:
            unnamed.append(name)
    if CARD in names and read_record(folder / CONFIG).get("speeds") and not (folder / SPEEDS).is_file():
        unnamed.append("speeds of config.json")
    return held, unnamed


def _check_record(folder: Path, name: str, record: Mapping[str, Any], digest: str | None) -> None:
    files, fix = RECORDS.get(name, ((), "write it again"))
    try:
        named = named_weights(record)
    except ClaimError as error:
        raise ClaimError(f"{name}: {error}. Remove it.") from error
    if named is None:
        raise ClaimError(
            f"{name} is of a training that has not ended, not of the weights beside it: run the same command again, "
            f"which goes on, or remove {name}."
        )
    if named != digest:
        beside = f"those beside it have {digest[:12]}…" if digest else "there are none beside it"
        raise ClaimError(f"{name} is of weights with SHA-256 {named[:12]}…, {beside}: put its weights back, or {fix}.")
    noted = record.get(FILES) or {}
    for file in files:
        if (folder / file).is_file() and noted.get(file) != sha256_of(folder / file):
            raise ClaimError(f"{file} is not the one that {name} was written with: remove it.")


# ---------- other weights


def retire_claims(folder: str | os.PathLike) -> None:
    """Remove the records of the weights in `folder`, and their pictures, before other weights take their place.

    Remove what was converted from these weights for another library, too.
    Records of the training that brings the new weights stay: their stamp is null.
    """
    folder = Path(folder)
    for name, (files, _) in RECORDS.items():
        if read_record(folder / name).get(STAMP, "") is None:
            continue
        for each in (*files, name):
            (folder / each).unlink(missing_ok=True)
    for name in CONVERTED_FOLDERS:
        if BEFORE in read_record(folder / name / CONVERSION):
            shutil.rmtree(folder / name)


def put_model(saved: Path, folder: Path) -> None:
    """Move the files of a saved model from `saved` into `folder`, on the same disk.

    If the process is killed at any moment, `folder` holds the old model with its records, no weights at all, or the new
    weights with no record of the old ones.
    """
    if weights_digest(saved) != weights_digest(folder):
        retire_claims(folder)
        for path in (folder / WEIGHTS_INDEX, folder / WEIGHTS, *folder.glob(SHARDS)):
            path.unlink(missing_ok=True)
    for path in sorted(saved.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        os.replace(path, folder / path.name)
    saved.rmdir()


def write_stamped(path: Path, record: Mapping[str, Any], files: Iterable[str] = ()) -> dict[str, Any]:
    """Write a record that names the weights beside it; return what it holds."""
    record = stamped(record, path.parent, files)
    write_json(path, record)
    return record
