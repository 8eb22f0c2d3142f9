"""Check that a resumed training has the images it began with; a file in its folder records their identities."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UsageError
from ...common.model_files import IMAGES
from ...common.processes import Processes
from ...common.text import visible
from ...data.examples import Examples, Splits
from ...data.identity import changed, identify, read_identities, write_identities
from ...data.stream import stream_of
from ...weight_files_vit_custom import shorten_list

logger = logging.getLogger(__name__)


def check_images(
    output_dir: str | Path, splits: Splits, run: str | Path | None, processes: Processes, record: bool = True
) -> None:
    """Compare the images with those recorded in folder `run`, the run that is resumed (None: none), and record them.

    The first process looks, for all of them. Raises UsageError where images of training or validation have changed.
    Only warns for the test set, which is measured once, at the end, and where `run` is not the output folder.
    record: whether to write the identities into the output folder.
    """
    run = None if run is None else Path(run)
    processes.from_first(lambda: _check(Path(output_dir), splits, run, record))


def _check(output_dir: Path, splits: Splits, folder: Path | None, record: bool) -> None:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    units = {split: _files(examples) for split, examples in parts.items() if examples is not None}
    now = {split: identify(sources) for split, (sources, _) in units.items()}
    if folder is not None:
        before = read_identities(folder / IMAGES)
        if before is None:
            logger.warning(f"{folder} has no {IMAGES} (an earlier version wrote none): its images are not compared")
        for split, identity in (before or {}).items():
            if split in now and len(identity) == len(now[split]):  # the settings decide if another set is allowed
                found = _difference(split, identity, now[split], units[split][1], folder)
                if found is not None and split != "test" and folder.resolve() == output_dir.resolve():
                    raise UsageError(
                        f"{found}. Put back what was there, name another --output_dir, or pass "
                        "--resume_from_checkpoint false to train again in this one."
                    )
                if found is not None:
                    logger.warning(f"{found}. What is there now is used")
    if record:
        write_identities(output_dir / IMAGES, now)


def _difference(split: str, before: np.ndarray, now: np.ndarray, names: Sequence[str], folder: Path) -> str | None:
    """A sentence on the files that have changed; None if there are none."""
    which, touched = changed(before, now)
    if touched:
        logger.warning(f"{split}: {touched:,} files have another time of change than before, and the same content")
    if not which:
        return None
    shown = shorten_list([visible(names[i]) for i in which], 3)
    return f"{len(which):,} of {len(now):,} {split} files have changed since {folder} began: {shown}"


def _files(examples: Examples) -> tuple[Sequence[Any], Sequence[str]]:
    """(the sources to compare of a split, their names): each image, or the shards that a stream reads."""
    if (stream := stream_of(examples)) is None:
        return examples.images, examples.names
    return list(stream[0].files), stream[0].files
