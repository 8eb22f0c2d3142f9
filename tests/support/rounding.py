"""What differs between processors: how sums are rounded, and which kernels compile.

A product of another shape, or on another processor, adds the same numbers in another order. Where a test computes the
same values by two ways, `assert_close_but_for_rounding` allows what that order can change and no more; where it repeats
one computation, it asks for equal bits.
"""

import math
import os
from typing import Any

import pytest
import torch

from modeling_vit_custom import ViTCustomConfig

# torch generates flex attention for CPUs with vector instructions alone.
FLEX_ATTENTION = pytest.param(
    "flex_attention",
    marks=pytest.mark.skipif(
        torch.backends.cpu.get_cpu_capability() == "DEFAULT",
        reason="flex attention has no kernel for CPUs without AVX2 (or with ATEN_CPU_CAPABILITY=default)",
    ),
)
# OpenVINO chooses kernels by what the processor has, and crashes where its oneDNN may not use that.
OPENVINO = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ, reason="OpenVINO crashes on some models with ONEDNN_MAX_CPU_ISA set"
)


def rounding(config: ViTCustomConfig, dtype: torch.dtype = torch.float32) -> float:
    """Relative difference that another order of summation makes in an encoder of this configuration.

    Rounding errors of a sum of n terms grow like √n · eps (Higham 2002, section 4.2), and each block has two residual
    branches that add theirs; 4 leaves room for the weights of the sums.
    """
    longest = max(config.hidden_size, config.intermediate_size, math.prod(config.patch_hw) * config.num_channels)
    return 4 * torch.finfo(dtype).eps * 2 * config.num_hidden_layers * longest**0.5


@torch.no_grad()
def assert_close_but_for_rounding(actual: Any, expected: Any, config: ViTCustomConfig, passes: int = 1) -> None:
    """Compares tensors, or sequences of them, to `rounding` of the largest value of each expected one.

    A value that is zero because terms of the others' size cancel is off by the rounding of one such term.
    passes: 2 for gradients, which go through the encoder forwards and back.
    """
    pairs = [(actual, expected)] if isinstance(expected, torch.Tensor) else list(zip(actual, expected, strict=True))
    largest = [float(tensor.abs().max()) for _, tensor in pairs]
    for (one, other), own in zip(pairs, largest, strict=True):
        cancelled = 4 * torch.finfo(other.dtype).eps * max(largest)
        allowed = passes * rounding(config, other.dtype) * own + cancelled
        torch.testing.assert_close(one, other, rtol=0, atol=allowed)
