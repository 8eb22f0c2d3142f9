"""Disk space: asked for before it is needed; and where it runs out all the same, one error that says so."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from .checkpoints import CheckpointError

# Beside tensors a checkpoint holds the code of the model, the states of random numbers and the log.
BESIDE_TENSORS = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch's and safetensors' writers pass no error number on.
_FULL_IN_WORDS = ("os error 28", "os error 122", "No space left", "PytorchStreamWriter", "inline_container")


def checkpoint_bytes(model: nn.Module) -> int:
    """What a checkpoint of `model` takes at most: its tensors, and Adam's two for each one that is trained."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.nbytes * (3 if t.requires_grad else 1) for t in tensors) + BESIDE_TENSORS


def check_space(folder: Path, needed: int, when: str) -> None:
    """Raises CheckpointError, with both numbers, where `folder` has less than `needed` bytes left."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise CheckpointError(_disk_full(folder, needed, free, when))


@contextmanager
def disk_full_explained(folder: Path, needed: int, when: str, unfinished: Path | None = None) -> Iterator[None]:
    """Whatever fails inside, `unfinished` is removed; raises CheckpointError where it failed for want of space."""
    try:
        yield
    except Exception as error:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        if getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_IN_WORDS):
            raise CheckpointError(_disk_full(folder, needed, shutil.disk_usage(folder).free, when)) from error
        raise


def _disk_full(folder: Path, needed: int, free: int, when: str) -> str:
    return (
        f"disk full {when}: {needed:,} bytes are needed and {free:,} are available in {folder}. What was saved before "
        "is whole. Make room, lower --save_total_limit or name an --output_dir elsewhere; the same command goes on "
        "from the last checkpoint."
    )
