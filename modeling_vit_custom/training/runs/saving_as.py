"""A trained model written a second time, for a library that loads it without remote code: --save_as."""

import shutil
from pathlib import Path
from typing import Any

from ...common.claims import BEFORE, read_record, weights_digest
from ...common.errors import UsageError
from ...common.model_files import CONVERSION
from ...conversion.engine import ConversionError
from ...conversion.export import check_expressible, export
from ...publishing.as_library import differences
from ..arguments.training_arguments import ViTTrainingArguments

KEEP_BIASES = ("linear_probe", "fitted_head", "lora")  # methods that leave the encoder's biases as they are


class NotSavedAs(RuntimeError):
    """The training has ended and its model is saved, but it was not written for another library."""


def check_saving_as(model: Any, processor: Any, args: ViTTrainingArguments, method: str | None) -> None:
    """Raise UsageError, before training, for a model that --save_as cannot express, and for a folder that is not its.

    method: of the training; some leave zeros as they are.
    """
    if (library := args.save_as) is None:
        return
    folder = Path(args.output_dir) / library
    if folder.exists() and BEFORE not in read_record(folder / CONVERSION):
        raise UsageError(f"--save_as {library} would write {folder}, which is something else: remove it.")
    try:
        check_expressible(model, processor, library, changes=method not in KEEP_BIASES)
    except ImportError as error:
        raise UsageError(f"--save_as {library}: {error}; pip install 'vit-custom[convert]'.") from error
    except ConversionError as error:
        raise UsageError(f"--save_as {library}: {error}") from error


def save_as(args: ViTTrainingArguments) -> None:
    """Convert the finished model of a run for the library of --save_as, in one process; print how far both lie apart.

    Nothing is done if it was converted before. Raises NotSavedAs if the library's model does not give the same.
    """
    if (library := args.save_as) is None:
        return
    run = Path(args.output_dir)
    folder, digest = run / library, weights_digest(run)
    if (read_record(folder / CONVERSION).get(BEFORE) or {}).get("sha256") == digest:
        print(f"{folder} holds this model already", flush=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        report = export(str(run), folder, library, from_images=True)
    except (ConversionError, ImportError, OSError) as error:
        raise NotSavedAs(f"the trained model is in {run}, but not in {folder}: {error}") from error
    print(f"{folder}: {report['family']}, {differences(report['check'])}", flush=True)
