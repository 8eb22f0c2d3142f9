"""`explain`, for images in memory, and `explain_files`, which does what `vit-custom explain` does."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..common.image_pixels import MAX_PIXELS, pixels_allowed
from ..common.progress_bars import bars_of_others
from ..explanation.explain import explain
from ..explanation.files import Asked
from ..explanation.files import explain_files as explained_files
from ..explanation.methods.table import DEFAULT
from ..explanation.result import Explanation
from ..explanation.writing import FORMS, PNG, check_folder, write_answers
from ..inference.inputs import STANDARD
from .checks import at_least_one, one_of
from .results import ExplainedFiles

__all__ = ["Explanation", "explain", "explain_files"]


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
        answers = explained_files(os.fspath(model), given, asked, follow_links, trust_remote_code, revision)
        records, notes = write_answers(answers, folder, format)
    return ExplainedFiles(records, folder, notes)
