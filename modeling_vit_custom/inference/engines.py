"""Ways to run a model that give its own answers: eager, compiled, as a file in another runtime.

Shapes: B batch, C channels, H×W pixels, K classes.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from .exported import FILES, RUNTIMES, Run
from .writers import write


def eager(model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    return model


def compiled(model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """By torch.compile, whose own cache makes a second process start sooner."""
    torch.compiler.reset()
    return torch.compile(model, dynamic=False)


def exported(form: str, model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """A file for batches of this size, in the runtime of its format; one that lies in `folder` already is taken."""
    path = folder / FILES[form]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside, torch.inference_mode(False):
            write(torch.export.export(model, (images.clone(),)), Path(aside) / path.name, form, "float32", None)
            shutil.copytree(aside, f"{folder}.unfinished", dirs_exist_ok=True)
            os.rename(f"{folder}.unfinished", folder)
    return RUNTIMES[form](path)


# name: (how it is built, packages that it needs)
# each takes pixel_values -> logits, an example [B, C, H, W] and a folder for files, and gives pixel_values -> logits
ENGINES: dict[str, tuple[Callable[[nn.Module, torch.Tensor, Path], Run], tuple[str, ...]]] = {
    "eager": (eager, ()),
    "compiled": (compiled, ()),
    "onnx": (partial(exported, "onnx"), ("onnx", "onnxscript", "onnxruntime")),
    "openvino": (partial(exported, "openvino"), ("onnx", "onnxscript", "openvino")),
}


def installed_engines() -> list[str]:
    return [name for name in ENGINES if not lacking_packages(name)]


def lacking_packages(name: str) -> list[str]:
    return [package for package in ENGINES[name][1] if find_spec(package) is None]


def build_engine(name: str, model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """Raises ImportError, with the packages, for an engine that is not installed."""
    if lacking := lacking_packages(name):
        raise ImportError(f"the engine {name} needs {', '.join(lacking)}: pip install 'vit-custom[export]'.")
    return ENGINES[name][0](model, images, folder)
