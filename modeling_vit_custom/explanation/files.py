"""Explanations of image files: a picture and a record for each answer, or all of them on one page.

A record is {"path", "label", "probability", …} as `Explanation.records` has it, with the name of its "picture", or
{"path", "error"} for an image that cannot be read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..common.errors import UsageError
from ..common.model_names import named_model
from ..inference.forward import PreparedImages
from ..inference.inputs import find_images
from ..inference.loading import load_classifier
from .choose import AUTO, best_method, choose_method
from .explain import explain
from .methods.table import DEFAULT, METHODS
from .pictures.drawing import contact_sheet
from .result import Explanation
from .targets import name_or_id

ALL = "all"
MEASURED = 64  # images by which a method is chosen
COMPARED = tuple(name for name, method in METHODS.items() if not method.features and name != "hirescam")


@dataclass(frozen=True)
class Asked:
    """What to explain, and how; see `explain`.   method: also "all", for every method of COMPARED that the model
    allows.   choose: use the method that is most faithful on the images, and keep the choice in the model's folder."""

    target: str | int | None = None
    contrast: str | int | None = None
    method: str = DEFAULT
    choose: bool = False
    check: bool = True
    confirm: int = 8
    batch_size: int = 8


@dataclass(frozen=True)
class Answer:
    """One answer to an image, and its explanation by one method or several.

    path: the image.   row: of each explanation.   error: why there is none.   notes: sentences on all images.
    """

    path: str
    explanations: Sequence[Explanation] = ()
    row: int = 0
    error: str | None = None
    notes: Sequence[str] = field(default=())

    @property
    def title(self) -> str:
        """What is explained."""
        return self.explanations[0].drawn(self.row).title

    def records(self, picture: str | None = None) -> list[dict[str, Any]]:
        """Return one record for each method.   picture: name of the file that shows it."""
        if self.error is not None:
            return [{"path": self.path, "error": self.error}]
        found = []
        for explanation in self.explanations:
            record = explanation.record(self.row)
            del record["image"]
            found.append({"path": self.path, **record, **({} if picture is None else {"picture": picture})})
        return found

    def picture(self) -> Image.Image:
        """Draw the map, or a sheet of several methods' maps."""
        first = self.explanations[0]
        if len(self.explanations) == 1:
            return first.image(self.row)
        drawn = [(each, each.drawn(self.row)) for each in self.explanations]
        maps = [replace(one, title=each.method, lines=one.lines[1:]) for each, one in drawn]
        return contact_sheet(first.photos[first.rows[self.row]], maps, title=self.title, seen=(0, 0, *first.seen))


def explain_files(
    model: str,
    inputs: Sequence[str],
    asked: Asked = Asked(),
    follow_links: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = True,
) -> Iterator[Answer]:
    """Yield the answers to the images that `inputs` names (see `find_images`), each with its explanation.

    model: a saved folder, a Hub id or ID@REVISION, of any task.
    Raises UsageError for a class or method that does not exist or that the model cannot be explained by, ValueError
    for inputs without images.
    """
    paths, _ = find_images(inputs, follow_links)
    name, revision = named_model(model, revision)
    net, processor = load_classifier(name, trust_remote_code, revision=revision, listing=None)
    methods, said = _methods(net, name, paths, processor, asked)
    target, contrast = (name_or_id(given, net.config.id2label) for given in (asked.target, asked.contrast))
    asked = replace(asked, target=target, contrast=contrast)
    skipped: dict[str, str] = {}
    with tqdm(total=len(paths), desc="explain", unit="img", disable=not progress or len(paths) < 2) as bar:
        for numbers, pixels, error in _alike(PreparedImages(paths, paths, processor), asked.batch_size):
            if pixels is None:
                yield Answer(paths[numbers[0]], error=error)
            else:
                found = _explained(net, pixels, processor, methods, asked, skipped)
                notes = said + [f"--method all leaves out {method}: {why}" for method, why in skipped.items()]
                for row, image in enumerate(found[0].rows):
                    yield Answer(paths[numbers[image]], found, row, notes=[*found[0].notes, *notes])
            bar.update(len(numbers))


def _methods(
    net: Any, model: str, paths: Sequence[str], processor: Any, asked: Asked
) -> tuple[Sequence[str], list[str]]:
    """The methods to use, and sentences on the choice."""
    if asked.choose:
        folder = model if Path(model).is_dir() else None
        record = choose_method(net, paths[:MEASURED], processor=processor, batch_size=asked.batch_size, folder=folder)
        figures = ", ".join(f"{name} {value:.3f}" for name, value in record["srg"].items())
        kept = "" if folder is None else ", kept beside the model for --method auto"
        return (record["method"],), [f"{record['method']} is used{kept}: SRG on {record['images']} images {figures}"]
    if asked.method == AUTO:
        return (best_method(net, paths[:MEASURED], processor, asked.batch_size),), []
    return COMPARED if asked.method == ALL else (asked.method,), []


def _alike(images: PreparedImages, most: int) -> Iterator[tuple[list[int], torch.Tensor | None, str | None]]:
    """Numbers of up to `most` images in a row that have the same size for the model, with their pixels; or one that
    cannot be read, with the reason."""
    for start in range(0, len(images), most):
        items = images.take(range(start, min(start + most, len(images))))
        for _, alike in groupby(items, lambda item: item[1] if item[1] is None else item[1].shape):
            group = list(alike)
            if group[0][1] is None:
                yield from (([number], None, error) for number, _, error in group)
            else:
                yield [number for number, *_ in group], torch.stack([pixels for _, pixels, _ in group]), None


def _explained(
    net: Any, pixels: torch.Tensor, processor: Any, methods: Sequence[str], asked: Asked, skipped: dict[str, str]
) -> list[Explanation]:
    """The explanation by each method. Of several, those that the model does not allow are put into `skipped`."""
    found = []
    for method in methods:
        if method in skipped:
            continue
        try:
            found.append(
                explain(
                    net,
                    pixels,
                    asked.target,
                    method,
                    contrast=asked.contrast,
                    processor=processor,
                    check=asked.check,
                    confirm=asked.confirm,
                    batch_size=asked.batch_size,
                )
            )
        except UsageError as error:
            if len(methods) == 1 or (method == methods[-1] and not found):
                raise
            skipped[method] = str(error)
    return found


def picture_name(path: str, used: dict[str, int]) -> str:
    """Return a new file name for the picture of an image: cat.jpg → cat.png, and cat-2.png for the next cat.

    used: how often each name was given; this one is counted.
    """
    stem = Path(path).stem or "image"
    used[stem] = used.get(stem, 0) + 1
    name = stem if used[stem] == 1 else f"{stem}-{used[stem]}"
    if name != stem and name in used:
        return picture_name(name + Path(path).suffix, used)
    used.setdefault(name, 1)
    return f"{name}.png"
