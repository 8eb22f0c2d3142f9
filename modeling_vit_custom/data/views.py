"""Views: images decoded and brought to one size, uint8. A run sees nothing else of an image.

Shapes: B batch, C channels, S x S' the view's size, h x w the model's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..common.errors import DataError
from ..image_decoding_vit_custom import decode_image
from .examples import Examples

_AS_UINT8 = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_first"}


class ImageResizer:
    """Makes uint8 [C, S, S'] from an image source, by the geometry of an image processor.

    processor: decodes, resizes and crops; rescaling and normalising are left to `PixelValues`.
    shape: (C, S, S') of every view.   settings: override the processor's own, for this maker alone.
    """

    def __init__(self, processor: Any, shape: tuple[int, int, int], settings: Mapping[str, Any] | None = None):
        self.processor, self.shape, self.settings = processor, tuple(shape), dict(settings or {})
        self.decode = getattr(processor, "decode", decode_image)

    def __call__(self, sources: Sequence[Any], names: Sequence[str]) -> torch.Tensor:
        """Return uint8 [B, C, S, S'] of B sources.

        Raises ImageDecodingError for one that cannot be read, DataError if the processor gives another size.
        """
        decoded = [self.decode(source, name=name) for source, name in zip(sources, names, strict=True)]
        views = self.processor(decoded, return_tensors="pt", **_AS_UINT8, **self.settings)["pixel_values"]
        if tuple(views.shape[1:]) != self.shape:
            raise DataError(
                f"{names[0]}: the image processor makes {_size(views.shape[1:])} of it, not {_size(self.shape)}. Give "
                "it the model's size (and do_center_crop with shortest_edge)."
            )
        return views

    def description(self) -> dict[str, Any]:
        """Return a record, fit for JSON, that is the same for two makers of the same views."""
        pixels = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "auto_map"}
        stored = {key: value for key, value in self.processor.to_dict().items() if key not in pixels}
        return {"processor": stored, "settings": self.settings, "shape": list(self.shape)}


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)


def eval_resizer(processor: Any, config: Any) -> ImageResizer:
    """Return the maker of the processor's own picture, [C, h, w]: what evaluation, prediction and `pipeline` see."""
    return ImageResizer(processor, (config.num_channels, *config.image_hw))


def larger_resizer(processor: Any, config: Any, view_hw: tuple[int, int]) -> ImageResizer:
    """Return a maker of larger views, [C, S, S'], from which random crops are cut: more of the picture, more pixels.

    A processor that resizes to a fixed size does so here too. If it crops the middle of the shortest edge, the whole
    middle is kept. Its resampling filter stays.
    """
    height, width = view_hw
    crops = processor.do_center_crop and "shortest_edge" in dict(processor.size)
    settings = {
        "size": {"shortest_edge": max(view_hw)} if crops else {"height": height, "width": width},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": crops,
        "do_resize": True,
        "do_pad": False,
    }
    return ImageResizer(processor, (config.num_channels, height, width), settings)


class PixelValues:
    """Rescales and normalises as the processor does: uint8 or float [B, C, h, w] in 0..255 -> float32 pixel_values.

    The result is bit for bit the processor's, on any device.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        own = self.processor
        images = own.rescale_and_normalize(
            images,
            own.do_rescale,
            own.rescale_factor,
            own.do_normalize,
            tuple(own.image_mean or ()),
            tuple(own.image_std or ()),
        )
        return images.float()


class DecodedViews:
    """The views of a split, decoded again each time they are asked for."""

    def __init__(self, examples: Examples, maker: ImageResizer):
        self.examples, self.maker = examples, maker

    def __len__(self) -> int:
        return len(self.examples)

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """Return uint8 [B, C, S, S'] for [B] positions."""
        images, names = self.examples.images, self.examples.names
        return self.maker([images[i] for i in indices], [names[i] for i in indices])
