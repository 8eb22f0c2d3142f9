"""Examples as a torch Dataset: decoded one at a time, transformed, stacked.

Shapes: B batch, C channels, HxW the file's size, hxw the model's.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from os.path import isfile
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..image_limits_vit_custom import DEFAULT_LIMITS, check_size
from .examples import Examples
from .raw import DataError, listed


@dataclass(frozen=True)
class Transform:
    """A decoded uint8 [C, H, W] tensor -> float32 pixel_values [C, h, w].

    processor: decodes the source before, and resizes, rescales and normalises after.
    augment: uint8 [C, H, W] -> uint8 [C, h', w'] at random; None for none.
    resize: whether the processor still resizes and crops; False where `augment` returns the model's own size.
    """

    processor: Any
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None
    resize: bool = True

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.to_pixel_values([image if self.augment is None else self.augment(image)])[0]

    def to_pixel_values(self, images: list[torch.Tensor]) -> torch.Tensor:
        """B decoded (and augmented) images -> [B, C, h, w]."""
        sizing = {} if self.resize else {"do_resize": False, "do_center_crop": False}
        layout = {"input_data_format": "channels_first"}  # an image may be as narrow as it has channels
        return self.processor(images, return_tensors="pt", **layout, **sizing)["pixel_values"]


def eval_transform(processor: Any) -> Transform:
    """The processor and nothing else: what evaluation, prediction and `pipeline` see."""
    return Transform(processor)


class ImageDataset(Dataset):
    """Item i: {"pixel_values": float32 [C, h, w], "labels": …}, without "labels" where there are none.

    indexed: items hold "index", i, as well: by it the training names the images of a batch that went wrong.

    Random augmentation of an image depends on (seed, epoch, index) alone: not on the number of workers or
    processes, nor on where a run was cut off and resumed.
    """

    def __init__(self, examples: Examples, transform: Transform, seed: int = 0, indexed: bool = False):
        self.examples, self.transform, self.seed, self.indexed = examples, transform, seed, indexed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loading processes that persist see it too

    def set_epoch(self, epoch: int) -> None:
        """To be called before each pass. (accelerate does, but for one process and from the first batch on only.)"""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        """What a data loader asks for when it can: a whole batch, prepared by one call of the processor."""
        images = [self._decode(index) for index in indices]
        if self.transform.augment is not None:
            with torch.random.fork_rng(devices=[]):
                images = [self._augment(image, index) for image, index in zip(images, indices, strict=True)]
        items = [{"pixel_values": image} for image in self.transform.to_pixel_values(images)]
        if self.examples.labels is not None:
            for item, index in zip(items, indices, strict=True):
                item["labels"] = torch.as_tensor(self.examples.labels[index])
        if self.indexed:
            for item, index in zip(items, indices, strict=True):
                item["index"] = torch.tensor(index)
        return items

    def _decode(self, index: int) -> torch.Tensor:
        return self.transform.processor.decode(self.examples.images[index], name=self.examples.names[index])

    def _augment(self, image: torch.Tensor, index: int) -> torch.Tensor:
        state = np.random.SeedSequence((self.seed, int(self.epoch), index)).generate_state(1)
        torch.default_generator.manual_seed(int(state[0]))  # torch.manual_seed takes 0.1 ms, for devices unused here
        return self.transform.augment(image)


def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """B items -> {"pixel_values": [B, C, h, w], "labels": [B, …], "index": [B]}, those that the items have."""
    return {key: torch.stack([item[key] for item in batch]) for key in batch[0]}


def check_readable(*splits: Examples, workers: int = 8) -> None:
    """Opens every file's header, before any work that a bad file would cost.

    Raises DataError naming all files that are no images, or of a size that the decoder refuses (an image cut off
    further in is found when decoded).
    """

    def problem(place: tuple[Examples, int]) -> str | None:
        examples, index = place
        source, name = examples.images[index], examples.names[index]
        if not isinstance(source, (str, PathLike, bytes)):
            return None
        if not isinstance(source, bytes) and not isfile(source):  # to open a named pipe is to wait for ever
            return f"{name} (no file)"
        try:
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
                check_size(image.height, image.width, DEFAULT_LIMITS)
                return None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"{name} ({type(error).__name__})"

    places = ((examples, index) for examples in splits for index in range(len(examples)))
    with ThreadPoolExecutor(workers) as pool:
        bad = [found for found in pool.map(problem, places) if found]
    if bad:
        raise DataError(f"{len(bad)} file(s) are no readable images, remove or replace them: {listed(bad)}.")
