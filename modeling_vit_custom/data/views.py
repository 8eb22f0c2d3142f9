"""Views: each image decoded and brought to one size, uint8, which is all of it that a run looks at.

Shapes: B batch, C channels, S x S' the view's size, h x w the model's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..common.errors import DataError
from ..image_decoding_vit_custom import decode_image
from .examples import Examples

_AS_UINT8 = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_first"}


class ViewMaker:
    """An image source -> uint8 [C, S, S'], by the geometry of an image processor.

    processor: decodes, resizes and crops; what it would rescale and normalise is left for `PixelValues`.
    shape: (C, S, S') of every view.   settings: of the processor, for this call alone.
    """

    def __init__(self, processor: Any, shape: tuple[int, int, int], settings: Mapping[str, Any] | None = None):
        self.processor, self.shape, self.settings = processor, tuple(shape), dict(settings or {})
        self.decode = getattr(processor, "decode", decode_image)

    def __call__(self, sources: Sequence[Any], names: Sequence[str]) -> torch.Tensor:
        """B sources -> uint8 [B, C, S, S'].

        Raises ImageDecodingError for one that cannot be read, DataError where the processor gives another size.
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
        """What two makers have in common whose views are the same, fit for JSON."""
        pixels = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "auto_map"}
        stored = {key: value for key, value in self.processor.to_dict().items() if key not in pixels}
        return {"processor": stored, "settings": self.settings, "shape": list(self.shape)}


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)


def eval_views(processor: Any, config: Any) -> ViewMaker:
    """The processor's own picture, [C, h, w] of the model: what evaluation, prediction and `pipeline` see."""
    return ViewMaker(processor, (config.num_channels, *config.image_hw))


def larger_views(processor: Any, config: Any, view_hw: tuple[int, int]) -> ViewMaker:
    """More of the picture in more pixels, [C, S, S'], to cut random crops from.

    A processor that resizes to a fixed size does so; of one that crops the middle of the shortest edge the whole
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
    return ViewMaker(processor, (config.num_channels, height, width), settings)


class PixelValues:
    """uint8 or float [B, C, h, w] in 0..255 -> float32 pixel_values, as the processor rescales and normalises them.

    Bit for bit what the processor gives, on any device.
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
    """The views of a split, made anew each time they are asked for."""

    def __init__(self, examples: Examples, maker: ViewMaker):
        self.examples, self.maker = examples, maker

    def __len__(self) -> int:
        return len(self.examples)

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """[B] positions -> uint8 [B, C, S, S']."""
        images, names = self.examples.images, self.examples.names
        return self.maker([images[i] for i in indices], [names[i] for i in indices])
