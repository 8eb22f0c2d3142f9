"""Disk space: checked before it is needed, and one clear error where it runs out all the same."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from .checkpoints import CheckpointError

# In addition to tensors a checkpoint holds the model's code, the states of random generators and the log.
BESIDE_TENSORS = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch's and safetensors' writers do not pass on the errno.
_FULL_IN_WORDS = ("os error 28", "os error 122", "No space left", "PytorchStreamWriter", "inline_container")


def checkpoint_bytes(model: nn.Module) -> int:
    """Return the most bytes a checkpoint of `model` can take: its tensors, and Adam's two for each trained one."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.nbytes * (3 if t.requires_grad else 1) for t in tensors) + BESIDE_TENSORS


def check_space(folder: Path, needed: int, when: str) -> None:
    """Raise CheckpointError, with both numbers, where `folder` has less than `needed` bytes left."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise CheckpointError(_disk_full(folder, needed, free, when))


@contextmanager
def disk_full_explained(folder: Path, needed: int, when: str, unfinished: Path | None = None) -> Iterator[None]:
    """Remove `unfinished` when anything fails inside. Raises CheckpointError where the cause is a full disk."""
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
