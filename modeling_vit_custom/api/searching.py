"""`index`, `search` and `map` as functions with keyword arguments; the last is `map_images`, as Python has a `map`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..common.errors import UsageError
from ..common.image_pixels import MAX_PIXELS, pixels_allowed
from ..common.outputs import check_private, write_whole
from ..common.progress_bars import bars_of_others
from ..features.graph import CHOICES
from ..features.index_build import build_index
from ..features.index_files import Index
from ..features.map import POINTS, map_index
from ..features.search import same_class, search_index
from ..inference.inputs import STANDARD
from .checks import at_least_one, check_report, measured_source, named_columns, one_of
from .results import Indexed, MappedImages, Searched


@bars_of_others(False)
def index(
    model: str | Path,
    data_dir: str | Path | None = None,
    output: str | Path = "index",
    *,
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
    batch_size: int = 32,
    num_workers: int = 0,
    approximate: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Indexed:
    """Keep the pooled vector of every image in the folder `output`; returns a summary of it.

    Called again, it computes the vectors of new images alone, also after a kill; images that are gone leave the index.
    An image that cannot be read is left out and counted.

    model: a saved folder, a Hub id or "REPO@REVISION", of a classifier or an encoder.   data_dir: a folder or table of
    images; or give dataset_name instead. Labels, if there are any, are kept, too.   split: one of several; default: all
    of them.   approximate: "yes" or "no": whether to add a graph for approximate search; "auto": for more than a
    million images.   overwrite: replace an index of another model.

    Raises ValueError for a folder that holds something else or lies in a model's folder, for an index of another model,
    for images of which none can be read and for a model without a pooled vector; OSError for a model that does not
    exist.
    """
    at_least_one("batch_size", batch_size)
    at_least_one("max_pixels", max_pixels)
    one_of("approximate", approximate, CHOICES)
    source = measured_source(data_dir, dataset_name, dataset_config_name, dataset_revision, split, follow_links)
    columns = named_columns(image_column_name, label_column_name, label_separator, problem_type)
    with pixels_allowed(max_pixels):
        built = build_index(
            os.fspath(model),
            source,
            output,
            columns,
            batch_size=batch_size,
            num_workers=num_workers,
            approximate=approximate,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            revision=revision,
        )
    return Indexed(**vars(built))


@bars_of_others(False)
def search(
    index: str | Path,
    inputs: str | Path | Sequence[str | Path] = (),
    model: str | Path | None = None,
    output: str | Path | None = None,
    *,
    top_k: int = 10,
    exact: bool = False,
    evaluate: bool = False,
    batch_size: int = 32,
    follow_links: bool = False,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Searched:
    """Compare images with those of an index; returns records of the most similar ones.

    inputs: files, folders, patterns such as "photos/*.jpg", or a single one of them.   model: default: the one that
    made the index; of another one only the same weights and preprocessing are accepted.   output: file of JSON lines.
    exact: compare with every vector, also if the index has a graph.   evaluate: instead of searching, measure how often
    the `top_k` nearest images are of an image's own class.

    Raises ValueError for a folder that holds no index, for a model that makes other vectors, for inputs without images,
    for an index without classes if `evaluate`; OSError for a model that does not exist.
    """
    at_least_one("top_k", top_k)
    at_least_one("batch_size", batch_size)
    at_least_one("max_pixels", max_pixels)
    given = [os.fspath(each) for each in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if bool(given) == evaluate:
        raise UsageError("name images to search for, or --evaluate: one of the two.")
    if output is not None and os.fspath(output) != STANDARD:
        check_private(output, "a list of similar images")
        check_report(output)
    opened = Index(index)
    with pixels_allowed(max_pixels):
        if evaluate:
            return _kept(Searched([same_class(opened, top_k).record()], evaluated=True), output)
        records = search_index(
            opened,
            given,
            None if model is None else os.fspath(model),
            top_k=top_k,
            exact=exact,
            batch_size=batch_size,
            follow_links=follow_links,
            trust_remote_code=trust_remote_code,
            revision=revision,
        )
        return _kept(Searched(list(records)), output)


def _kept(found: Searched, output: str | Path | None) -> Searched:
    """What was found, after it is written to `output`, if there is one."""
    if output is None or os.fspath(output) == STANDARD:
        return found
    return replace(found, output=write_whole(output, found.to_json()))


@bars_of_others(False)
def map_images(
    output: str | Path = "map.html",
    index: str | Path | None = None,
    model: str | Path | None = None,
    data_dir: str | Path | None = None,
    *,
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
    points: int = POINTS,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> MappedImages:
    """Draw images as points of a plane, near those with similar vectors, as one HTML page; returns what it shows.

    index: a folder that `index` made; its pictures are read from the files that it names, or from data_dir or
    dataset_name.   model: instead of an index: its vectors are computed for this page alone.   points: so many are
    drawn of more images, chosen at random with `seed`.

    Raises ValueError unless an index or a model with images is named, for a page in a model's folder and for what
    `index` refuses; OSError for a model that does not exist.
    """
    at_least_one("points", points)
    at_least_one("batch_size", batch_size)
    at_least_one("max_pixels", max_pixels)
    named = data_dir is not None or dataset_name is not None
    source = measured_source(data_dir, dataset_name, dataset_config_name, dataset_revision, split, follow_links)
    with pixels_allowed(max_pixels):
        mapped = map_index(
            output,
            index,
            None if model is None else os.fspath(model),
            source if named else None,
            named_columns(image_column_name, label_column_name, label_separator, problem_type),
            points=points,
            seed=seed,
            batch_size=batch_size,
            num_workers=num_workers,
            trust_remote_code=trust_remote_code,
            revision=revision,
        )
    return MappedImages(**vars(mapped))
