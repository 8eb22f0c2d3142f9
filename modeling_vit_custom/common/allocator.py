"""How the C library hands out memory.

A forward on a CPU allocates tens of megabytes for each activation and frees them again. glibc returns them to the
system, which has to clear every page when the next activation touches it: up to a quarter of a forward's time.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_ALL = 2**31 - 1  # bytes
_MOST_OF_OLD_GLIBC = 2**25  # half a heap; older versions refuse to keep larger blocks
_NEXT_TO_NOTHING = 2**16


def keep_freed_memory() -> bool:
    """From now on this process keeps what it frees for its next allocations; False where the C library is not glibc.

    Its resident memory then stays at its peak, which it had to have anyway.
    """
    return _keep(_ALL)


def return_freed_memory() -> bool:
    """From now on this process's resident memory is what it holds, for a benchmark; False where that cannot be had."""
    return _keep(_NEXT_TO_NOTHING)


def _keep(size: int) -> bool:
    """Blocks of fewer bytes are kept when they are freed."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    large = any(mallopt(_MMAP_THRESHOLD, most) for most in (size, min(size, _MOST_OF_OLD_GLIBC)))
    return bool(mallopt(_TRIM_THRESHOLD, size)) and large
