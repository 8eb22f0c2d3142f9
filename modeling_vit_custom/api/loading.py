"""`load`: a saved model, to work with in Python."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..inference.loading import FORMATS, load_classifier
from .checks import one_of


def load(
    model: str | Path,
    *,
    revision: str | None = None,
    speed: str | None = None,
    dtype: str | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Load a saved model of any task, strictly; returns (the model in eval mode on `device`, its image processor).

    The model takes `processor(images, return_tensors="pt")["pixel_values"]`, [B, C, h, w]. Of its output a classifier
    fills `logits` [B, K], K classes or values; a model for segmentation `logits` [B, K, h', w']; an encoder
    `pooler_output` [B, D] and `last_hidden_state` [B, N, D]; a model for masked images `reconstruction` [B, C, h, w].

    model: a saved folder, an exported folder (outputs logits; onnx and openvino need no trust), a Hub id or
    "REPO@REVISION".   revision: branch, tag or commit of a Hub id.   speed: one of the checkpoint's speeds, such as
    "2x".   dtype: "float32", "bfloat16" or "float16"; default: as stored.   device: default: the accelerator if there
    is one, else the CPU.   trust_remote_code: run code that comes with the model; this package's own models do not need
    it; a Hub id then needs its full commit, 40 digits.

    Raises OSError for a model that does not exist, ValueError (base of UsageError) for one that cannot be loaded as
    asked: weights that are missing or do not fit, code that is not pinned, two revisions, an unknown speed or dtype.
    """
    one_of("dtype", dtype, (None, *FORMATS))
    return load_classifier(
        os.fspath(model), trust_remote_code, device, revision, speed, dtype, listing=None, dense=True
    )
