"""The forms of a published model: with its own code, or without code, as a model of transformers or timm."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.json_files import read_json
from ..common.model_files import CONFIG, CONFIGS
from ..configuration_vit_custom import ViTCustomConfig
from ..tasks.hub import CLASSIFICATION, FEATURES, Listing, listing_of, listing_stored


@dataclass(frozen=True)
class Form:
    """name: as --as gives it; "custom" is our own class with its code.   library: the card's library_name.
    configs: files of settings that a repository must hold.
    backends: ways to prepare an image, for each of which golden.json has outputs.
    answers: what gives an image's labels; they are recorded for the first of `backends`.
    needs: packages that load the model.
    """

    name: str
    library: str
    configs: tuple[str, ...]
    backends: tuple[str, ...]
    answers: str
    needs: tuple[str, ...]

    @property
    def has_code(self) -> bool:
        return self is CUSTOM


_TRANSFORMERS = ("transformers", "torch", "torchvision", "pillow")
CUSTOM = Form("custom", "transformers", CONFIGS, ("torchvision", "pil"), "pipeline", _TRANSFORMERS)
HF = Form("hf", "transformers", CONFIGS, ("torchvision", "pil"), "pipeline", _TRANSFORMERS)
TIMM = Form("timm", "timm", (CONFIG,), ("timm",), "scores", ("timm", "torch", "torchvision", "pillow"))
FORMS = {form.name: form for form in (CUSTOM, HF, TIMM)}


def form_of(config: Mapping[str, Any]) -> Form:
    """Return the form of a stored configuration. One that names code, or that is unclear, is taken for our own."""
    if "model_type" not in config:
        return TIMM if "architecture" in config and "auto_map" not in config else CUSTOM
    names_code = "auto_map" in config or "custom_pipelines" in config
    return CUSTOM if names_code or config["model_type"] == ViTCustomConfig.model_type else HF


def form_in(folder: Path) -> Form:
    """Return the form of the model in a folder; of one without a readable config.json it is our own."""
    try:
        return form_of(read_json(folder / CONFIG))
    except (OSError, ValueError):
        return CUSTOM


def listing_for(config: Mapping[str, Any]) -> Listing:
    """Return the listing of a stored configuration of any form."""
    form = form_of(config)
    if form is TIMM:
        return CLASSIFICATION if config.get("num_classes") else FEATURES
    return listing_stored(config) if form is HF else listing_of(config)


def labels_for(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the labels of a stored configuration of transformers or timm, by id; {} for an encoder."""
    if listing_for(config) is FEATURES:
        return {}
    if form_of(config) is TIMM:
        return dict(enumerate(map(str, config.get("label_names") or ())))
    stored = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers omits these defaults
    return {int(number): str(name) for number, name in stored.items()}
