"""A frozen encoder's features of images, computed once and cached: the pooled vector and every patch.

A cache is a folder of `sealed_rows`, ROOT/encoder-<hash>/, named by the hash of the weights, the views and the images.
Its rows are in features.npy, float16 [N, P + M·T]. The encoder sees the same part of each image as the student does
before augmentation, at its own size.

Shapes: N images, B batch, C channels, H x W the teacher's size, g x g' its grid, M = g·g' patches of width T, P the
pooled vector's width.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..._version import __version__
from ...common.environment import available_cores, computes_faster_in_bfloat16
from ...common.errors import DataError, UsageError
from ...common.fingerprint import fingerprint
from ...data.cache import MIN_IMAGES_PER_WORKER, OFF, place_of, room_in
from ...data.dataset import ImageDataset, collate
from ...data.examples import Examples
from ...data.fingerprint import images_fingerprint, key_hash
from ...data.sealed_rows import SealedRows, UnfinishedRows, find_or_build
from ...data.views import DecodedViews, ImageResizer, PixelValues
from ...image_limits_vit_custom import ImageDecodingError
from ...weight_files_vit_custom import shorten_list

FORMAT = 1
NAME = "features.npy"
BATCH = 64  # images per forward of the teacher; fixed, because another number would round differently
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class EncoderTeacher:
    """An encoder to learn from.

    model: a `ViTCustomModel` in eval mode that takes the student's channels.   processor: normalises its images.
    weights: SHA-256 of its tensors.   notes: a sentence on each thing that was found or assumed.
    """

    name: str
    model: Any
    processor: Any
    weights: str
    notes: list[str] = field(default_factory=list)

    @property
    def grid(self) -> tuple[int, int]:
        """(g, g')."""
        return self.model.config.grid_hw

    @property
    def width(self) -> int:
        """T."""
        return self.model.config.hidden_size

    @property
    def pooled_width(self) -> int:
        """P."""
        return self.model.config.pooled_size

    @property
    def row(self) -> int:
        """The numbers of a row, P + M·T."""
        return self.pooled_width + self.grid[0] * self.grid[1] * self.width

    def record(self) -> dict[str, Any]:
        """Return which teacher it was, fit to be published and independent of the versions of libraries."""
        colours = [self.processor.do_normalize, self.processor.image_mean, self.processor.image_std]
        prepared = {"image_size": list(self.model.config.image_hw), "colours": json.loads(json.dumps(colours))}
        return {"name": self.name, "weights": self.weights, "preprocessing": key_hash(prepared)}

    def views(self, maker: ImageResizer) -> ImageResizer:
        """Return a maker of the same part of an image as `maker` makes, at the teacher's size and by its filter."""
        height, width = self.model.config.image_hw
        of_student = {**maker.processor.to_dict(), **maker.settings}
        crops = of_student.get("do_center_crop")
        size = {"height": height, "width": width}
        if crops:
            scale = max(height / maker.shape[1], width / maker.shape[2])
            size = {edge: round(length * scale) for edge, length in dict(of_student["size"]).items() if length}
        settings = {
            "size": size,
            "crop_size": {"height": height, "width": width},
            "do_center_crop": bool(crops),
            "do_resize": True,
            "do_pad": False,
            "resample": self.processor.resample,
        }
        return ImageResizer(maker.processor, (maker.shape[0], height, width), settings)

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, P + M·T] of images [B, C, H, W]."""
        device = pixel_values.device
        faster = computes_faster_in_bfloat16(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=faster):
            output = self.model(pixel_values)
        patches = output.last_hidden_state[:, self.model.config.num_prefix_tokens :]
        return torch.cat([output.pooler_output.float(), patches.float().flatten(1)], dim=1)


class TeacherFeatures:
    """The teacher's features: [B] positions -> float16 [B, P + M·T].   source: cached rows, or those of this run."""

    def __init__(self, source: SealedRows | np.ndarray):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """Return float16 [B, P + M·T]. Raises DataError for cached rows that are damaged."""
        if isinstance(self.source, np.ndarray):
            return torch.from_numpy(self.source[np.asarray(indices, np.int64)])
        rows, wrong = self.source.read(indices)
        if wrong:
            raise DataError(
                f"{self.source.folder} does not hold the teacher's features of image {int(indices[wrong[0]])} as they "
                "were written. Remove it and run the same command again: a training goes on from its last checkpoint."
            )
        return torch.from_numpy(rows)


