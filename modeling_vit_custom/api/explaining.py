"""`explain`, for images in memory; `explain_files` and `find_shortcuts`, which do what `vit-custom explain` does."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..common.image_pixels import MAX_PIXELS, pixels_allowed
from ..common.progress_bars import bars_of_others
from ..explanation.explain import explain
from ..explanation.files import Asked, explaining
from ..explanation.methods.table import DEFAULT
from ..explanation.result import Explanation
from ..explanation.shortcuts.finding import PER_CLASS
from ..explanation.shortcuts.finding import find_shortcuts as found_shortcuts
from ..explanation.shortcuts.report import ShortcutReport
from ..explanation.writing import FORMS, PNG, SHORTCUTS, check_folder, write_files
from ..inference.inputs import STANDARD
from .checks import at_least_one, measured_source, named_columns, one_of
from .results import ExplainedFiles

__all__ = ["Explanation", "ShortcutReport", "explain", "explain_files", "find_shortcuts"]


@bars_of_others(False)
def explain_files(
    model: str | Path,
    inputs: str | Path | Sequence[str | Path],
    *,
    target: str | int | None = None,
    contrast: str | int | None = None,
    method: str = DEFAULT,
    choose: bool = False,
    output: str | Path = "explanations",
    format: str = PNG,
    check: bool = True,
    confirm: int = 8,
    batch_size: int = 8,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> ExplainedFiles:
    """Write an explanation of each image file into the folder `output`; returns a record of each answer.

    After a kill or Ctrl-C, the same call goes on where it was.

    model: a saved folder, a Hub id or "REPO@REVISION".   inputs: files, folders, patterns such as "photos/*.jpg", or a
    single one of them.   method: a method of `explain`, or "all" for those that can be compared.   choose: first
    measure on these images, 32 or more, which method is most faithful; use it, and keep the choice in the model's
    folder for method="auto".   output: a folder, new or of explanations; "-" writes nothing.   format: "png", a picture
    for each answer; "html", one page; "json", the records alone, which the other two write as well.   Others as in
    `explain`; a class that is given by a text of digits is a name if there is such a class, else a number.

    Raises ValueError for a class or method that does not exist or that the model cannot be explained by, for inputs
    without images and for an `output` that holds something else or lies in a model's folder; OSError for a model that
    does not exist.
    """
    at_least_one("batch_size", batch_size)
    at_least_one("max_pixels", max_pixels)
    one_of("format", format, FORMS)
    folder = None if os.fspath(output) == STANDARD else check_folder(output)
    given = [os.fspath(each) for each in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    asked = Asked(target, contrast, method, choose, check, confirm, batch_size)
    with pixels_allowed(max_pixels):
        files = explaining(os.fspath(model), given, asked, follow_links, trust_remote_code, revision)
        records, notes = write_files(files, folder, format)
    return ExplainedFiles(records, folder, notes)


@bars_of_others(False)
def find_shortcuts(
    model: str | Path,
    data_dir: str | Path | None = None,
    *,
    boxes: str | Path | None = None,
    per_class: int = PER_CLASS,
    output: str | Path = "explanations",
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    split: str | None = None,
    image_column_name: str = "image",
    label_column_name: str = "label",
    label_separator: str = "|",
    problem_type: str | None = None,
    batch_size: int = 8,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> ShortcutReport:
    """Look for what a classifier decides by that is not the object; returns a `ShortcutReport`, with sentences.

    model: a saved folder, a Hub id or "REPO@REVISION", with one class an image.   data_dir: labelled images, anything
    that `evaluate` takes; or give dataset_name instead.   split: which one; default: the first of test, validation and
    train.   boxes: a CSV file of the objects' boxes, with the columns path, x0, y0, x1, y1 in pixels of the stored
    image; paths are relative to the file. The background is then suspected too.   per_class: at most so many images of
    a class are looked at.   output: a folder, new or of explanations, for shortcuts.html and shortcuts.json; "-" writes
    nothing.

    Raises ValueError for a model of another task, for data that cannot be read and for an `output` that holds something
    else or lies in a model's folder; OSError for a model that does not exist.
    """
    at_least_one("batch_size", batch_size)
    at_least_one("max_pixels", max_pixels)
    source = measured_source(data_dir, dataset_name, dataset_config_name, dataset_revision, split, follow_links)
    folder = None if os.fspath(output) == STANDARD else check_folder(output)
    with pixels_allowed(max_pixels):
        return found_shortcuts(
            os.fspath(model),
            source,
            None if folder is None else folder / SHORTCUTS,
            columns=named_columns(image_column_name, label_column_name, label_separator, problem_type),
            boxes=boxes,
            per_class=per_class,
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
            revision=revision,
        )
