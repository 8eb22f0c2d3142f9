"""Image sources through decoder, processor and model, in batches; an unreadable image costs only itself.

Shapes: B batch, K classes or targets, D pooled width, C channels, h, w the model's input size.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from ..image_decoding_vit_custom import decode_image

Item = tuple[int, torch.Tensor | None, str | None]

TOGETHER = 2**25  # bytes of decoded images, about, that are held to be processed together


class PreparedImages(Dataset):
    """Item i: (i, float32 pixel_values [C, h, w], None), or (i, None, why it could not be read)."""

    def __init__(self, sources: Sequence[Any], names: Sequence[str], processor: Any):
        self.sources, self.names, self.processor = sources, names, processor
        self.decode = processor.decode if hasattr(processor, "decode") else decode_image

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        return self.take([index])[0]

    def take(self, indices: Iterable[int]) -> list[Item]:
        """Several items, which costs less than one by one: images of one size go through the processor together."""
        items: dict[int, Item] = {}
        waiting: dict[int, torch.Tensor] = {}
        held = 0
        for index in indices:
            items[index] = (index, None, None)
            try:
                waiting[index] = image = self.decode(self.sources[index], name=self.names[index])
            except (ValueError, OSError) as error:  # ImageDecodingError is a ValueError
                items[index] = (index, None, str(error))
                continue
            held += image.nbytes
            if held > TOGETHER:
                items |= self._processed(waiting)
                waiting, held = {}, 0
        return list((items | self._processed(waiting)).values())

    __getitems__ = take  # what a DataLoader asks for

    def _processed(self, decoded: dict[int, torch.Tensor]) -> dict[int, Item]:
        items: dict[int, Item] = {}
        layout = {"input_data_format": "channels_first"}  # an image may be as narrow as it has channels
        for size in dict.fromkeys(image.shape for image in decoded.values()):
            alike = {index: image for index, image in decoded.items() if image.shape == size}
            try:
                pixels = self.processor(list(alike.values()), return_tensors="pt", **layout)["pixel_values"]
                items |= {index: (index, one, None) for index, one in zip(alike, pixels, strict=True)}
            except (ValueError, OSError) as error:
                items |= {index: (index, None, str(error)) for index in alike}
        return items


@dataclass(frozen=True)
class BatchResult:
    """What became of one batch: B images run, the others in `errors`.

    indices: [B] positions in the data set.   logits: [B, K] float32.   pooled: [B, D] float32, if asked for.
    errors: position -> why the image could not be read.
    """

    indices: list[int]
    logits: torch.Tensor
    pooled: torch.Tensor | None
    errors: dict[int, str]


def run_batches(
    model: PreTrainedModel,
    images: PreparedImages,
    batches: Sequence[list[int]],
    num_workers: int = 0,
    with_pooled: bool = False,
) -> Iterator[BatchResult]:
    """Runs `model` on each of `batches` (positions in `images`) in turn, in eval mode; yields on the CPU.

    Raises ValueError if the model has no pooler_output and `with_pooled` asks for it.
    """
    if num_workers:
        loader: Iterable[list[Item]] = DataLoader(
            images, batch_sampler=batches, num_workers=num_workers, collate_fn=list
        )
    else:
        loader = read_ahead(images, batches)
    was_training = model.training
    model.eval()
    try:
        with watch_pooled(model) if with_pooled else _nothing() as pooled:
            for items in loader:
                yield run_batch(model, items, pooled)
    finally:
        model.train(was_training)


def read_ahead(images: PreparedImages, batches: Iterable[list[int]]) -> Iterator[list[Item]]:
    """The items of each batch, prepared by one thread while the batch before is being used."""
    pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))  # of that thread's own calls
    try:
        waiting: deque[Future[list[Item]]] = deque()
        for batch in batches:
            waiting.append(pool.submit(images.take, batch))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def run_batch(model: PreTrainedModel, items: Sequence[Item], pooled: list[torch.Tensor] | None = None) -> BatchResult:
    """Runs `model`, which is in eval mode, on the items of a PreparedImages; `pooled` is watch_pooled's list."""
    read = [(index, pixels) for index, pixels, _ in items if pixels is not None]
    config: Any = model.config
    logits, vectors = torch.empty(0, len(config.id2label)), []
    # Processors that keep the aspect ratio give images of several sizes: one pass for each.
    sizes = dict.fromkeys(pixels.shape for _, pixels in read)
    read = [(index, pixels) for size in sizes for index, pixels in read if pixels.shape == size]
    for size in sizes:
        batch = stacked([pixels for _, pixels in read if pixels.shape == size])
        with torch.inference_mode():
            output = model(pixel_values=batch.to(model.device, model.dtype))
        logits = torch.cat([logits, output.logits.float().cpu()])
        if pooled is not None:
            vectors.append(pooled.pop().flatten(1).float().cpu())
    return BatchResult(
        indices=[index for index, _ in read],
        logits=logits,
        pooled=torch.cat(vectors) if vectors else None,
        errors={index: error for index, _, error in items if error is not None},
    )


def stacked(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """[B, C, h, w]: the tensor whose rows the images are, where they are all of them in its order, else a copy."""
    whole = images[0]._base
    if whole is not None and len(whole) == len(images) and all(map(torch.Tensor.is_set_to, images, whole)):
        return whole
    return torch.stack(list(images))


@contextmanager
def watch_pooled(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """A list to which each pass appends the base model's pooler_output, which classifiers do not return."""
    seen: list[torch.Tensor] = []

    def keep(_module, _args, output) -> None:
        vector = output.get("pooler_output")
        if vector is None:
            raise ValueError(
                f"{type(model.base_model).__name__} gives no pooler_output; embeddings cannot be had from it."
            )
        seen.append(vector)

    handle = model.base_model.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