def open_teacher_features(
    teacher: EncoderTeacher,
    examples: Examples,
    maker: ImageResizer,
    image_cache: str,
    device: torch.device,
    progress: bool = False,
) -> tuple[TeacherFeatures, str]:
    """Return (the teacher's features of `examples`, words on where they are); compute them if they are not cached.

    maker: of the student's views.   image_cache: as for `open_views`. Several processes may call this at once: one
    computes, the others wait for it.
    Raises DataError for images that cannot be read and for a disk that cannot hold the cache, UsageError for features
    that are no numbers.
    """
    views = teacher.views(maker)
    computed = partial(_computed, teacher, examples, views, device=device, progress=progress)
    shape = (len(examples), teacher.row)
    if image_cache == OFF:
        return TeacherFeatures(np.concatenate(list(computed(_batches(len(examples)))))), "computed for this run alone"

    def build(rows: UnfinishedRows) -> None:
        wanted = set(rows.missing)
        batches = [batch for batch in _batches(len(examples)) if not wanted.isdisjoint(batch)]
        for batch, values in zip(batches, computed(batches), strict=True):
            rows.write(batch, values)

    root, key = place_of(image_cache), _key(teacher, examples, views, device)
    try:
        limit = room_in(root, image_cache)
        folder = root / f"encoder-{key_hash(key)}"
        rows, how = find_or_build(folder, NAME, key, shape, np.float16, build, limit, checked=None)
    except OSError as error:
        raise DataError(
            f"--image_cache {image_cache} cannot hold the teacher's features: {error}. Name a folder that can; a "
            'smaller --teacher_config "image_size=…" takes less.'
        ) from error
    return TeacherFeatures(rows), f"{'kept' if how == 'built' else how} in {rows.folder}, which may be removed"


def _key(teacher: EncoderTeacher, examples: Examples, views: ImageResizer, device: torch.device) -> dict[str, Any]:
    key: dict[str, Any] = {
        "format": FORMAT,
        "teacher": fingerprint(teacher.model, teacher.processor, {}),
        **views.description(),
        "images": images_fingerprint(examples.images),
        "device": device.type,
        "bfloat16": computes_faster_in_bfloat16(device),
        "libraries": {"modeling_vit_custom": __version__},
    }
    for name in ("numpy", "pillow", "torch", "torchvision", "transformers"):
        with suppress(PackageNotFoundError):
            key["libraries"][name] = version(name)
    return json.loads(json.dumps(key))


def _batches(count: int) -> list[list[int]]:
    return [list(range(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]


def _computed(
    teacher: EncoderTeacher,
    examples: Examples,
    views: ImageResizer,
    batches: list[list[int]],
    device: torch.device,
    progress: bool,
) -> Iterator[np.ndarray]:
    """Features float16 [B, P + M·T] of each of these batches in turn."""
    from tqdm import tqdm

    count, left = len(examples), sum(map(len, batches))
    images, to_pixel_values = ImageDataset(examples, DecodedViews(examples, views)), PixelValues(teacher.processor)
    workers = min(available_cores(), left // MIN_IMAGES_PER_WORKER) if device.type != "cpu" else 0
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=collate)
    teacher.model.to(device)
    with tqdm(total=count, initial=count - left, desc="teacher", unit=" images", disable=not progress) as bar:
        try:
            for items in loader:
                values = teacher(to_pixel_values(items["pixel_values"].to(device)))
                good = (values.abs() <= LARGEST).all(dim=1)
                if not good.all():
                    bad = [examples.names[int(i)] for i, fine in zip(items["index"], good, strict=True) if not fine]
                    raise UsageError(
                        f"--teacher {teacher.name} gives NaN, infinity or values above {LARGEST:,.0f} for "
                        f"{shorten_list(bad, 5)}: name another teacher."
                    )
                yield values.to(torch.float16).cpu().numpy()
                bar.update(len(values))
        except ImageDecodingError as error:
            raise DataError(f"an image cannot be read, remove or replace it: {error}") from error
