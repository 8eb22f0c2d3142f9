# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""Flags that only pre-training has."""

from dataclasses import dataclass

from .declarations import flag


@dataclass
class PretrainingArguments:
    mask_ratio: float = flag(default=0.6, help="Share of each image that is hidden.")
    mask_patch_size: list[int] | None = flag(
        help="Side of the squares that are hidden, in pixels, whole patches: one number, or height width. Default: "
        "about a seventh of the image's side (32 of 224).",
    )
