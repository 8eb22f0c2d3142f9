"""Differences between processors: the rounding of sums, and the kernels that compile.

A product of another shape, or on another processor, adds the same numbers in another order. If a test computes the
same values in two ways, `assert_close_but_for_rounding` allows the difference that the order can make, and no more. If
it repeats one computation, it asks for equal bits.
"""

import math
import os
from typing import Any

import pytest
import torch

from modeling_vit_custom import ViTCustomConfig

# torch generates flex attention only for CPUs with vector instructions; compiling it takes 5 s and more.
NEEDS_VECTORS = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="flex attention has no kernel for CPUs without AVX2 (or with ATEN_CPU_CAPABILITY=default)",
)


def with_flex(*values: Any):
    """Return the parameters of a slow test's row in which the last one, a backend, is flex attention."""
    return pytest.param(*values, "flex_attention", marks=[NEEDS_VECTORS, pytest.mark.slow])


# OpenVINO chooses kernels by the processor's instructions, and crashes if its oneDNN may not use them.
OPENVINO = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ, reason="OpenVINO crashes on some models with ONEDNN_MAX_CPU_ISA set"
)


def rounding(config: ViTCustomConfig, dtype: torch.dtype = torch.float32) -> float:
    """Return the relative difference that another order of summation makes in an encoder of this configuration.

    The rounding error of a sum of n terms grows like √n · eps (Higham 2002, section 4.2). Each block has two residual
    branches that add their errors. The factor 4 allows for the weights of the sums.
    """
    longest = max(config.hidden_size, config.intermediate_size, math.prod(config.patch_hw) * config.num_channels)
    return 4 * torch.finfo(dtype).eps * 2 * config.num_hidden_layers * longest**0.5


@torch.no_grad()
def assert_close_but_for_rounding(actual: Any, expected: Any, config: ViTCustomConfig, passes: int = 1) -> None:
    """Compare tensors, or sequences of them, within `rounding` of the largest value of each expected one.

    A value that is zero because larger terms cancel is off by the rounding of one such term.
    passes: 2 for gradients, which go through the encoder forwards and back.
    """
    pairs = [(actual, expected)] if isinstance(expected, torch.Tensor) else list(zip(actual, expected, strict=True))
    largest = [float(tensor.abs().max()) for _, tensor in pairs]
    for (one, other), own in zip(pairs, largest, strict=True):
        cancelled = 4 * torch.finfo(other.dtype).eps * max(largest)
        allowed = passes * rounding(config, other.dtype) * own + cancelled
        torch.testing.assert_close(one, other, rtol=0, atol=allowed)
