"""A saved image classifier and its processor, ready to run."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from ..data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def default_device() -> torch.device:
    """This process's accelerator (by LOCAL_RANK), or the CPU where there is none."""
    if (accelerator := torch.accelerator.current_accelerator(check_available=True)) is None:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count()
    return torch.device(accelerator.type, index)


def load_classifier(
    source: str, trust_remote_code: bool = False, device: torch.device | str | None = None
) -> tuple[PreTrainedModel, Any]:
    """(model in eval mode on `device`, image processor) from a saved folder or a Hub id.

    Checkpoints of this package need no `trust_remote_code`. Raises FileNotFoundError for a folder that is not
    there, ValueError for a checkpoint that has no classifier, or lacks some of its weights: they would be random.
    """
    is_id = source.count("/") <= 1 and not source.startswith((".", "/", "~"))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{source} holds no config.json; give a folder made by save_pretrained.")
        source = str(folder)
    elif not is_id or folder.exists():
        raise FileNotFoundError(f"{source} is not a folder; give a saved model's folder or a Hub id.")
    model, info = AutoModelForImageClassification.from_pretrained(
        source, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{source} lacks weights an image classifier needs ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}); they would be random. Fine-tune it first."
        )
    if not model.config.id2label:
        raise ValueError(f"{source} has no labels (num_labels=0); give a model with a classifier.")
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    return model.eval().to(device or default_device()), processor


def problem_type_of(config: Any) -> str:
    """The config's problem_type; where unset, regression for one label (as transformers trains it), else
    single-label classification.

    Raises ValueError for any other.
    """
    problem_type = config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        raise ValueError(f"config.problem_type is {problem_type!r}; use single_label_classification, …")
    return problem_type
