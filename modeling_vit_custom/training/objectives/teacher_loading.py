"""Classifiers of other libraries, and ours, as teachers: their weights, and the preprocessing of their images.

FOLDER                          saved by transformers (any image classifier), by this package, or by timm for the Hub
timm:NAME, torchvision:NAME     with a state dict, --teacher_weights FILE

Nothing is downloaded, and nothing in a file is executed.

Shapes: B batch, C channels, K classes of the teacher, L classes of the data.
"""

import json
import pickle
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ...common.errors import UsageError
from ...common.model_files import CONFIG, WEIGHTS
from ...conversion.timm_vit import RESAMPLING, labels_of, processor_settings
from ...conversion.torchvision_vit import processor_of
from ...data.fingerprint import key_hash
from ...image_processing_vit_custom import ViTCustomImageProcessor
from ...inference.foreign import check_fields, check_stored_whole, check_timm_folder, header_of, stored_fields
from ...inference.loading import load_classifier
from ...tasks.registry import one_label, task_of
from ...weight_files_vit_custom import read_header, shorten_list

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")  # timm, Lightning, tutorials
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Teacher:
    """A classifier to learn from.

    module: in eval mode, on the CPU; float32 [B, C, H, W] -> [B, K], or an output with such logits.
    processor: prepares its images.   channels: C.   labels: K names, or none.   count: K.
    columns: [L], which of the K logits is each class of the data.   weights: SHA-256 of its tensors.
    notes: a sentence on each thing that was found or assumed.
    """

    name: str
    module: Any
    processor: Any
    channels: int
    count: int
    labels: dict[int, str]
    notes: list[str] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    weights: str = ""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits float32 [B, K] of images [B, C, H, W]."""
        output = self.module(images)
        return getattr(output, "logits", output).float()

    def identity(self) -> dict[str, Any]:
        """Return what identifies the teacher's logits, fit for JSON: teachers with equal values give equal logits."""
        config = getattr(self.module, "config", None)
        settings = {name: value for name, value in self.processor.to_dict().items() if name != "auto_map"}
        return {
            "name": self.name,
            "weights": self.weights,
            "architecture": repr(self.module) + ("" if config is None else config.to_json_string()),
            "processor": json.loads(json.dumps(settings, default=str)),
            "channels": self.channels,
        }

    def record(self) -> dict[str, str]:
        """Return which teacher it was, fit to be published and independent of the versions of libraries."""
        identity = self.identity()
        prepared = {name: identity[name] for name in ("processor", "channels")}
        return {"name": self.name, "weights": self.weights, "preprocessing": key_hash(prepared)}


def teacher_of(name: str, weights: str | None, settings: Mapping[str, Any]) -> Teacher:
    """Load the teacher that --teacher, --teacher_weights and --teacher_config name; its classes are not matched yet.

    Raises UsageError, or the library's own error, where it cannot be read or is no single-label classifier.
    """
    library, _, model = name.partition(":")
    if library in _LIBRARIES and model:
        if weights is None:
            raise UsageError(f"--teacher {name} needs --teacher_weights, the file of its state dict.")
        if ":" in model or "/" in model:
            raise UsageError(f"--teacher {name}: give an architecture of {library}, such as {library}:resnet18.")
        return _LIBRARIES[library](model, read_state(weights), settings, Path(weights).name)
    folder = Path(name).expanduser()
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"--teacher {name} is no folder with a config.json: give one, or {' or '.join(_LIBRARIES)}:NAME with "
            "--teacher_weights FILE. Nothing is downloaded."
        )
    if weights is not None:
        raise UsageError(f"--teacher_weights {weights}: the folder {name} holds its own. Leave it out.")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "architecture" in config and "pretrained_cfg" in config:
        files = [path for path in map(folder.joinpath, (WEIGHTS, "pytorch_model.bin")) if path.is_file()]
        if not files:
            raise UsageError(f"--teacher {name} holds neither model.safetensors nor pytorch_model.bin.")
        state = read_state(files[0])
        _check_timm_folder(folder, state)
        return replace(_timm(f"local-dir:{folder}", state, settings, ""), name=folder.resolve().name)
    if others := sorted(settings.keys() - {"labels"}):
        raise UsageError(f"--teacher_config {others[0]}: the folder {name} says itself how it prepares images.")
    return _transformers(folder)


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict without the wrappers and prefixes that training loops add; nothing in the file is executed.

    Raises UsageError for a file that holds no state dict.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix.lower() == ".safetensors":
            read_header(path)
            loaded: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([Namespace]):  # timm's training script keeps its flags
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"--teacher_weights {path} cannot be read as tensors, and nothing in it was executed: "
            f"{str(error).strip().splitlines()[0]}. Save torch.save(model.state_dict(), FILE)."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UsageError(f"--teacher_weights {path} holds no state dict. Save torch.save(model.state_dict(), FILE).")
    try:
        check_stored_whole(path, loaded)
    except ValueError as error:
        raise UsageError(f"--teacher_weights {error}") from error
    while prefix := next((p for p in _PREFIXES if loaded and all(name.startswith(p) for name in loaded)), None):
        loaded = {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}
    return loaded


