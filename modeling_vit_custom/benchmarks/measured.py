"""Runs a command and records the resources it used: `python measured.py FILE COMMAND …`; run as a file, not imported.

A process inherits the peak of memory of its parent. This parent is small, so that the peak is that of the command.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main(file: str, *command: str) -> int:
    """Run the command and return its exit code; write CPU seconds of all its processes, wall seconds and peak to FILE.

    The peak of memory is that of the largest process. SIGTERM kills the command.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    figures = {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.perf_counter() - began,
        "memory_mb": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20,
    }
    with open(file, "w", encoding="utf-8") as usage:
        json.dump(figures, usage)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
