"""SHA-256 of tensors, and of everything that decides a model's predictions."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..quantized_vit_custom import plain_parts
from .json_files import json_safe
from .sharding import whole

# Keys of a config or processor that do not decide what it computes: its origin, and other possible settings.
OTHER_KEYS = ("_name_or_path", "_commit_hash", "transformers_version", "auto_map", "speeds")


def fingerprint(model: PreTrainedModel, processor: Any, settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that decides a prediction: weights, config, processor and `settings`."""
    sums = hashlib.sha256()
    for part in (model.config.to_dict(), processor.to_dict(), settings):
        kept = {key: value for key, value in part.items() if key not in OTHER_KEYS}
        sums.update(json.dumps(json_safe(kept), sort_keys=True, default=str).encode())
    _add(sums, model.state_dict(), torch.Tensor.detach)
    return sums.hexdigest()


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of named tensors: their names, types, shapes and values."""
    sums = hashlib.sha256()
    _add(sums, tensors, whole)
    return sums.hexdigest()


def _add(sums: Any, tensors: Mapping[str, torch.Tensor], read: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        sums.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in plain_parts(read(tensor)):
            sums.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
