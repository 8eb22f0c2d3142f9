"""A saved model and its processor, ready to run."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from ..common.allocator import keep_freed_memory
from ..common.model_files import CONFIG
from ..common.model_names import COMMIT, may_be_id, named_model, unpinned
from ..configuration_vit_custom import ViTCustomConfig
from ..engines.exported import is_export, load_exported
from ..foreign_vit_custom import refuse_foreign_files
from ..tasks.hub import CLASSIFICATION, Listing, listing_stored
from .foreign import check_processor_fields, check_size, foreign_config, refuse_adapter, stored_fields, weights_header

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device() -> torch.device:
    """Return this process's accelerator (chosen by LOCAL_RANK), or the CPU if there is none."""
    if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is None:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count()
    return torch.device(accelerator.type, index)


def load_classifier(
    source: str,
    trust_remote_code: bool = False,
    device: torch.device | str | None = None,
    revision: str | None = None,
    speed: str | None = None,
    dtype: str | None = None,
    listing: Listing | None = CLASSIFICATION,
    dense: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Load (model in eval mode on `device`, image processor) from a saved folder, an export's, a Hub id or ID@REVISION.

    Checkpoints of this package need no `trust_remote_code`. Only safetensors are read. revision: branch, tag or commit
    of a Hub id. To run its code, the 40 hexadecimal digits of a commit are needed, because a branch or tag can hold
    other code tomorrow. speed: one of the checkpoint's `speeds`. dtype: one of FORMATS; if None, the stored one.
    listing: that of the model's task; None for the one it was saved for. dense: whether that may be a task with an
    answer a pixel.

    Raises FileNotFoundError for a folder that does not exist. Raises ValueError for code that is not pinned or lies in
    another repository, for bare weights of another library, and for a checkpoint that lacks the task's head or some of
    its weights: they would be random.
    """
    keep_freed_memory()
    source, revision = named_model(source, revision)
    folder = Path(source).expanduser()
    refuse_foreign_files(folder)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{source} holds no config.json; give a folder made by save_pretrained.")
        if revision is not None:
            raise ValueError(f"{source} is a folder and has no revision={revision!r}: leave the revision out.")
        source = str(folder)
        if is_export(folder):
            if speed is not None:
                raise ValueError(f"{source} is an export, made at one speed: leave speed={speed!r} out.")
            if dtype is not None:
                raise ValueError(f"{source} is an export, made in one format: leave dtype={dtype!r} out.")
            return load_exported(folder, trust_remote_code)
    elif not may_be_id(source) or folder.exists():
        raise FileNotFoundError(f"{source} is not a folder; give a saved model's folder or a Hub id.")
    elif trust_remote_code and not COMMIT.fullmatch(revision or ""):
        raise ValueError(unpinned(source, revision))
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    of_model: dict[str, Any] = {
        name: value for name, value in (("speed", speed), ("dtype", dtype)) if value is not None
    }
    if not folder.is_dir():
        options["revision"] = revision or "main"
    where = {name: value for name, value in options.items() if name == "revision"}
    if trust_remote_code:
        _check_code_origin(source, where)
    fields = stored_fields(source, **where)
    stored = listing_stored(fields)
    if not dense:
        stored.refuse_dense(source)
    listing = listing or stored
    foreign = fields.get("model_type") != ViTCustomConfig.model_type
    if foreign or not folder.is_dir():
        refuse_adapter(source, **where)
    if foreign:
        of_model["config"] = _checked_config(source, fields, listing, trust_remote_code, where)
    try:
        model, info = listing.auto_class.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **of_model, **options
        )
    except TypeError as error:
        if speed is None:
            raise
        raise ValueError(f"{source}: only this package's own models have speeds, leave speed={speed!r} out.") from error
    except (RuntimeError, StrictDataclassError) as error:  # weights that do not fit, fields of a wrong type
        raise ValueError(f"{source}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{source} lacks weights {listing.noun} needs ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}); they would be random. Fine-tune it first."
        )
    if listing is CLASSIFICATION and not model.config.id2label:
        raise ValueError(f"{source} has no labels (num_labels=0); give a model with a classifier.")
    processor = AutoImageProcessor.from_pretrained(source, **options)
    return model.eval().to(device or default_device()), processor


def _checked_config(
    source: str, fields: dict[str, Any], listing: Listing, trust_remote_code: bool, where: dict[str, Any]
) -> Any:
    """The configuration of another library's model.

    Raises ValueError if its values fetch something, or describe a model that its weight files cannot hold.
    """
    header = weights_header(source, **where)
    with contextlib.suppress(OSError):  # timm's folders store no processor
        check_processor_fields(source, ImageProcessingMixin.get_image_processor_dict(source, **where)[0])
    config = foreign_config(source, fields, header, listing.mapping, trust_remote_code, **where)
    if not (trust_remote_code and fields.get("auto_map")):
        check_size(source, lambda: listing.auto_class.from_config(config), header)
    return config


def _check_code_origin(source: str, where: dict[str, Any]) -> None:
    """Raises ValueError if model or processor would run code of a repository other than `source`."""
    config = stored_fields(source, **where)
    processor, _ = ImageProcessingMixin.get_image_processor_dict(source, **where)
    for stored in (config, processor):
        for origin in re.findall(r'"([^"]*)--', json.dumps(stored.get("auto_map"))):
            if origin != source:
                raise ValueError(
                    f"{source}: its auto_map runs code of another repository, {origin}, which no revision of this "
                    "one pins. Copy that code into the folder and drop what stands before '--'."
                )
