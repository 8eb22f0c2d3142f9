"""A classifier as a file for another runtime, compared with the original before it is there: `vit-custom export`.

Shapes: B batch, C channels, H×W pixels, K classes.
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
from ..common.outputs import check_new_folder, new_folder
from ..common.timing import time_in_turn
from ..data.examples import Examples
from ..data.source import Columns
from ..data.sources import load_eval_examples
from ..engines.exported import FILES, RUNTIMES, ExportedClassifier, file_bytes, file_digest
from ..engines.tracing import AXES, InFormat, Preprocessed, trace
from ..engines.writers import DTYPES, GRAPH, write
from ..evaluation.evaluate import evaluate_model
from ..inference.loading import load_classifier
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..speeds_vit_custom import choose_speed
from ..tasks.registry import task_of
from ..tasks.task import ONE_LABEL
from .table import paired_difference

# Largest difference of logits, relative to the largest of them, that a file may have.
ROUNDED = 0.5  # of weights in int8 or int4: what it costs is for images to tell
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
PREPROCESSED = 5e-2  # the same where pixels are resized in the file: they may differ by a grey level
CALIBRATED_ON = 128  # images
LOST = 0.5  # points of accuracy that a file may lose


class ExportError(RuntimeError):
    """The file would not be the model. Nothing has been written."""


@dataclass(frozen=True)
class Wanted:
    """form, dtype: a pair of DTYPES.   dynamic: which of AXES may differ from call to call.

    batch_size: of a file whose batch may not.   preprocessing: the file takes decoded images, uint8, of any size.
    """

    form: str = "onnx"
    dtype: str = "float32"
    dynamic: tuple[str, ...] = ("batch",)
    batch_size: int = 1
    preprocessing: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES[self.form]:
            raise ValueError(f"--dtype {self.dtype}: --format {self.form} has {', '.join(DTYPES[self.form])}.")
        if unknown := sorted(set(self.dynamic) - set(AXES)):
            raise ValueError(f"--dynamic {unknown[0]}: give some of {', '.join(AXES)}.")
        if self.preprocessing:  # images are of any size
            object.__setattr__(self, "dynamic", tuple(dict.fromkeys((*self.dynamic, "height", "width"))))


def export(
    source: str,
    output: str | Path,
    wanted: Wanted | None = None,
    data_dir: str | None = None,
    lost: float = LOST,
    seconds: float = 4.0,
    speed: str | None = None,
    columns: Columns = Columns(),
    follow_links: bool = False,
) -> dict[str, Any]:
    """Writes the folder `output`; returns what export.json holds.

    data_dir: labelled images on which file and original are compared, and int8 is calibrated; lost: points of accuracy
    that the file may lose on them. seconds: of timing each. speed: one of the checkpoint's `speeds`, at which the file
    is the model; what it gains and loses is still told against the original without it. columns,
    follow_links: of a table; see `load_eval_examples`.
    Raises ExportError where the file's logits are not the original's, at any of the sizes it is for, or its accuracy
    is not; then, and wherever something else fails, there is no folder.
    """
    wanted, output = wanted or Wanted(), Path(output)
    check_new_folder(output, empty=False)
    original, processor = load_classifier(source, device="cpu")
    if not isinstance(original, ViTCustomForImageClassification):
        raise ValueError(f"{source} is a {type(original).__name__}: only this package's own models are exported.")
    if getattr(original.config, "quantization_config", None) is not None:
        raise ValueError(
            f"{source} is quantised: export the checkpoint that was, --dtype int8 quantises what comes out."
        )
    model: Any = original.float()
    if speed is not None:
        model = copy.deepcopy(original)
        choose_speed(model.config, speed)
    single = ONE_LABEL in task_of(model.config).supports
    if data_dir is not None and not single:
        raise ValueError(f"--data_dir: the accuracy of a {task_of(model.config).name} model is not compared.")
    if wanted.dtype not in TOLERANCE and data_dir is None:
        raise ValueError(f"--dtype {wanted.dtype} needs --data_dir: only images can tell what rounding costs.")
    if any(side % cell for side, cell in zip(model.config.image_hw, model.config.patch_hw, strict=True)):
        raise ValueError(
            f"image_size={model.config.image_size} is not whole patches: load it at another (resize_input)."
        )
    sizes = [axis for axis in wanted.dynamic if axis != "batch"]
    if sizes and not wanted.preprocessing and (model.config.token_merging or model.config.shrink_to):
        raise ValueError(f"--dynamic {sizes[0]}: token_merging and shrink_to make a graph of one size. Leave it out.")
    examples = None
    if data_dir is not None:
        labels: Any = model.config.id2label
        examples = load_eval_examples(data_dir, labels, task_of(model.config).name, columns, follow_links)
    with new_folder(output) as folder:
        exported, record = build(model, processor, folder, wanted, examples)
        record["compared"] = compare(model, processor, exported)
        demand_parity(record)
        record |= {"setting": speed, "speed": rates(original, processor, exported, seconds)}
        record["original"] = {"sha256": digest_of(source)}
        left = left_to_do(processor) if wanted.preprocessing else processor
        if examples is not None:
            record["accuracy"] = compare_accuracy(original, processor, exported, left, examples)
            demand_accuracy(record, lost)
        model.config.save_pretrained(folder)
        left.save_pretrained(folder)
        write_json(folder / EXPORT, record)
    return record


def build(
    model: Any, processor: Any, folder: Path, wanted: Wanted, examples: Examples | None
) -> tuple[ExportedClassifier, dict[str, Any]]:
    """Writes the file into `folder` and opens it: (what runs it, the beginnings of its record)."""
    config = model.config
    size = [wanted.batch_size, config.num_channels, *config.image_hw]
    inner: Any = InFormat(copy.deepcopy(model), GRAPH.get((wanted.form, wanted.dtype), torch.float32))
    whole = Preprocessed(inner, processor) if wanted.preprocessing else inner
    program = trace(whole, size, wanted.dynamic, None if wanted.preprocessing else config.patch_hw)
    path = folder / FILES[wanted.form]

    def inputs() -> Iterator[np.ndarray]:
        assert examples is not None
        for index in np.random.default_rng(0).permutation(len(examples))[:CALIBRATED_ON]:
            decoded = processor.decode(examples.images[index], name=examples.names[index])
            one = given(decoded[None], processor, wanted.preprocessing)
            yield one.expand(1 if "batch" in wanted.dynamic else wanted.batch_size, -1, -1, -1).numpy()

    write(program, path, wanted.form, wanted.dtype, None if examples is None else inputs)
    record = {
        "format": wanted.form, "dtype": wanted.dtype, "dynamic": list(wanted.dynamic), "input": size,
        "preprocessing": wanted.preprocessing, "bytes": file_bytes(path), "original_bytes": 4 * model.num_parameters(),
        "sha256": file_digest(path), **versions(),
        **hardware(torch.device("cpu")),
    }  # fmt: skip
    return ExportedClassifier(config, RUNTIMES[wanted.form](path), record), record


def given(decoded: torch.Tensor, processor: Any, preprocessing: bool) -> torch.Tensor:
    """uint8 images [B, C, H, W] as a file takes them: as they are, or what the processor makes of them."""
    if preprocessing:
        return decoded
    return processor(list(decoded), return_tensors="pt", input_data_format="channels_first")["pixel_values"]


def left_to_do(processor: Any) -> Any:
    """The processor of a file that resizes and normalises itself: it decodes, to numbers from 0 to 1."""
    left = copy.deepcopy(processor)
    left.do_resize = left.do_center_crop = left.do_normalize = False
    left.do_rescale, left.rescale_factor = True, 1 / 255
    return left


# ---------- what a file has to prove


def compare(model: Any, processor: Any, exported: ExportedClassifier) -> list[dict[str, Any]]:
    """The largest difference of logits at some of the sizes that the file is for, on noise in the range of images."""
    record, rows = exported.record, []
    batch, channels, height, width = record["input"]
    p, q = model.config.patch_hw
    heights = [height, height + 2 * p, 3 * height] if "height" in record["dynamic"] else [height]
    widths = [width, width + 3 * q] if "width" in record["dynamic"] else [width]
    for size in product([1, 3] if "batch" in record["dynamic"] else [batch], [channels], heights, widths):
        generator = torch.Generator().manual_seed(0)
        if record["preprocessing"]:
            images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
            ours, theirs = given(images, processor, False), images / 255
        else:
            ours = theirs = torch.rand(size, generator=generator) * 2 - 1
        with torch.inference_mode():
            expected, answer = model(ours).logits, exported(theirs).logits
        apart = float((answer - expected).abs().max())
        agree = float((answer.argmax(1) == expected.argmax(1)).float().mean())
        largest = float(expected.abs().max())
        relative = apart / largest if largest else apart
        rows.append({"size": list(size), "absolute": apart, "relative": relative, "top1": agree})
    return rows


def demand_parity(record: dict[str, Any]) -> None:
    allowed = max([TOLERANCE.get(record["dtype"], ROUNDED)] + [PREPROCESSED] * record["preprocessing"])
    for row in record["compared"]:
        if not row["relative"] <= allowed:  # NaN is not
            raise ExportError(
                f"the {record['format']} file's logits for {row['size']} differ from the original's by "
                f"{row['relative']:.1e} of the largest; {allowed:.0e} would be usual for {record['dtype']}."
            )


def compare_accuracy(model: Any, processor: Any, exported: Any, left: Any, examples: Examples) -> dict[str, Any]:
    """Both on the same images, and the paired difference with its 95 % interval."""
    right = [
        result.logits.argmax(1) == result.labels
        for result in (evaluate_model(model, processor, examples), evaluate_model(exported, left, examples))
    ]
    difference, low, high = paired_difference(right[1], right[0])
    shares = {"original": float(right[0].mean()), "exported": float(right[1].mean())}
    return shares | {"difference": difference, "low": low, "high": high, "n": len(examples)}


def demand_accuracy(record: dict[str, Any], lost: float) -> None:
    found = record["accuracy"]
    if -100 * found["difference"] > lost:
        raise ExportError(
            f"the {record['format']} file in {record['dtype']} is right on {found['exported']:.2%} of {found['n']:,} "
            f"images, the original on {found['original']:.2%}: more than {lost} points are lost (--max_lost)."
        )


def rates(model: Any, processor: Any, exported: ExportedClassifier, seconds: float) -> dict[str, Any]:
    """Images a second of file and original, in turn, on a batch of the file's, or of 8."""
    batch, *size = exported.record["input"]
    batch = 8 if "batch" in exported.record["dynamic"] else batch
    images = torch.randint(0, 256, (batch, *size), dtype=torch.uint8)
    pixel_values = given(images, processor, False)
    theirs = images / 255 if exported.record["preprocessing"] else pixel_values

    def original() -> Any:
        return model(given(images, processor, False) if exported.record["preprocessing"] else pixel_values)

    with torch.inference_mode():
        times = time_in_turn({"original": original, "exported": lambda: exported(theirs)}, seconds)
    found = {name: batch / statistics.median(taken) for name, taken in times.items()}
    return found | {"ratio": found["exported"] / found["original"], "batch": batch}
