"""Errors that say that memory ran out, and a message that names the flags which need less of it."""

import errno
from collections.abc import Sequence

import torch

# In the messages of RuntimeErrors: of torch's allocators for GPUs and the CPU, of cuDNN and cuBLAS, of C++.
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "std::bad_alloc",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: of a GPU, or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def memory_sentence(error: BaseException, fixes: Sequence[str]) -> str:
    """Return the message for an error of `out_of_memory`.   fixes: what needs less memory, the best first."""
    gpu = isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in ("CUDA", "CUDNN", "CUBLAS"))
    said = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    where = "the GPU's memory" if gpu else "memory"
    return f"{where} is not enough ({said[:200]}). Give {'; or '.join(fixes)}."


def smaller_batch(size: int | None, flag: str = "batch_size") -> list[str]:
    """Return the first of the fixes: half the images at once; [] if it is one already.   flag: its name."""
    if size is None or size < 2:
        return []
    return [f"--{flag} {size // 2} (now {size})"]
