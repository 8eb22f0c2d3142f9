"""Explanations of image files: a picture and a record for each answer, or all of them on one page.

A record is {"path", "label", "probability", …} as `Explanation.records` has it, with the name of its "picture", or
{"path", "error"} for an image that cannot be read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from .._version import __version__
from ..common.errors import UsageError
from ..common.fingerprint import fingerprint
from ..common.model_names import named_model
from ..data.identity import identify
from ..inference.forward import Item, PreparedImages
from ..inference.inputs import find_images
from ..inference.loading import load_classifier
from .choose import AUTO, best_method, choose_method
from .explain import explain
from .images import Originals
from .methods.table import DEFAULT, METHODS
from .pictures.drawing import contact_sheet
from .result import Explanation
from .targets import name_or_id

Alike = tuple[list[int], torch.Tensor | None, str | None]
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
        photo, seen = first.photo(self.row)
        return contact_sheet(photo, maps, title=self.title, seen=seen)


@dataclass(frozen=True)
class Explaining:
    """Image files that are about to be explained.   net, processor: the model's.   paths: the images.   methods: to
    use.   said: sentences on the choice of them.
    """

    net: Any
    processor: Any
    paths: Sequence[str]
    methods: Sequence[str]
    said: Sequence[str]
    asked: Asked

    def made_by(self) -> str:
        """Return a SHA-256 of everything that decides the explanations: the model, what is asked, and the images."""
        images = identify(list(self.paths))
        settings = {**vars(self.asked), "methods": self.methods, "paths": self.paths, "images": images.tolist()}
        return fingerprint(self.net, self.processor, {**settings, "version": __version__})

    def answers(self, first: int = 0, progress: bool = True) -> Iterator[Answer]:
        """Yield the answers to the images from number `first` on, each with its explanation."""
        paths, asked = self.paths[first:], self.asked
        skipped: dict[str, str] = {}
        disable = not progress or len(self.paths) < 2
        with tqdm(total=len(self.paths), initial=first, desc="explain", unit="img", disable=disable) as bar:
            for numbers, pixels, error in _parts(PreparedImages(paths, paths, self.processor), asked.batch_size):
                if pixels is None:
                    yield Answer(paths[numbers[0]], error=error)
                else:
                    found = _explained(self.net, pixels, self.processor, self.methods, asked, skipped)
                    originals = Originals([paths[number] for number in numbers], self.processor)
                    found = [replace(one, originals=originals) for one in found]
                    left_out = [f"--method all leaves out {method}: {why}" for method, why in skipped.items()]
                    notes = [*found[0].notes, *self.said, *left_out]
                    for row, image in enumerate(found[0].rows):
                        yield Answer(paths[numbers[image]], found, row, notes=notes)
                bar.update(len(numbers))


def explaining(
    model: str,
    inputs: Sequence[str],
    asked: Asked = Asked(),
    follow_links: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Explaining:
    """Return the images that `inputs` names (see `find_images`), with the loaded model that explains them.

    model: a saved folder, a Hub id or ID@REVISION, of any task.
    Raises UsageError for a method that does not exist, ValueError for inputs without images. Its `answers` raise
    UsageError for a class that does not exist, and for a model that the method cannot explain.
    """
    paths, _ = find_images(inputs, follow_links)
    name, revision = named_model(model, revision)
    net, processor = load_classifier(name, trust_remote_code, revision=revision, listing=None)
    methods, said = _methods(net, name, paths, processor, asked)
    target, contrast = (name_or_id(given, net.config.id2label) for given in (asked.target, asked.contrast))
    asked = replace(asked, target=target, contrast=contrast)
    return Explaining(net, processor, paths, methods, said, asked)


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


def _parts(images: PreparedImages, most: int) -> Iterator[Alike]:
    """All images, up to `most` at once."""
    for start in range(0, len(images), most):
        yield from alike(images.take(range(start, min(start + most, len(images)))))


def alike(items: Iterable[Item]) -> Iterator[Alike]:
    """Yield items of `PreparedImages` in a row that have the same size for the model: their numbers and their pixels
    [B, C, H, W]. Of one that cannot be read its number, None and the reason.
    """
    for _, group in groupby(items, lambda item: item[1] if item[1] is None else item[1].shape):
        same = list(group)
        if same[0][1] is None:
            yield from (([number], None, error) for number, _, error in same)
        else:
            yield [number for number, *_ in same], torch.stack([pixels for _, pixels, _ in same]), None


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
