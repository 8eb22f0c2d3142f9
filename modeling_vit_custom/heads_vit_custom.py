"""The options of heads: `config.heads` maps a name to the options of one head, tagged with its kind.

    heads={"pixels": {"kind": "masked-image-modeling", "loss": "l2"}}
    heads={"mask": {"kind": "image-segmentation", "blocks": [6, 12]}}

The options of every kind stand here, so that any configuration can be read and checked without the modules of heads,
which only their own folders contain. A classifier's options are fields of the configuration itself, where published
checkpoints have them.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from .labels_vit_custom import reject_field

Heads = dict[str, dict[str, Any]]


@strict
@dataclass
class MaskedImagesOptions:
    """Options of `ViTCustomForMaskedImageModeling`.

    loss: the error of one predicted value: "l1" (SimMIM, arXiv 2111.09886), "smooth_l1", or "l2" (MAE, 2111.06377).
    """

    loss: Literal["l1", "smooth_l1", "l2"] = "l1"


@strict
@dataclass
class SegmentationOptions:
    """Options of `ViTCustomForSemanticSegmentation`.

    head: "upscale", transposed convolutions until a logit stands for about 4 pixels, or "linear", one logit a patch.
    blocks: the blocks whose patches the head reads, counted from 1; None for the last one.
    width: channels of the upscaling layers; None for the encoder's width, at most 256.
    ignore_index: the class id of pixels that the loss leaves out, as it does -100.
    """

    head: Literal["upscale", "linear"] = "upscale"
    blocks: list[int] | None = None
    width: int | None = None
    ignore_index: int = 255

    def validate_ranges(self):
        """Raise ValueError for values that no encoder fits."""
        blocks, width = self.blocks, self.width
        if blocks is not None and (not 1 <= len(blocks) <= 16 or sorted({*blocks}) != blocks or blocks[0] < 1):
            reject_field("blocks", blocks, "give 1 to 16 different blocks in ascending order, counted from 1, or None")
        if width is not None and not 1 <= width <= 4_096:
            reject_field("width", width, "must be from 1 to 4096, or None")
        if not -100 <= self.ignore_index <= 65_535:
            reject_field("ignore_index", self.ignore_index, "must be from -100 to 65535")


# Kind of a head, the name of its task on the Hub → its options.
HEADS: dict[str, Any] = {"masked-image-modeling": MaskedImagesOptions, "image-segmentation": SegmentationOptions}
_NAME = re.compile(r"[A-Za-z]\w{0,63}")  # also a name of parameters
_MAX_HEADS = 64


def read_heads(heads: Any) -> Heads | None:
    """Return a copy of `heads` in which every option of each head is written out; None for no head.

    Raises ValueError that names the entry, its value and the fix.
    """
    if not heads:
        return None
    if not isinstance(heads, Mapping) or len(heads) > _MAX_HEADS:
        reject_field("heads", heads, f"must map at most {_MAX_HEADS} names to options, as {{'pixels': {{'kind': …}}}}")
    return {name: _read_head(name, entry) for name, entry in heads.items()}


def named_by_kind(head: Any) -> Heads | None:
    """Return the one entry `head` as `heads`, under the name of its kind; None for no head."""
    if head is None:
        return None
    return {_kind_of("head", head).replace("-", "_"): head}


def options_of(heads: Heads | None, kind: str) -> Any:
    """Return the options of the head of this kind, by default its defaults.

    Raises ValueError if `heads` has several of this kind.
    """
    found = of_kind(heads, kind) or {}
    if len(found) > 1:
        reject_field("heads", list(found), f"this model has one head of the kind {kind}: keep one of them")
    return HEADS[kind](**{key: value for entry in found.values() for key, value in entry.items() if key != "kind"})


def with_options(config: Any, kind: str) -> Any:
    """Return `config`, or a copy with the default options of this kind if it has no head of it."""
    if of_kind(config.heads, kind):
        return config
    config = copy.deepcopy(config)
    config.heads = {**(config.heads or {}), **(read_heads(named_by_kind({"kind": kind})) or {})}
    return config


def of_kind(heads: Heads | None, kind: str | None) -> Heads | None:
    """Return the entries of one kind; None for none."""
    return {name: entry for name, entry in (heads or {}).items() if entry["kind"] == kind} or None


def _read_head(name: Any, entry: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        reject_field("heads", name, "name each head by a letter, then letters, digits and _, at most 64")
    kind, given = _kind_of(f"heads[{name!r}]", entry), {key: value for key, value in entry.items() if key != "kind"}
    known = HEADS[kind].__dataclass_fields__
    if unknown := [key for key in given if key not in known]:
        reject_field(f"heads[{name!r}]", unknown, f"the options of {kind} are {', '.join(known)}")
    try:
        return {"kind": kind, **asdict(HEADS[kind](**given))}
    except StrictDataclassError as error:
        reject_field(f"heads[{name!r}]", given, str(error.__cause__ or error).rstrip("."))


def _kind_of(field: str, entry: Any) -> str:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind not in list(HEADS):
        reject_field(field, entry, f"must have a kind, one of {', '.join(HEADS)}")
    return kind
