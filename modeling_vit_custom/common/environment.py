"""Versions and hardware that a figure was measured on, fit to be published (no host name, no path)."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from .._version import __version__


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "vit_custom": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def hardware(device: torch.device) -> dict[str, str | int]:
    """Return {"device": the accelerator's or processor's name, "cpu_cores": how many this process may use}."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return {"device": processor_name() if device.type == "cpu" else name, "cpu_cores": available_cores()}


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the CPU's name from Linux's /proc/cpuinfo, elsewhere from Python: at least the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    known = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return known[1].strip() if known else platform.processor() or platform.machine()


def computes_faster_in_bfloat16(device: torch.device) -> bool:
    """Return whether the device has its own instructions for bfloat16 matrices, and may use them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 lacks it
    held_back = any(name in os.environ for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
    return bool(has.get("avx512_bf16") or has.get("amx_bf16")) and not held_back
