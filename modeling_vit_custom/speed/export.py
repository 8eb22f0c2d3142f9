"""Export of a model to a file for another runtime, compared with the original before it is kept: `vit-custom export`.

Shapes: B batch, C channels, H×W pixels.
"""

import copy
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.claims import digest_of
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from ..common.model_files import EXPORT
from ..common.model_names import named_model
from ..common.outputs import check_new_folder, new_folder
from ..common.timing import time_in_turn
from ..data.eval_examples import load_eval_examples
from ..data.examples import Examples
from ..data.source import Columns, Source
from ..engines.exported import FILES, RUNTIMES, ExportedClassifier, beside, file_bytes, file_digest
from ..engines.tracing import AXES, InFormat, Preprocessed, trace
from ..engines.writers import DTYPES, GRAPH, write
from ..evaluation.evaluate import evaluate_model
from ..inference.loading import load_classifier
from ..pretrained_vit_custom import ViTCustomPreTrainedModel
from ..speeds_vit_custom import apply_speed_preset
from ..tasks.registry import task_of
from .table import paired_difference

# Largest difference of outputs that a file may have, relative to the largest output.
ROUNDED = 0.5  # for weights in int8 or int4; labelled images then show the cost
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
PREPROCESSED = 5e-2  # the same if the file resizes: pixels may differ by one grey level
CALIBRATED_ON = 128  # images
MAX_ACCURACY_DROP = 0.5  # points of accuracy that a file may lose


class ExportError(RuntimeError):
    """The file's outputs or accuracy differ too much from the model's. Nothing has been written."""


@dataclass(frozen=True)
class ExportOptions:
    """What to export.   format_name, dtype: a pair of DTYPES.   dynamic: which of AXES may differ from call to call.

    batch_size: if it is not dynamic.   preprocessing: whether the file takes decoded images, uint8, of any size.
    """

    format_name: str = "onnx"
    dtype: str = "float32"
    dynamic: tuple[str, ...] = ("batch",)
    batch_size: int = 1
    preprocessing: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES[self.format_name]:
            raise ValueError(
                f"--dtype {self.dtype}: --format {self.format_name} has {', '.join(DTYPES[self.format_name])}."
            )
        if unknown := sorted(set(self.dynamic) - set(AXES)):
            raise ValueError(f"--dynamic {unknown[0]}: give some of {', '.join(AXES)}.")
        if self.preprocessing:  # images are of any size
            object.__setattr__(self, "dynamic", tuple(dict.fromkeys((*self.dynamic, "height", "width"))))


