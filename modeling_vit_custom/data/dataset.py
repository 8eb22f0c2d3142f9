"""Examples as a torch Dataset whose items are views; one call fetches a whole batch.

Shapes: B batch, C channels, S x S' the views' size, K random numbers for each example.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from os import PathLike
from os.path import isfile

import numpy as np
import torch
from torch.utils.data import Dataset

from ..common.errors import DataError
from ..image_files_vit_custom import file_header, open_image
from ..image_limits_vit_custom import DEFAULT_LIMITS, ImageDecodingError, check_size
from ..weight_files_vit_custom import shorten_list
from .counter_rng import example_keys, uniform
from .examples import Examples
from .stream import stream_of

DRAWS = 24  # random numbers that go with each training example


class ImageDataset(Dataset):
    """Item i: {"pixel_values": uint8 [C, S, S'], "index": i, "labels": …}, without "labels" where there are none.

    A training set also has "draws", float32 [K] in [0, 1): the random numbers for its augmentation. They, and `policy`,
    depend on (seed, epoch, index) alone: see `draws`. With `teacher` it has "teacher", the teacher's logits.

    views: [B] positions -> uint8 [B, C, S, S'], as DecodedViews or CachedViews.
    seed: of the random numbers; None for evaluation, which has none.
    policy: random augmentation, uint8 [C, S, S'] -> the same (torch's default generator); None for none.
    teacher: [B] positions -> float32 [B, L] logits; None for none.
    """

    def __init__(
        self,
        examples: Examples,
        views: Callable[[Sequence[int]], torch.Tensor],
        seed: int | None = None,
        policy: Callable[[torch.Tensor], torch.Tensor] | None = None,
        teacher: Callable[[Sequence[int]], torch.Tensor] | None = None,
    ):
        self.examples, self.views, self.seed, self.policy, self.teacher = examples, views, seed, policy, teacher
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loading processes that persist see it too

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; call this before each pass."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The whole batch that a data loader asks for, each of its tensors gathered once."""
        batch = {"pixel_values": self.views(indices), "index": torch.tensor(indices)}
        batch |= self.examples.targets.batch(indices)
        if self.teacher is not None:
            batch["teacher"] = self.teacher(indices)
        if self.seed is not None:
            keys = example_keys(self.seed, int(self.epoch), indices)
            batch["draws"] = torch.from_numpy(uniform(keys, DRAWS))
            if self.policy is not None:
                batch["pixel_values"] = self._apply(self.policy, batch["pixel_values"], keys)
        return batch

    @staticmethod
    def _apply(policy: Callable[[torch.Tensor], torch.Tensor], views: torch.Tensor, keys: np.ndarray) -> torch.Tensor:
        changed = []
        with torch.random.fork_rng(devices=[]):
            for view, key in zip(views, keys, strict=True):
                torch.default_generator.manual_seed(int(key >> np.uint64(1)))  # torch.manual_seed takes 0.1 ms more
                changed.append(policy(view))
        return torch.stack(changed)


def collate(batch: dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the batch that `__getitems__` made, unchanged; stack a list of items."""
    if isinstance(batch, dict):
        return batch
    return {key: torch.stack([item[key] for item in batch]) for key in batch[0]}


def check_readable(*splits: Examples, workers: int = 8) -> None:
    """Open every file's header, before a bad file can waste any work.

    Raises DataError naming all files that are not images, or whose size the decoder refuses. (A truncated image is only
    found when it is decoded.) Images of a stream are not opened: the training finds bad ones.
    """

    def problem(place: tuple[Examples, int]) -> str | None:
        examples, index = place
        source, name = examples.images[index], examples.names[index]
        if not isinstance(source, (str, PathLike, bytes)):
            return None
        if not isinstance(source, bytes) and not isfile(source):  # opening a named pipe would wait forever
            return f"{name} (no file)"
        try:
            if (header := file_header(source)) is not None:
                check_size(*header.hwc[:2], DEFAULT_LIMITS)
                return None
            with open_image(BytesIO(source) if isinstance(source, bytes) else source) as image:
                check_size(image.height, image.width, DEFAULT_LIMITS)
                return None
        except ImageDecodingError as error:
            return f"{name}: {str(error).removesuffix('.')}"
        except (OSError, ValueError, SyntaxError) as error:
            return f"{name} ({type(error).__name__})"

    opened = [examples for examples in splits if stream_of(examples) is None]
    places = ((examples, index) for examples in opened for index in range(len(examples)))
    with ThreadPoolExecutor(workers) as pool:
        bad = [found for found in pool.map(problem, places) if found]
    if bad:
        raise DataError(f"{len(bad)} file(s) are no readable images, remove or replace them: {shorten_list(bad)}.")
