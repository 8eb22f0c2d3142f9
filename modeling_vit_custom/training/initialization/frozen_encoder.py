"""The encoder of any checkpoint, whatever it was trained for, loaded to be used and not trained."""

from typing import Any

import torch

from ...data.examples import Examples, Splits
from .build import checkpoint_explained, fit_to_size
from .start_checkpoint import Pretrained, Start, open_checkpoint


def load_frozen(start: Start) -> tuple[Any, Any, list[str]]:
    """Return (classifier in eval mode, of which only the encoder counts; its image processor; notes for the reader).

    Another library's checkpoint is converted in memory; no code of a checkpoint is run. Raises UsageError if it cannot
    be read or converted.
    """
    said = Splits(Examples([], []), None, None, {})
    with checkpoint_explained(start):
        opened = open_checkpoint(start)
        assert opened is not None
        net = _loaded(opened)
        fit_to_size(net, opened.processor, start.image_size, said)
    return net.eval().requires_grad_(False), opened.processor, [*opened.notes, *said.notes]


def _loaded(opened: Pretrained) -> Any:
    """The model in float32. A pooling whose weights the checkpoint lacks, which would be random, is replaced."""
    options = {"dtype": torch.float32, "output_loading_info": True}
    net, info = opened.load({}, **options)
    if any(not name.startswith(net.label_prefixes) for name in info["missing_keys"]):
        pooling = "cls" if opened.config.use_cls_token else "mean"
        net, _ = opened.load({"pooling": pooling, "pre_logits_size": None}, **options)
    return net
