"""The encoder of any checkpoint, whatever it was trained for."""

import os
import re
from pathlib import Path

from ..audit.encoder import Encoder
from ..common.errors import UsageError
from ..common.model_names import named_model
from ..inference.loading import default_device
from ..training.initialization.frozen_encoder import load_frozen
from ..training.initialization.start_checkpoint import Start


def open_encoder(model: str | Path, revision: str | None = None) -> Encoder:
    """Return the encoder of a classifier of any classes, a masked model, an encoder, or another library's checkpoint.

    Another library's is converted in memory, as by `train --model_name_or_path`; no code of a checkpoint is run. Raises
    UsageError if it cannot be read or converted.
    """
    name, revision = named_model(os.fspath(model), revision)
    try:
        net, processor, notes = load_frozen(Start(name, options={"revision": revision}))
    except UsageError as error:
        raise UsageError(_with_our_flags(str(error))) from error
    return Encoder(name, net.to(default_device()), processor, notes)


def _with_our_flags(text: str) -> str:
    text = re.sub(r"--source_config (\w+)=…", r"`vit-custom convert` with --\1", text)
    return text.replace("--model_name_or_path", "--model")
