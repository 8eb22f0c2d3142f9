"""Limits on the work of the HTTP server, and the help texts of their flags."""

import math
from dataclasses import dataclass, field, fields


def _limit(default: float, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Limits:
    """The server's limits. Raises ValueError unless all are finite and positive; `batch_timeout_ms` may be 0."""

    max_batch_size: int = _limit(16, "images in one pass of the model")
    batch_timeout_ms: float = _limit(10, "how long the first image of a batch waits for others")
    max_body_mb: float = _limit(20, "size of a request in megabytes, 10⁶ bytes")
    max_images: int = _limit(32, "images in one form or JSON, each of which counts as a request to max_requests")
    max_pixels: int = _limit(50_000_000, "width times height of an image, by its header")
    max_requests: int = _limit(
        64, "requests at work or waiting at once, and as many bodies under way; further ones are asked to come back"
    )
    timeout_s: float = _limit(30, "seconds for a body to arrive, and again for its answer")

    @classmethod
    def described(cls, name: str) -> str:
        """Return the help text of a limit."""
        return cls.__dataclass_fields__[name].metadata["help"]

    def __post_init__(self):
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and limit.name != "batch_timeout_ms"):
                raise ValueError(f"{limit.name}={value}: give a number above 0.")
