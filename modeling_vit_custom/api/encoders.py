"""The encoder of any checkpoint, whatever it was trained for."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from ..audit.encoder import Encoder
from ..common.errors import UsageError
from ..common.model_names import named_model
from ..data.examples import Examples, Splits
from ..inference.loading import default_device
from ..training.initialization.build import checkpoint_explained, fit_to_size
from ..training.initialization.start_checkpoint import Start, open_checkpoint


def open_encoder(model: str | Path, revision: str | None = None) -> Encoder:
    """Return the encoder of a classifier of any classes, a masked model, an encoder, or another library's checkpoint.

    Another library's is converted in memory, as by `train --model_name_or_path`; no code of a checkpoint is run. Raises
    UsageError if it cannot be read or converted.
    """
    name, revision = named_model(os.fspath(model), revision)
    start, said = Start(name, options={"revision": revision}), Splits(Examples([], []), None, None, {})
    try:
        with checkpoint_explained(start):
            opened = open_checkpoint(start)
            assert opened is not None
            net = _loaded(opened)
            fit_to_size(net, opened.processor, None, said)
    except UsageError as error:
        raise UsageError(_with_our_flags(str(error))) from error
    return Encoder(name, net.eval().to(default_device()), opened.processor, [*opened.notes, *said.notes])


def _loaded(opened: Any) -> Any:
    """The model in float32. A pooling whose weights the checkpoint lacks, which would be random, is replaced."""
    options = {"dtype": torch.float32, "output_loading_info": True}
    net, info = opened.load({}, **options)
    if any(not name.startswith(net.label_prefixes) for name in info["missing_keys"]):
        pooling = "cls" if opened.config.use_cls_token else "mean"
        net, _ = opened.load({"pooling": pooling, "pre_logits_size": None}, **options)
    return net


def _with_our_flags(text: str) -> str:
    text = re.sub(r"--source_config (\w+)=…", r"`vit-custom convert` with --\1", text)
    return text.replace("--model_name_or_path", "--model")
