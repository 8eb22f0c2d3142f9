"""`convert` and `export` as functions with keyword arguments."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..common.image_pixels import MAX_PIXELS, pixels_allowed
from ..common.model_names import named_model
from ..common.progress_bars import bars_of_others
from ..conversion.convert import convert as convert_in
from ..conversion.engine import ConversionError
from ..conversion.export import LIBRARIES
from ..conversion.export import export as convert_back
from ..engines.exported import FILES
from ..interpolation_vit_custom import POSITION_RULES
from ..speed.export import MAX_ACCURACY_DROP, ExportOptions
from ..speed.export import export as write_export
from .checks import at_least_one, measured_source, named_columns, named_once, one_of
from .results import Converted, Exported


@bars_of_others(False)
def convert(
    model: str | Path | None = None,
    output: str | Path | None = None,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    family: str | None = None,
    to: str | None = None,
    check: bool = False,
    image_size: int | Sequence[int] | None = None,
    num_attention_heads: int | None = None,
    hidden_act: str | None = None,
    layer_norm_eps: float | None = None,
    position_interpolation: str | None = None,
) -> Converted:
    """Convert another library's checkpoint into the new or empty folder `output`; returns its conversion.json.

    model: a .npz, .safetensors or .pth file, a folder saved by transformers or timm, timm:NAME, torchvision:NAME or
    timm:hf-hub:REPO@COMMIT; `source` is another name for this parameter.   revision: that commit, if it is not in the
    name.   family: the model family, if the tensors' names are ambiguous.   check: run both models and compare; the
    report's "check" says whether it "passed".   image_size to position_interpolation: configuration fields that the
    source does not state.   to: "hf" or "timm" converts in the other direction: `model` is a folder of ours, `output`
    a folder for that library or a file *.safetensors.

    Raises ConversionError, before anything is written, if a faithful conversion is not possible, WeightFileError for a
    damaged file, UsageError for an unknown value and for a name that is missing or given twice, ImportError if the
    library is not installed, and OSError.
    """
    one_of("to", to, (None, *LIBRARIES))
    one_of("position_interpolation", position_interpolation, (None, *POSITION_RULES))
    if isinstance(image_size, Sequence):
        image_size = image_size[0] if len(image_size) == 1 else tuple(image_size)
    fields = {
        "image_size": image_size,
        "num_attention_heads": num_attention_heads,
        "hidden_act": hidden_act,
        "layer_norm_eps": layer_norm_eps,
        "position_interpolation": position_interpolation,
    }
    said = {name: value for name, value in fields.items() if value is not None}
    named, output = os.fspath(named_once(model=model, source=source)), os.fspath(named_once(output=output))
    name, at = named_model(named, revision)
    if at is not None:
        raise ConversionError(
            f"{name} at revision {at} is nothing that convert reads from the Hub: give timm:hf-hub:REPO@COMMIT, or "
            f"download it, `hf download {name} --revision {at} --local-dir DIR`, and give that folder."
        )
    if to is None:
        return Converted(convert_in(name, output, said, family, check), Path(output))
    if said:
        raise ConversionError(f"--to writes what a folder of ours says: leave out {', '.join(said)}.")
    return Converted(convert_back(name, output, to, family), Path(output))


def export(
    model: str | Path,
    output: str | Path,
    *,
    format: str = "onnx",
    dtype: str = "float32",
    dynamic: str | Sequence[str] = "batch",
    batch_size: int = 1,
    preprocessing: bool = False,
    speed: str | None = None,
    data_dir: str | Path | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    split: str | None = None,
    max_lost: float = MAX_ACCURACY_DROP,
    image_column_name: str = "image",
    label_column_name: str = "label",
    label_separator: str = "|",
    problem_type: str | None = None,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    revision: str | None = None,
) -> Exported:
    """Export a classifier for another runtime into the new folder `output`; returns the content of its export.json.

    model: a saved folder, a Hub id or "REPO@REVISION".   revision: branch, tag or commit of a Hub id.
    format: "onnx", "torch_export" or "openvino".   dynamic: which of batch, height and width may differ from call to
    call, "batch,height" or a list; "" for none.   data_dir, dataset_name and the parameters that follow: labelled
    images, as for `evaluate`; the integer dtypes need them.   max_lost: points of accuracy that the file may lose on
    these images.   preprocessing: resize and normalise inside the file.   speed: one of the checkpoint's speeds.
    max_pixels: size limit of an image that is decoded.

    Raises ExportError if the file's answers differ from the original's, ValueError (base of UsageError and OutputError)
    if the export cannot be done as asked, OSError, and ImportError if a runtime is not installed. No folder is left
    after an error.
    """
    one_of("format", format, tuple(FILES))
    at_least_one("max_pixels", max_pixels)
    at_least_one("batch_size", batch_size)
    source = measured_source(data_dir, dataset_name, dataset_config_name, dataset_revision, split, follow_links)
    columns = named_columns(image_column_name, label_column_name, label_separator, problem_type)
    axes = dynamic.split(",") if isinstance(dynamic, str) else dynamic
    with pixels_allowed(max_pixels):
        record = write_export(
            os.fspath(model),
            os.fspath(output),
            ExportOptions(format, dtype, tuple(axis for axis in axes if axis), batch_size, preprocessing),
            None if data_dir is None and dataset_name is None else source,
            max_lost,
            speed=speed,
            columns=columns,
            revision=revision,
        )
    return Exported(record, Path(output))