def _check_timm_folder(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Raises UsageError where a timm folder names something to download, or a larger model than its tensors."""
    header = header_of(state)
    try:
        check_fields(folder, stored_fields(folder), header)
        check_timm_folder(folder, header)
    except ValueError as error:
        raise UsageError(f"--teacher {error}") from error


def _transformers(folder: Path) -> Teacher:
    model, processor = load_classifier(str(folder), device="cpu")
    config: Any = model.config
    if not (task := task_of(config)).one_label:
        raise UsageError(f"--teacher {folder} is for {task.name}, not for {one_label()}.")
    labels = {int(i): str(label) for i, label in config.id2label.items()}
    channels = getattr(config, "num_channels", None) or 3
    notes = ["images as its own processor prepares them"]
    return Teacher(folder.resolve().name, model, processor, channels, len(labels), labels, notes)


def _timm(name: str, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any], file: str) -> Teacher:
    import timm

    model: Any = timm.create_model(name, pretrained=False)
    config = timm.data.resolve_data_config(model=model)
    stored = model.pretrained_cfg
    count = _rows(state, f"{_first(stored['classifier'])}.weight", 0)
    channels = _rows(state, f"{_first(stored['first_conv'])}.weight", 1) if stored.get("first_conv") else 3
    hw = _height_width(settings.get("image_size", config["input_size"][1:]))
    options: dict[str, Any] = {"num_classes": count, "in_chans": channels}
    if stored.get("fixed_input_size") and hw != tuple(config["input_size"][1:]):
        options["img_size"] = hw
    model = timm.create_model(name, pretrained=False, **options)
    model.load_state_dict(state)
    labels, said = labels_of(model)
    colours = {"mean": settings.get("image_mean", config["mean"]), "std": settings.get("image_std", config["std"])}
    others = {key: settings[key] for key in ("crop_pct", "interpolation") if key in settings}
    processor = _processor(processor_settings({**config, **colours, **others}, hw), hw, channels)
    known = f"timm documents for {name} ({file} does not say it)" if file else "its folder says"
    notes = [*said, _prepared(processor, known, settings)]
    return Teacher(f"timm:{name}", model, processor, channels, count, labels, notes)


def _torchvision(name: str, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any], file: str) -> Teacher:
    from torchvision.models import get_model, get_model_weights
    from torchvision.transforms import InterpolationMode

    entries = list(get_model_weights(name))
    official = next((entry for entry in entries if entry.url.rpartition("/")[2] == file), None)
    entry: Any = official or entries[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of how Inception is initialised
        whole: Any = get_model(name, weights=None)
        outputs = len(entry.meta["categories"])
        head = [path for path, tensor in whole.named_parameters() if tensor.ndim > 1 and len(tensor) == outputs]
        count = _rows(state, head[-1], 0)
        model: Any = get_model(name, weights=None, num_classes=count)
    path, conv = next((path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d))
    channels = _rows(state, f"{path}.weight", 1) * conv.groups
    if channels != conv.in_channels:
        bias = conv.bias is not None
        other = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=bias)  # type: ignore[arg-type]
        model.set_submodule(path, other)
    model.load_state_dict(state)
    preset = entry.transforms()
    height, width = _height_width(settings.get("image_size", preset.crop_size[0]))
    if height != width:
        raise UsageError(f"--teacher_config image_size=[{height},{width}]: torchvision prepares square images.")
    share = settings.get("crop_pct", preset.crop_size[0] / preset.resize_size[0])
    transforms = entry.transforms(
        crop_size=height,
        resize_size=round(height / share),
        mean=settings.get("image_mean", preset.mean),
        std=settings.get("image_std", preset.std),
        interpolation=InterpolationMode(settings.get("interpolation", preset.interpolation.value)),
    )
    processor = _processor(processor_of(transforms), (height, height), channels)
    known = f"torchvision documents for {entry}" + ("" if official else f" ({file} does not say it)")
    labels = dict(enumerate(official.meta["categories"])) if official else {}
    return Teacher(
        f"torchvision:{name}", model, processor, channels, count, labels, [_prepared(processor, known, settings)]
    )


_LIBRARIES: dict[str, Callable[..., Teacher]] = {"timm": _timm, "torchvision": _torchvision}


def _first(names: Any) -> str:
    return names if isinstance(names, str) else names[0]


def _rows(state: Mapping[str, torch.Tensor], name: str, axis: int) -> int:
    """The size of a tensor along an axis. Raises UsageError where there is no such tensor or it is empty."""
    if name not in state or not state[name].numel():
        raise UsageError(
            f"--teacher_weights: {name} is missing among {shorten_list(sorted(state), 5)}. Is it the state dict of "
            "another architecture, or of one whose head or first layer was rebuilt?"
        )
    return state[name].shape[axis]


# ---------- preprocessing of its images


def _height_width(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def _processor(settings: Mapping[str, Any], hw: tuple[int, int], channels: int) -> ViTCustomImageProcessor:
    """Our processor with another library's settings; for grey images, mean and std are averaged over the colours."""
    colours = {}
    for name in ("image_mean", "image_std"):
        values = settings[name] if isinstance(settings[name], list | tuple) else [settings[name]]
        colours[name] = [sum(values) / len(values)] * channels if 1 in (channels, len(values)) else list(values)
    size = {"height": hw[0], "width": hw[1]}
    return ViTCustomImageProcessor(**{"size": size, **settings, **colours, "num_channels": channels})


def _prepared(processor: Any, known: str, settings: Mapping[str, Any]) -> str:
    """A sentence on how a teacher's images are prepared, and on the source of these settings."""
    edge = dict(processor.size).get("shortest_edge")
    height, width = (processor.crop_size or processor.size).height, (processor.crop_size or processor.size).width
    resampling = next(name for name, number in RESAMPLING.items() if number == processor.resample)
    given = ", ".join(sorted(settings.keys() - {"labels"}))
    mean, std = ([round(value, 4) for value in values] for values in (processor.image_mean, processor.image_std))
    return (
        f"images of {processor.num_channels}x{height}x{width}{f' from a shorter edge of {edge}' if edge else ''}, "
        f"{resampling}, mean {mean}, std {std}, as {known}"
        f"{f', but {given} as --teacher_config says' if given else ''}"
    )
