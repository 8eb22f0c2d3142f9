"""Export to transformers; also builds transformers' models from bare tensors under transformers' names.

Shapes: B images, C channels, H×W pixels, h×w grid, K classes, D width, N tokens.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from ..common.model_files import WEIGHTS
from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from .engine import State, check, own, write
from .huggingface import FAMILIES, canonical
from .huggingface_models import ROWS, express
from .huggingface_reference import run, settings_of
from .target import Exported, Target, require_same_processing

_TABLES = {family.name: family.table for family in FAMILIES}

# Tensors that transformers' models have and ours lack, with values that do not change the outputs.
_FILLERS: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "embeddings.mask_token": (torch.zeros, "zero; it serves pre-training only"),
    "embeddings.register_tokens": (torch.zeros, "there is none"),
    "pooler.dense.weight": (lambda shape: torch.eye(*shape), "the identity, so that it gives the class token"),
    "pooler.dense.bias": (torch.zeros, "zero, so that it gives the class token"),
    "post_layernorm.weight": (torch.ones, "one; the classifier does not use it"),
    "post_layernorm.bias": (torch.zeros, "zero; the classifier does not use it"),
}


def model_of(config: ViTCustomConfig, family: str, tensors: State, ours: bool = False) -> tuple[Any, list[str]]:
    """Build transformers' model of these tensors in eval mode; return (model, a note for each additional tensor).

    config, family: as for `express`.   tensors: under transformers' names, as `huggingface.canonical` spells them, or
    under our full names if `ours`. Raises ConversionError as `express` does, and for tensors that do not fit.
    """
    cls, settings = express(config, family, tensors)
    with torch.random.fork_rng(devices=[]):
        model = cls(settings)
    table, state = _TABLES[family], model.state_dict()
    needed = {name: tuple(tensor.shape) for name, tensor in canonical(state).items()}

    def unused(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in table.unused)

    filled = {name for name, shape in needed.items() if name in _FILLERS and (unused(name) or 0 in shape)}
    wanted = {name: shape for name, shape in needed.items() if name not in filled}
    if ours:
        made = write(table, tensors, wanted)
    else:  # zero biases are left out of some configurations
        made = {
            name: tensor for name, tensor in tensors.items() if name in wanted or (not unused(name) and tensor.any())
        }
        check(made, wanted)
    dtype = next(iter(made.values())).dtype
    made |= {name: _FILLERS[name][0](needed[name]).to(dtype) for name in filled}
    copies = {name: own(made[spelled]) for name, spelled in zip(state, needed, strict=True)}
    model.load_state_dict(copies, strict=True, assign=True)
    return model.eval(), [f"{name}: {_FILLERS[name][1]}" for name in sorted(filled) if 0 not in needed[name]]


def _build(family: str, config: ViTCustomConfig, tensors: State, processor: ViTCustomImageProcessor | None) -> Exported:
    model, notes = model_of(config, family, tensors, ours=True)
    theirs = None
    if processor is not None:
        settings = settings_of(processor)
        theirs = transformers.ViTImageProcessor(**settings, do_convert_rgb=config.num_channels == 3)
        notes += require_same_processing(config, processor, settings_of(theirs), "transformers")

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        if theirs is not None:
            theirs.save_pretrained(folder)

    def save_tensors(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            model.save_pretrained(folder, max_shard_size="1TB")
            shutil.move(Path(folder) / WEIGHTS, path)

    def prepare(pictures: Sequence[Image.Image]) -> torch.Tensor:
        return theirs(images=list(pictures), return_tensors="pt")["pixel_values"]

    return Exported(type(model).__name__, model, run, save, save_tensors, notes, None if theirs is None else prepare)


TARGETS = [
    Target(row.family, row.with_heads, row.resampling, [*row.names, "problem_type"], partial(_build, row.family), True)
    for row in ROWS
]
