"""`audit_data` as a function with keyword arguments."""

from pathlib import Path

from ..audit.audit import BUDGET, Audit
from ..audit.audit import audit as look
from ..common.environment import available_cores
from ..common.errors import UsageError
from ..common.image_pixels import MAX_PIXELS, pixels_allowed
from ..common.json_files import write_json
from ..common.progress_bars import bars_of_others
from ..data.cache import AUTO
from ..data.source import Source
from .checks import at_least_one, check_report, named_columns
from .encoders import open_encoder

CORES = available_cores()


@bars_of_others(False)
def audit_data(
    train_dir: str | Path | None = None,
    validation_dir: str | Path | None = None,
    test_dir: str | Path | None = None,
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    image_column_name: str = "image",
    label_column_name: str = "label",
    label_separator: str = "|",
    problem_type: str | None = None,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    model: str | Path | None = None,
    revision: str | None = None,
    unlabelled: str | Path | None = None,
    budget: int | None = None,
    image_cache: str = AUTO,
    json: str | Path | None = None,
    html: str | Path | None = None,
    num_workers: int = CORES,
    progress: bool = False,
) -> Audit:
    """Look for what is wrong with images and labels before training; returns the `Audit`, its findings worst first.

    `audit_data(…).findings` have a severity, a code, a title, a count, advice and examples; `.report()` is what --json
    writes, `.count("error")` how many errors there are.

    train_dir, validation_dir, test_dir: as for `train`; or give dataset_name instead.   model: a checkpoint of any
    classes or of none (a saved folder, a Hub id, "REPO@REVISION", or what `convert` reads), whose encoder looks for
    labels that are probably wrong.   revision: branch, tag or commit of a Hub id.   unlabelled: folder or table of
    images, of which `budget` (50) are suggested for labelling.   image_cache: "auto", "off" or a folder, where the
    features are kept.   json, html: files to write.   num_workers: processes that decode.   progress: draw bars.

    Raises ValueError for data that do not exist, for a model that cannot be read, and for labels that a model cannot
    check: several an image, numbers, fewer than two classes; OSError if a file cannot be written.
    """
    at_least_one("max_pixels", max_pixels)
    if num_workers < 0:
        raise UsageError(f"--num_workers is {num_workers}: give 0 or more.")
    if (train_dir is None) == (dataset_name is None):
        raise UsageError("name the training data once: a folder or table, or --dataset_name.")
    needs = {"revision": revision, "unlabelled": unlabelled}
    if model is None and (alone := [name for name, value in needs.items() if value is not None]):
        raise UsageError(f"--{alone[0]} goes with --model, whose encoder looks at the images: name one.")
    if budget is not None:
        at_least_one("budget", budget)
        if unlabelled is None:
            raise UsageError("--budget says how many of the images of --unlabelled to suggest: name their folder.")
    for path in (json, html):
        if path is not None:
            check_report(path)
    source = Source(
        train_dir,
        validation_dir,
        test_dir,
        dataset_name,
        dataset_config_name,
        dataset_revision,
        follow_links=follow_links,
    )
    with pixels_allowed(max_pixels):
        result = look(
            source,
            num_workers=num_workers,
            progress=progress,
            columns=named_columns(image_column_name, label_column_name, label_separator, problem_type),
            encoder=None if model is None else open_encoder(model, revision),
            unlabelled=None if unlabelled is None else Source(unlabelled, follow_links=follow_links),
            budget=budget or BUDGET,
            image_cache=image_cache,
        )
        if json is not None:
            write_json(json, result.report())
        if html is not None:
            from ..audit.page import write_page

            write_page(html, result)
    return result
