"""`evaluate` and `predict` as functions with keyword arguments."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from ..common.errors import UsageError
from ..common.image_pixels import MAX_PIXELS, pixels_allowed
from ..common.model_files import METRICS
from ..common.processes import Processes, joined_processes
from ..common.progress_bars import bars_of_others
from ..data.folders import folder_of_split
from ..data.source import Columns
from ..evaluation.evaluate import evaluate as measure
from ..inference.answers import JSONL, PREDICTIONS, WRITTEN, default_output
from ..inference.loading import FORMATS
from ..inference.predict import predict as write_predictions
from .checks import at_least_one, check_report, measured_source, named_columns, one_of
from .results import Measured, Predicted


@bars_of_others(False)
def evaluate(
    model: str | Path,
    data_dir: str | Path | None = None,
    output: str | Path = METRICS,
    html: str | Path | None = None,
    *,
    index: str | Path | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    split: str | None = None,
    image_column_name: str = "image",
    label_column_name: str = "label",
    label_separator: str = "|",
    problem_type: str | None = None,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    batch_size: int = 64,
    num_workers: int = 0,
    on_error: str = "raise",
    unknown_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Measured:
    """Measure a classifier (a folder or on the Hub) on labelled images; returns (result, context, files written).

    `evaluate(…).metrics` is a dict of numbers, `.plot()` draws the confusion matrix.

    model: a saved folder, an exported folder, a Hub id or
    "REPO@REVISION".   revision: branch, tag or commit of a Hub id.   data_dir: anything that `train_dir` of `train` may
    be, or a pattern of shards; or give dataset_name instead, as for `train`.   split: which one to measure on, if there
    are several; default: the first of test, validation and train.   output: JSON file for the metrics; the confusion
    matrix is written beside it.   html: file for a page, which shows where the evidence for each mistake
    lies.   index: an index of this model (`index`), of whose images the page shows those most like each mistake.
    max_pixels: size limit of an image that is decoded.
    on_error: "skip" leaves out images that cannot be read, and lists them.   unknown_dir: folder of images of none of
    the classes; `.context["unknown"]` then tells how well they are recognised.

    Raises ValueError or OSError if the measurement or the writing fails; ValueError for an image that cannot be read.
    """
    at_least_one("max_pixels", max_pixels)
    at_least_one("batch_size", batch_size)
    one_of("on_error", on_error, ("raise", "skip"))
    source = measured_source(data_dir, dataset_name, dataset_config_name, dataset_revision, split, follow_links)
    check_report(output)
    pictures = None
    if html is not None:
        from ..explanation.mistakes.illustrate import illustrator  # imported for those who ask for a page

        check_report(html)
        pictures = partial(illustrator, index=index)
    elif index is not None:
        raise UsageError(f"--index {index} is shown on the page of --html alone: give --html FILE too.")
    columns = named_columns(image_column_name, label_column_name, label_separator, problem_type)
    with pixels_allowed(max_pixels):
        return Measured(
            *measure(
                os.fspath(model),
                source,
                output,
                html,
                batch_size=batch_size,
                num_workers=num_workers,
                on_error=on_error,
                trust_remote_code=trust_remote_code,
                revision=revision,
                columns=columns,
                unknown_dir=unknown_dir,
                illustrator=pictures,
            )
        )


@bars_of_others(False)
def predict(
    model: str | Path,
    inputs: str | Path | Sequence[str | Path] = (),
    output: str | Path = PREDICTIONS,
    *,
    format: str = JSONL,
    top_k: int = 5,
    embeddings: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    overwrite: bool = False,
    data_dir: str | Path | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    split: str | None = None,
    image_column_name: str = "image",
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
    revision: str | None = None,
    fast: bool = False,
    speed: str | None = None,
    dtype: str | None = None,
    explain: str | Path | None = None,
    processes: Processes | None = None,
) -> Predicted:
    """Predict images with a classifier (a folder or on the Hub); returns a summary of the file `output`, whose
    lines are its `.records()`.

    `output` gets one JSON line for each image, with "error" if it cannot be read. An interrupted run continues. "-" is
    standard output.   format: "csv" for a table instead; the default name of `output` then ends in .csv.
    model: a saved folder, an exported folder, a Hub id or "REPO@REVISION".   revision: branch, tag or commit of a Hub
    id.   inputs: files, folders, patterns such as "photos/*.jpg", "-" for names on standard input, or a single one of
    them; or give data_dir (a folder or table) or dataset_name instead.   split: which split of the data, if there are
    several.   embeddings: add the pooled vector.   fast: the same answers by the fastest engine.   speed: one of the
    checkpoint's speeds, such as "2x".   explain: a folder for a picture of where the evidence for each answer
    lies; the line says how faithful it is, by about forty forwards an image.   max_pixels: size limit of an image that
    is decoded.   processes: the processes that share the work; default: those that this one was launched with.

    Raises ValueError for inputs without images, for a flag that the command refuses and for an output that must not be
    continued; OSError for a model that does not exist.
    """
    at_least_one("top_k", top_k)
    at_least_one("batch_size", batch_size)
    at_least_one("max_pixels", max_pixels)
    one_of("dtype", dtype, (None, *FORMATS))
    one_of("format", format, WRITTEN)
    explaining = None
    if explain is not None:
        from ..explanation.predicted import explainer  # maps and pictures are imported for those who ask for them

        explaining = explainer(explain)
    source = measured_source(data_dir, dataset_name, dataset_config_name, dataset_revision, split, follow_links)
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    if sum(map(bool, (given, data_dir, dataset_name))) != 1:
        raise ValueError("name the images once: files and folders, or --data_dir, or --dataset_name.")
    if data_dir is not None and os.path.isdir(data_dir):
        given = [folder_of_split(source)]
    joined = joined_processes() if processes is None else nullcontext(processes)
    with pixels_allowed(max_pixels), joined as shared:
        summary = write_predictions(
            os.fspath(model),
            [os.fspath(each) for each in given],
            default_output(format) if os.fspath(output) == PREDICTIONS else os.fspath(output),
            top_k=top_k,
            embeddings=embeddings,
            batch_size=batch_size,
            num_workers=num_workers,
            overwrite=overwrite,
            follow_links=follow_links,
            trust_remote_code=trust_remote_code,
            revision=revision,
            speed=speed,
            fast=fast,
            dtype=dtype,
            processes=shared,
            source=None if given else source,
            columns=Columns(image_column_name),
            format_name=format,
            explain=None if explain is None else os.fspath(explain),
            explainer=explaining,
        )
    return Predicted(**vars(summary))
