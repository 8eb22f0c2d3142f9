"""Counter-based random numbers: those of an example depend on (seed, epoch, index) and on nothing else.

They do not depend on the batch, on the process or worker that loads the example, or on where a run was interrupted. No
generator is touched, so dropout draws what it would have drawn anyway. The idea is that of counter-based RNGs (Salmon
et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"); the mixing function is that of SplitMix64 (Steele et al.
2014, "Fast splittable pseudorandom number generators").

Shapes: B examples.
"""

from collections.abc import Sequence

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)


def example_keys(seed: int, epoch: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return [B] uint64: one key for each example in this epoch of a run with this seed."""
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, np.asarray(indices, np.int64)):
        key = _mixed(key + np.atleast_1d(part).astype(np.uint64))
    return key


def uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """Return [B, count] float32 in [0, 1): `count` independent numbers for each key."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * _STEP
    return (_mixed(keys[:, None] + counters) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's next number after each of `x` (arithmetic modulo 2**64)."""
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
