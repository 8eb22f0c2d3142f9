"""`vit-custom convert`: conversion of another library's ViT checkpoint to a folder of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.claims import write_stamped
from ..common.model_files import CONVERSION
from ..common.outputs import check_new_folder, new_folder
from .build import Conversion, build
from .check import compare
from .engine import ConversionError
from .sources import open_source


def convert(
    source: str, output: str | Path, flags: Mapping[str, Any], family: str | None = None, check: bool = False
) -> dict[str, Any]:
    """Convert `source` into the new or empty folder `output`; return the content of its conversion.json.

    flags: configuration fields that the source does not state.   check: run both models and compare; the result is the
    report's "check". Raises ConversionError, before anything is written, if a faithful conversion is not possible.
    """
    output = Path(output)
    check_new_folder(output, ConversionError)
    opened = open_source(source, flags, family)
    conversion = build(opened.source, opened.family)
    report = describe(source, conversion)
    if check:
        report["check"] = compare(opened.reference(conversion), conversion.model, conversion.processor)
    with new_folder(output, ConversionError) as folder:
        conversion.model.save_pretrained(folder)
        conversion.processor.save_pretrained(folder)
        return write_stamped(folder / CONVERSION, report)


def describe(source: str, conversion: Conversion) -> dict[str, Any]:
    """Return the report: the model's origin, without paths of this machine, and every assumption that was made."""
    config = conversion.model.config
    return {
        "source": Path(source).name if Path(source).exists() else source,
        "family": conversion.family.name,
        "parameters": sum(parameter.numel() for parameter in conversion.model.parameters()),
        "image_size": list(config.image_hw),
        "classes": config.num_labels,
        "notes": conversion.notes,
    }
