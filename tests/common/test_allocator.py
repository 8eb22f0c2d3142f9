"""Memory that was freed is used again without going back to the system."""

import platform
import subprocess
import sys

import pytest

from modeling_vit_custom.common import allocator

SCRIPT = """
import resource, torch
from modeling_vit_custom.common.allocator import keep_freed_memory, return_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
assert return_freed_memory()
returned = faults()
assert keep_freed_memory()
torch.ones(2**24)
print(plain, returned, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep memory")
def test_freed_memory_is_kept_or_returned():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, returned, kept = map(int, done.stdout.split())
    assert plain > 100_000 and returned > plain / 2
    assert kept < plain / 4  # a small allocation may have split the kept memory once


def test_an_older_glibc_keeps_as_much_as_it_can(monkeypatch):
    """The threshold is half of its 64 MiB heaps: an older glibc refuses a larger one."""
    taken = []

    class Older:
        @staticmethod
        def mallopt(option, size):
            taken.append((option, size))
            return int(option != -3 or size <= 2**25)

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.28"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Older)
    assert allocator.keep_freed_memory()
    assert taken[1:] == [(-3, 2**25), (-1, 2**31 - 1)]
