"""Batched inference: image sources through decoder, processor and model. An unreadable image costs only itself.

Shapes: B batch, K outputs, D pooled width, C channels, h, w the model's input size.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from ..common.errors import DataError
from ..common.stopping import lost_loader
from ..image_decoding_vit_custom import decode_image
from ..pretrained_vit_custom import ViTCustomPreTrainedModel
from ..tasks.entries import digits
from ..tasks.registry import task_of

Item = tuple[int, torch.Tensor | None, str | None]

TOGETHER = 2**25  # bytes, approximately, of decoded images that are processed together


class PreparedImages(Dataset):
    """A data set of items (i, float32 pixel_values [C, h, w], None) or (i, None, why the image is unreadable)."""

    def __init__(self, sources: Sequence[Any], names: Sequence[str], processor: Any):
        self.sources, self.names, self.processor = sources, names, processor
        self.decode = processor.decode if hasattr(processor, "decode") else decode_image

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        return self.take([index])[0]

    def take(self, indices: Iterable[int]) -> list[Item]:
        """Return several items; images of one size are processed together, which costs less than one by one."""
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

    __getitems__ = take  # a DataLoader calls this for a batch

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
    """The result of one batch: outputs of the B readable images, `errors` of the others.

    indices: [B] positions in the data set.   outputs: [B, K] float32.   pooled: [B, D] float32, if asked for.   errors:
    position -> why the image could not be read.   typicality, unknown: [B], of a model that answers "unknown".
    """

    indices: list[int]
    outputs: torch.Tensor
    pooled: torch.Tensor | None
    errors: dict[int, str]
    typicality: torch.Tensor | None = None
    unknown: torch.Tensor | None = None

    def verdict(self, row: int) -> dict[str, Any]:
        """Return {"unknown", "typicality"} of a readable image, for JSON; {} of a model that answers every image."""
        if self.unknown is None or self.typicality is None:
            return {}
        return {"unknown": bool(self.unknown[row]), "typicality": digits(float(self.typicality[row]))}

    @classmethod
    def joined(cls, results: Sequence["BatchResult"]) -> "BatchResult":
        """Return the results of several batches as one, in the order of the data set."""
        indices = [index for one in results for index in one.indices]
        order = torch.tensor(indices, dtype=torch.long).argsort()

        def whole(name: str) -> torch.Tensor | None:
            parts = [part for one in results if (part := getattr(one, name)) is not None]
            return torch.cat(parts)[order] if parts else None

        outputs = torch.cat([one.outputs for one in results])[order]
        errors = {index: error for one in results for index, error in one.errors.items()}
        return cls(sorted(indices), outputs, whole("pooled"), errors, whole("typicality"), whole("unknown"))


def run_batches(
    model: PreTrainedModel,
    images: PreparedImages,
    batches: Sequence[list[int]],
    num_workers: int = 0,
    with_pooled: bool = False,
) -> Iterator[BatchResult]:
    """Yield the results of `model`, on the CPU, for each of `batches` (positions in `images`) in turn.

    The model runs in eval mode. Raises ValueError if `with_pooled` is true and the model has no pooler_output.
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
    except RuntimeError as error:
        if (lost := lost_loader(error, "num_workers")) is not None:
            raise DataError(lost) from error
        raise
    finally:
        model.train(was_training)


def read_ahead(images: PreparedImages, batches: Iterable[list[int]]) -> Iterator[list[Item]]:
    """Yield the items of each batch; one thread prepares the next batch while the current one is being used."""
    pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))  # for that thread only
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


def run_batch(
    model: PreTrainedModel, items: Sequence[Item], pooled: Callable[[Any], torch.Tensor] | None = None
) -> BatchResult:
    """Run `model`, already in eval mode, on items of a PreparedImages.   pooled: the function from `watch_pooled`."""
    read = [(index, pixels) for index, pixels, _ in items if pixels is not None]
    config: Any = model.config
    field = task_of(config).listing.output
    answers, vectors, typical, unknown = [], [], [], []
    # Processors that keep the aspect ratio give images of several sizes: one pass for each.
    sizes = dict.fromkeys(pixels.shape for _, pixels in read)
    read = [(index, pixels) for size in sizes for index, pixels in read if pixels.shape == size]
    for size in sizes:
        batch = stacked([pixels for _, pixels in read if pixels.shape == size])
        with torch.inference_mode():
            output = model(pixel_values=batch.to(model.device, model.dtype))
        if pooled is None or field in output:  # an encoder may store labels that it has no head for
            answers.append(output[field].float().cpu())
        if output.get("unknown") is not None:
            typical.append(output["typicality"].float().cpu())
            unknown.append(output["unknown"].cpu())
        if pooled is not None:
            vectors.append(pooled(output).flatten(1).float().cpu())
    return BatchResult(
        indices=[index for index, _ in read],
        outputs=torch.cat(answers) if answers else torch.empty(0, len(config.id2label)),
        pooled=torch.cat(vectors) if vectors else None,
        errors={index: error for index, _, error in items if error is not None},
        typicality=torch.cat(typical) if typical else None,
        unknown=torch.cat(unknown) if unknown else None,
    )


def stacked(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return images as [B, C, h, w], without copying if they are all rows of one tensor, in order."""
    whole = images[0]._base
    if whole is not None and len(whole) == len(images) and all(map(torch.Tensor.is_set_to, images, whole)):
        return whole
    return torch.stack(list(images))


@contextmanager
def watch_pooled(model: PreTrainedModel) -> Iterator[Callable[[Any], torch.Tensor]]:
    """Yield a function from the output of a pass to its pooled vector [B, D].

    Other libraries' classifiers do not return that vector, so a forward hook reads it from their encoder.
    """

    def pooled(output: Any) -> torch.Tensor:
        vector = output.get("pooler_output")
        if vector is None:
            raise ValueError(
                f"{type(model.base_model).__name__} gives no pooler_output; embeddings cannot be had from it."
            )
        return vector

    if isinstance(model, ViTCustomPreTrainedModel):
        yield pooled
        return
    seen: list[torch.Tensor] = []
    handle = model.base_model.register_forward_hook(lambda _module, _args, output: seen.append(pooled(output)))
    try:
        yield lambda _output: seen.pop()
    finally:
        handle.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
