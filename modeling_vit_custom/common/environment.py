"""What a figure was measured on: versions and hardware, fit to be published (no host name, no path)."""

import os
import platform
import re
from pathlib import Path

import torch
import transformers

from .._version import __version__


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "vit_custom": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def hardware(device: torch.device) -> dict[str, str | int]:
    """{"device": the accelerator's or processor's name, "cpu_cores": how many this process may use}."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return {"device": processor_name() if device.type == "cpu" else name, "cpu_cores": available_cores()}


def available_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The CPU's name as Linux knows it, elsewhere what Python does: at least the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    known = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return known[1].strip() if known else platform.processor() or platform.machine()
