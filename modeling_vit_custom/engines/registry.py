"""Ways to run a model that give its own answers: eager, compiled, as a file in another runtime.

Shapes: B batch, C channels, H×W pixels, K classes.
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
from .exported import FILES, RUNTIMES, Run
from .logits import LogitsOf
from .writers import write


def eager(model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    return model


def joined(model: nn.Module, images: torch.Tensor, folder: Path) -> nn.Module:
    """Eager, each block's queries, keys and values by one product instead of three."""
    return model.joined if isinstance(model, LogitsOf) else model


def compiled(model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """By torch.compile, whose own cache makes a second process start sooner.

    Joined on CPUs alone: a GPU takes longer over large batches then, and `graphs` offers it small ones.
    """
    keep_compiled_code_private()
    torch.compiler.reset()
    return torch.compile(model if images.is_cuda else joined(model, images, folder), dynamic=False)


def graphs(model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """By torch.compile, all kernels of a batch started at once: small batches wait for Python otherwise."""
    keep_compiled_code_private()
    torch.compiler.reset()
    replayed = torch.compile(joined(model, images, folder), mode="reduce-overhead", dynamic=False)

    def run(images: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return replayed(images).clone()  # the next call writes where this one did

    return run


def ahead_of_time(model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """By torch's AOTInductor, to a library: no Python between its kernels, nothing to trace in the next process."""
    keep_compiled_code_private()

    def save(program: torch.export.ExportedProgram, path: Path) -> None:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))

    path = kept(folder / "model.pt2", joined(model, images, folder), images, save)
    return torch._inductor.aoti_load_package(str(path))


def exported(form: str, model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """A file in the runtime of its format."""

    def save(program: torch.export.ExportedProgram, path: Path) -> None:
        write(program, path, form, "float32", None)

    return RUNTIMES[form](kept(folder / FILES[form], model, images, save))


def kept(
    path: Path, model: nn.Module, images: torch.Tensor, save: Callable[[torch.export.ExportedProgram, Path], None]
) -> Path:
    """The file `path` for batches of this size, which `save` writes unless its folder is there already.

    Raises PermissionError for a folder that is there and could have been changed by others: its file is code.
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
            if not path.is_file():  # another process did not write it meanwhile
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return path


@dataclass(frozen=True)
class Engine:
    """build: pixel_values -> logits, an example [B, C, H, W] and a folder for files -> pixel_values -> logits.

    packages: that it needs.   devices: where it runs.
    """

    build: Callable[[nn.Module, torch.Tensor, Path], Run]
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)


ENGINES: dict[str, Engine] = {
    "eager": Engine(eager, devices=("cpu", "cuda")),
    "joined": Engine(joined, devices=("cpu", "cuda")),
    "compiled": Engine(compiled, devices=("cpu", "cuda")),
    "graphs": Engine(graphs, devices=("cuda",)),
    "aoti": Engine(ahead_of_time),
    "onnx": Engine(partial(exported, "onnx"), ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Engine(partial(exported, "openvino"), ("onnx", "onnxscript", "openvino")),
}


def installed_engines(device: str = "cpu") -> list[str]:
    """Those for this type of device."""
    return [name for name, engine in ENGINES.items() if device in engine.devices and not lacking_packages(name)]


def lacking_packages(name: str) -> list[str]:
    return [package for package in ENGINES[name].packages if find_spec(package) is None]


def build_engine(name: str, model: nn.Module, images: torch.Tensor, folder: Path) -> Run:
    """Raises ImportError, with the packages, for one that is not installed, RuntimeError for one of other devices."""
    if lacking := lacking_packages(name):
        raise ImportError(f"the engine {name} needs {', '.join(lacking)}: pip install 'vit-custom[export]'.")
    if images.device.type not in ENGINES[name].devices:
        raise RuntimeError(f"for {' and '.join(ENGINES[name].devices)} alone")
    return ENGINES[name].build(model, images, folder)