def export(
    source: str,
    output: str | Path,
    options: ExportOptions | None = None,
    data: Source | str | None = None,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    seconds: float = 4.0,
    speed: str | None = None,
    columns: Columns = Columns(),
    revision: str | None = None,
) -> dict[str, Any]:
    """Export a model to the new folder `output`; return what export.json holds.

    data: labelled images on which the file is compared with the original, and int8 is calibrated.
    max_accuracy_drop: points of accuracy that the file may lose on them.   seconds: of timing each.
    speed: one of the checkpoint's `speeds`, at which the model is exported; gain and loss are still reported against
    the original without it.   columns: of a table; see `load_eval_examples`.   revision: of a Hub id.

    Raises ExportError if the file's outputs differ from the model's at any compared size, or if too much accuracy is
    lost. After that, or any other error, there is no folder.
    """
    options, output = options or ExportOptions(), Path(output)
    source, revision = named_model(source, revision)
    check_new_folder(output, empty=False)
    original, processor = load_classifier(source, device="cpu", revision=revision)
    if not isinstance(original, ViTCustomPreTrainedModel):
        raise ValueError(f"{source} is a {type(original).__name__}: only this package's own models are exported.")
    if getattr(original.config, "quantization_config", None) is not None:
        raise ValueError(
            f"{source} is quantised: export the checkpoint that was, --dtype int8 quantises what comes out."
        )
    model: Any = original.float()
    if speed is not None:
        model = copy.deepcopy(original)
        apply_speed_preset(model.config, speed)
    if model.config.unknown is not None and (
        speed is not None or options.dtype not in TOLERANCE or model.config.unknown["score"] != "probability"
    ):
        for net in (original, model):
            net.drop_unknown(f"--dtype {options.dtype}" if speed is None else f"--speed {speed}")
    task = task_of(model.config)
    if data is not None and not task.one_label:
        raise ValueError(f"--data_dir: the accuracy of a {task.name} model is not compared.")
    if options.dtype not in TOLERANCE and data is None:
        raise ValueError(f"--dtype {options.dtype} needs --data_dir: only images can tell what rounding costs.")
    if any(side % cell for side, cell in zip(model.config.image_hw, model.config.patch_hw, strict=True)):
        raise ValueError(
            f"image_size={model.config.image_size} is not whole patches: load it at another (resize_input)."
        )
    sizes = [axis for axis in options.dynamic if axis != "batch"]
    if sizes and not options.preprocessing and (model.config.token_merging or model.config.shrink_to):
        raise ValueError(f"--dynamic {sizes[0]}: token_merging and shrink_to make a graph of one size. Leave it out.")
    examples = None
    if data is not None:
        labels: Any = model.config.id2label
        examples, _ = load_eval_examples(data, labels, task.targets, columns)
    with new_folder(output) as folder:
        exported, record = build(model, processor, folder, options, examples)
        record["compared"] = compare(model, processor, exported)
        demand_parity(record)
        record |= {"setting": speed, "speed": rates(original, processor, exported, seconds)}
        record["original"] = {"sha256": digest_of(source, revision)}
        left = decode_only_processor(processor) if options.preprocessing else processor
        if examples is not None:
            record["accuracy"] = compare_accuracy(original, processor, exported, left, examples)
            demand_accuracy(record, max_accuracy_drop)
        model.config.save_pretrained(folder)
        left.save_pretrained(folder)
        record["beside"] = beside(folder)
        write_json(folder / EXPORT, record)
    return record


def build(
    model: Any, processor: Any, folder: Path, options: ExportOptions, examples: Examples | None
) -> tuple[ExportedClassifier, dict[str, Any]]:
    """Write the file into `folder` and open it; return (the classifier that runs it, the first part of its record)."""
    config, output = model.config, task_of(model.config).listing.output
    size = [options.batch_size, config.num_channels, *config.image_hw]
    dtype = GRAPH.get((options.format_name, options.dtype), torch.float32)
    inner: Any = InFormat(copy.deepcopy(model), output, dtype)
    whole = Preprocessed(inner, processor) if options.preprocessing else inner
    program = trace(whole, size, options.dynamic, None if options.preprocessing else config.patch_hw)
    path = folder / FILES[options.format_name]

    def inputs() -> Iterator[np.ndarray]:
        assert examples is not None
        for index in np.random.default_rng(0).permutation(len(examples))[:CALIBRATED_ON]:
            decoded = processor.decode(examples.images[index], name=examples.names[index])
            one = model_inputs(decoded[None], processor, options.preprocessing)
            yield one.expand(1 if "batch" in options.dynamic else options.batch_size, -1, -1, -1).numpy()

    write(program, path, options.format_name, options.dtype, output, None if examples is None else inputs)
    record = {
        "format": options.format_name, "dtype": options.dtype, "dynamic": list(options.dynamic), "input": size,
        "preprocessing": options.preprocessing, "bytes": file_bytes(path), "original_bytes": 4 * model.num_parameters(),
        "sha256": file_digest(path), **versions(),
        **hardware(torch.device("cpu")),
    }  # fmt: skip
    return ExportedClassifier(config, RUNTIMES[options.format_name](path), record), record


def model_inputs(decoded: torch.Tensor, processor: Any, preprocessing: bool) -> torch.Tensor:
    """Return uint8 images [B, C, H, W] as a file takes them: unchanged if it preprocesses them, else processed."""
    if preprocessing:
        return decoded
    return processor(list(decoded), return_tensors="pt", input_data_format="channels_first")["pixel_values"]


