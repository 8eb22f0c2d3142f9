"""Checkpoints of other libraries: recognised by their files, and refused with the command that converts them."""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

_WEIGHTS = (".npz", ".safetensors", ".pth", ".pt", ".bin")
# A folder by save_pretrained has at least one of these.
_SAVED = ("config.json", "adapter_config.json", "model*.safetensors*")

# Quantisations that installed packages compute; for others (fp8, mxfp4, …) transformers downloads kernels from the Hub.
_QUANTIZATIONS = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "hqq", "quanto", "torchao")


def refuse_foreign_files(source: str | os.PathLike, subfolder: str = "") -> None:
    """Raise ValueError if `source` is a weight file, or a folder of weight files that save_pretrained did not write."""
    path = os.path.join(str(source), subfolder) if subfolder else str(source)
    if os.path.isfile(path) and path.lower().endswith(_WEIGHTS):
        raise ValueError(f"{path} is a file of weights, not the folder of a saved model. {_way_out(path)}")
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    weights = [name for name in names if name.lower().endswith(_WEIGHTS)]
    if weights and not any(fnmatchcase(name, pattern) for name in names for pattern in _SAVED):
        raise ValueError(f"{path} holds {weights[0]} and no config.json. {_way_out(os.path.join(path, weights[0]))}")


def refuse_foreign_config(source: str | os.PathLike, fields: Mapping[str, Any], model_type: str) -> None:
    """Raise ValueError if the stored configuration is of another model and holds none of ours as a part."""
    parts = [fields, *(part for part in fields.values() if isinstance(part, dict))]
    if any(part.get("model_type") == model_type for part in parts):
        return
    if "model_type" in fields or "architecture" in fields:  # timm writes only the second key
        found = fields.get("model_type", fields.get("architecture"))
        raise ValueError(f"{source} holds a model of type {found!r}, not {model_type!r}. {_way_out(str(source))}")


def refuse_fetching_quantization(fields: Mapping[str, Any]) -> None:
    """Raise ValueError for a stored quantisation that would make transformers download code."""
    stored = fields.get("quantization_config")
    method = stored.get("quant_method", "bitsandbytes") if isinstance(stored, Mapping) else None
    if stored is not None and method not in _QUANTIZATIONS:
        raise ValueError(
            f"quantization_config={str(stored)[:200]}: of a stored one, quant_method must be one of "
            f"{', '.join(_QUANTIZATIONS)}; others have transformers fetch kernels. Save the model unquantised."
        )


def _way_out(source: str) -> str:
    if os.path.exists(source):
        return (
            "If it is a Vision Transformer of another library, convert it: "
            f"vit-custom convert --model {source} --output OUT"
        )
    return (
        "If it is a Vision Transformer of another library, download and convert it: "
        f"hf download {source} --local-dir FOLDER; vit-custom convert --model FOLDER --output OUT"
    )
