"""The classes that transformers finds in a folder: what config.json lists in `auto_map` and `custom_pipelines`.

A saved folder lists its model's own class, the configuration, and the encoder, which is a part of every model (features
and `pipeline("image-feature-extraction")` load it). It lists no other head: transformers would find the module of that
head missing, or a pipeline would start it with random weights. The checkout's config.json lists all classes.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

# The module and class that transformers loads for each Auto class; a saved folder is flat.
AUTO_MAP = {
    "AutoConfig": "configuration_vit_custom.ViTCustomConfig",
    "AutoModel": "modeling_vit_custom.ViTCustomModel",
    "AutoBackbone": "modeling_vit_custom.ViTCustomBackbone",
    "AutoModelForImageClassification": "modeling_vit_custom.ViTCustomForImageClassification",
    "AutoModelForMaskedImageModeling": "masked_images_vit_custom.ViTCustomForMaskedImageModeling",
    "AutoModelForSemanticSegmentation": "segmentation_vit_custom.ViTCustomForSemanticSegmentation",
}
# The pipeline that decodes images without loss; `pipeline` reads this entry if it may run the folder's code.
CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    "image-classification": {
        "impl": "pipeline_vit_custom.ViTCustomImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }
}


def listed_classes(
    folder: str | os.PathLike, architectures: Iterable[str] | None, written: Mapping[str, str] | None
) -> dict[str, str]:
    """Return the `auto_map` of a model that is saved to `folder`; it lists a class only if its module lies there.

    architectures: names of the model's class, as `config.architectures`.
    written: the map so far, in which transformers has entered the class of a model that is a user's own subclass.
    """
    names = set(architectures or ())
    own = {auto: target for auto, target in (written or {}).items() if _class_of(target) in names}
    entries = own | {auto: target for auto, target in AUTO_MAP.items() if _class_of(target) in names}
    entries["AutoModel"] = entries.get("AutoModel") or AUTO_MAP["AutoModel"]
    found = {auto: target for auto, target in sorted(entries.items()) if _lies_in(folder, target)}
    return {"AutoConfig": AUTO_MAP["AutoConfig"], **found}


def listed_pipelines(folder: str | os.PathLike, auto_map: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the `custom_pipelines` of a saved folder: those of its own class whose module lies there."""
    return {
        task: entry
        for task, entry in CUSTOM_PIPELINES.items()
        if auto_map.keys() >= set(entry["pt"]) and _lies_in(folder, entry["impl"])
    }


def _class_of(target: Any) -> str:
    """The name of the class of "module.Class", empty for what leads out of the folder."""
    return target.rpartition(".")[2] if isinstance(target, str) and not {"/", "-"} & set(target) else ""


def _lies_in(folder: str | os.PathLike, target: str) -> bool:
    return os.path.isfile(os.path.join(folder, target.split(".")[0] + ".py"))
