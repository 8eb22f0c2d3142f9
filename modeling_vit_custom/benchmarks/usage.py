"""Resources used by a process, or by a forward pass."""

import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_memory(children: bool = True) -> int:
    """Return the peak of memory in bytes: this process's, plus its largest child's if `children`.

    On Linux it is read from /proc, because the peak of `getrusage` may be that of the process that started this one.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if children else 0
    if _STATUS.is_file():
        own = next(1024 * int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        own = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return own + unit * largest


def forget_peak() -> None:
    """Reset the peak of memory to the memory in use now, if Linux supports it."""
    if _RESET.exists():
        _RESET.write_text("5")


def operations_of(model: nn.Module, images: torch.Tensor) -> int:
    """Count the FLOPs of a forward pass, two for each multiplication of a matrix product or convolution."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one fused operator, which the counter does not know
    try:
        with FlopCounterMode(display=False, custom_mapping=_ON_CPUS) as counter, torch.no_grad():
            model(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops()


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


_ON_CPUS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}  # missing in torch's own table
