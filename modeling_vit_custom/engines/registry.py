"""Engines: ways to run a model that do not change its answers: eager, compiled, as a file in another runtime.

Shapes: B batch, C channels, H×W pixels.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..common.cache_folders import find_fault, keep_compiled_code_private
from .exported import FILES, RUNTIMES, InferenceFn
from .output import OutputOf
from .writers import write


def eager(model: nn.Module, images: torch.Tensor, folder: Path) -> InferenceFn:
    return model


def fused_qkv(model: nn.Module, images: torch.Tensor, folder: Path) -> nn.Module:
    """Return the eager model with fused QKV, one product instead of three; modules other than OutputOf unchanged."""
    return model.fused_qkv if isinstance(model, OutputOf) else model


def compiled(model: nn.Module, images: torch.Tensor, folder: Path) -> InferenceFn:
    """Compile by torch.compile, whose own cache makes a second process start sooner.

    QKV is fused on CPUs only: on a GPU that slows down large batches, and small batches have `graphs`.
    """
    keep_compiled_code_private()
    torch.compiler.reset()
    return torch.compile(model if images.is_cuda else fused_qkv(model, images, folder), dynamic=False)


def graphs(model: nn.Module, images: torch.Tensor, folder: Path) -> InferenceFn:
    """Compile by torch.compile with CUDA graphs, which start all kernels of a batch at once.

    Otherwise small batches wait for Python.
    """
    keep_compiled_code_private()
    torch.compiler.reset()
    replayed = torch.compile(fused_qkv(model, images, folder), mode="reduce-overhead", dynamic=False)

    def run(images: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return replayed(images).clone()  # the next call overwrites this output

    return run


def ahead_of_time(model: nn.Module, images: torch.Tensor, folder: Path) -> InferenceFn:
    """Compile to a library by torch's AOTInductor: no Python between kernels, no tracing in the next process."""
    keep_compiled_code_private()

    def save(program: torch.export.ExportedProgram, path: Path) -> None:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))

    path = kept(folder / "model.pt2", fused_qkv(model, images, folder), images, save)
    return torch._inductor.aoti_load_package(str(path))


def exported(format_name: str, model: nn.Module, images: torch.Tensor, folder: Path) -> InferenceFn:
    """Return the model as a file in the runtime of format `format_name`; without a `field` its output is `logits`."""

    def save(program: torch.export.ExportedProgram, path: Path) -> None:
        write(program, path, format_name, "float32", getattr(model, "field", "logits"))

    return RUNTIMES[format_name](kept(folder / FILES[format_name], model, images, save))


def kept(
    path: Path, model: nn.Module, images: torch.Tensor, save: Callable[[torch.export.ExportedProgram, Path], None]
) -> Path:
    """Return `path`, the file for batches of this size; `save` writes it unless its folder is there already.

    Raises PermissionError if others could have changed the folder: its file is code.
    """
    folder = path.parent
    if fault := find_fault(folder):
        raise PermissionError(fault)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.mkdtemp(dir=folder.parent)
        try:
            with torch.inference_mode(False):
                save(torch.export.export(model, (images.clone(),)), Path(aside) / path.name)
            os.rename(aside, folder)
        except OSError:
            if not path.is_file():  # unless another process wrote it meanwhile
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return path


@dataclass(frozen=True)
class Engine:
    """build: (model, example images [B, C, H, W], folder for files) -> a function, pixel_values -> output.

    packages: those that it needs.   devices: types of device that it runs on.
    """

    build: Callable[[nn.Module, torch.Tensor, Path], InferenceFn]
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)


ENGINES: dict[str, Engine] = {
    "eager": Engine(eager, devices=("cpu", "cuda")),
    "joined": Engine(fused_qkv, devices=("cpu", "cuda")),
    "compiled": Engine(compiled, devices=("cpu", "cuda")),
    "graphs": Engine(graphs, devices=("cuda",)),
    "aoti": Engine(ahead_of_time),
    "onnx": Engine(partial(exported, "onnx"), ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Engine(partial(exported, "openvino"), ("onnx", "onnxscript", "openvino")),
}


def installed_engines(device: str = "cpu") -> list[str]:
    """Return the engines for this type of device whose packages are installed."""
    return [name for name, engine in ENGINES.items() if device in engine.devices and not lacking_packages(name)]


def lacking_packages(name: str) -> list[str]:
    return [package for package in ENGINES[name].packages if find_spec(package) is None]


def build_engine(name: str, model: nn.Module, images: torch.Tensor, folder: Path) -> InferenceFn:
    """Build the engine `name` for `model` and batches like `images`.

    Raises ImportError, naming the packages, if some are not installed; RuntimeError if the engine is for other devices.
    """
    if lacking := lacking_packages(name):
        raise ImportError(f"the engine {name} needs {', '.join(lacking)}: pip install 'vit-custom[export]'.")
    if images.device.type not in ENGINES[name].devices:
        raise RuntimeError(f"for {' and '.join(ENGINES[name].devices)} alone")
    return ENGINES[name].build(model, images, folder)