def decode_only_processor(processor: Any) -> Any:
    """Return the processor for a file that resizes and normalises itself: it only decodes, to numbers from 0 to 1."""
    left = copy.deepcopy(processor)
    left.do_resize = left.do_center_crop = left.do_normalize = False
    left.do_rescale, left.rescale_factor = True, 1 / 255
    return left


# ---------- checks that a file has to pass


def compare(model: Any, processor: Any, exported: ExportedClassifier) -> list[dict[str, Any]]:
    """Return the largest difference of outputs, on noise in the range of images, at some sizes that the file takes."""
    record, task, rows = exported.record, task_of(model.config), []
    batch, channels, height, width = record["input"]
    p, q = model.config.patch_hw
    heights = [height, height + 2 * p, 3 * height] if "height" in record["dynamic"] else [height]
    widths = [width, width + 3 * q] if "width" in record["dynamic"] else [width]
    for size in product([1, 3] if "batch" in record["dynamic"] else [batch], [channels], heights, widths):
        generator = torch.Generator().manual_seed(0)
        if record["preprocessing"]:
            images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
            ours, theirs = model_inputs(images, processor, False), images / 255
        else:
            ours = theirs = torch.rand(size, generator=generator) * 2 - 1
        with torch.inference_mode():
            expected, answer = model(ours)[task.listing.output], exported(theirs)[task.listing.output]
        apart = float((answer - expected).abs().max())
        agree = float(torch.from_numpy(task.agree(expected.numpy(), answer.numpy())).float().mean())
        largest = float(expected.abs().max())
        relative = apart / largest if largest else apart
        rows.append({"size": list(size), "absolute": apart, "relative": relative, "top1": agree})
    return rows


def demand_parity(record: dict[str, Any]) -> None:
    allowed = max([TOLERANCE.get(record["dtype"], ROUNDED)] + [PREPROCESSED] * record["preprocessing"])
    for row in record["compared"]:
        if not row["relative"] <= allowed:  # also refuses NaN
            raise ExportError(
                f"the {record['format']} file's logits for {row['size']} differ from the original's by "
                f"{row['relative']:.1e} of the largest; {allowed:.0e} would be usual for {record['dtype']}."
            )


def compare_accuracy(model: Any, processor: Any, exported: Any, left: Any, examples: Examples) -> dict[str, Any]:
    """Return both accuracies on the same images, and the paired difference with its 95 % interval."""
    task = task_of(model.config)
    right = [
        task.score(result.outputs, result.values) > 0
        for result in (evaluate_model(model, processor, examples), evaluate_model(exported, left, examples))
    ]
    difference, low, high = paired_difference(right[1], right[0])
    shares = {"original": float(right[0].mean()), "exported": float(right[1].mean())}
    return shares | {"difference": difference, "low": low, "high": high, "n": len(examples)}


def demand_accuracy(record: dict[str, Any], max_accuracy_drop: float) -> None:
    found = record["accuracy"]
    if -100 * found["difference"] > max_accuracy_drop:
        raise ExportError(
            f"the {record['format']} file in {record['dtype']} is right on {found['exported']:.2%} of {found['n']:,} "
            f"images, the original on {found['original']:.2%}: more than {max_accuracy_drop} points are lost "
            "(--max_lost)."
        )


def rates(model: Any, processor: Any, exported: ExportedClassifier, seconds: float) -> dict[str, Any]:
    """Return images a second of file and original, timed in turn, at the file's batch size (8 if that is dynamic)."""
    batch, *size = exported.record["input"]
    batch = 8 if "batch" in exported.record["dynamic"] else batch
    images = torch.randint(0, 256, (batch, *size), dtype=torch.uint8)
    pixel_values = model_inputs(images, processor, False)
    theirs = images / 255 if exported.record["preprocessing"] else pixel_values

    def original() -> Any:
        return model(model_inputs(images, processor, False) if exported.record["preprocessing"] else pixel_values)

    with torch.inference_mode():
        times = time_in_turn({"original": original, "exported": lambda: exported(theirs)}, seconds)
    found = {name: batch / statistics.median(taken) for name, taken in times.items()}
    return found | {"ratio": found["exported"] / found["original"], "batch": batch}
