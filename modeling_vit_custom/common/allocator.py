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
    """Keep freed memory in this process for its next allocations; return False if that cannot be set (no glibc).

    Resident memory then stays at its peak, which the process needed anyway.
    """
    return _keep(_ALL)


def return_freed_memory() -> bool:
    """Return freed memory to the system, so that a benchmark sees only what is held; False if that cannot be set."""
    return _keep(_NEXT_TO_NOTHING)


def _keep(size: int) -> bool:
    """Make malloc keep freed blocks of fewer than `size` bytes; return whether it accepted that."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    large = any(mallopt(_MMAP_THRESHOLD, most) for most in (size, min(size, _MOST_OF_OLD_GLIBC)))
    return bool(mallopt(_TRIM_THRESHOLD, size)) and large
