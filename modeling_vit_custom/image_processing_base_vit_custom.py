"""The base of both image processors: decoding, settings and their checks, saving.

Shapes: B images in a batch, C channels (1 grey, 3 RGB, else an image's bands), H height, W width; h×w after resizing.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .image_decoding_vit_custom import (
    check_background,
    check_channel_order,
    check_num_channels,
    check_on_error,
    decode_each,
    decode_image,
)
from .image_limits_vit_custom import DEFAULT_LIMITS, ImageDecodingError, ImageLimits
from .image_resizing_vit_custom import check_resizing, crop_corner, is_own, resize_own, target_size

logger = logging.get_logger(__name__)

MAX_SIDE = 8192  # pixels: a 3-channel float image of this side is 800 MB
DEFAULT_MEAN_STD = 0.5  # maps 0..255 to [-1, 1], as Google's ViT checkpoints expect

# Keys of saved configurations that are not settings.
_SERVICE_KEYS = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")
_DECODING_KEYS = ("num_channels", "background_color", "do_rescale", "input_data_format", "channel_order", "allow_urls")
# Settings of a call and its machine, not of a model: never saved, and ignored in a saved file.
_PER_CALL_KEYS = (
    "allow_urls",
    "channel_order",
    "data_format",
    "device",
    "disable_grouping",
    "input_data_format",
    "on_error",
    "return_tensors",
)
_SIZE_KEYS = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})


class ViTCustomImageProcessorKwargs(ImagesKwargs, total=False):
    """
    num_channels (`int`, *optional*):
        Channels of the output: 3 for RGB, 1 for grey. With another number, images must have exactly that many channels,
        which stay as they are (4: red, green, blue and alpha or near infrared). `image_mean` and `image_std` have as
        many entries.
    background_color (`list[int]`, *optional*):
        Red, green and blue in 0..255, the colour that shows through transparent pixels.
    antialias (`bool`, *optional*):
        If off, shrinking reads only the nearest 2 × 2 (bilinear) or 4 × 4 (bicubic) pixels, as `tf.image.resize` does.
    rounding (`str`, *optional*):
        How sizes become whole pixels: "floor" (transformers), "round_crop" (torchvision, timm: half the margin of
        a crop is rounded) or "round_edge" (big_vision: the longer edge is rounded, where `size` gives the shorter one).
    channel_order (`str`, *optional*):
        "bgr" for arrays and tensors from OpenCV. Files and Pillow images know their own order.
    on_error (`str`, *optional*):
        What happens at an unreadable image of a batch. "raise": the call stops. "skip": it is left out and a warning
        names it. "report": it is left out. `errors` and `kept_indices` of the result say which images were.
    allow_urls (`bool`, *optional*):
        Download http and https addresses, within `limits`.
    """

    num_channels: int | None
    background_color: list[int] | tuple[int, ...] | None
    antialias: bool | None
    rounding: str | None
    channel_order: str | None
    on_error: str | None
    allow_urls: bool | None


class BaseViTCustomImageProcessor(BaseImageProcessor):
    """Puts the one decoder and one validation in front of either transformers backend.

    Images may be paths, bytes of image files, Pillow images, arrays and tensors, in any mixture: all are decoded by
    `decode_image`, so `do_convert_rgb` changes nothing. An error about one image of a batch names its index. With
    `do_rescale=False`, float arrays of any finite range are taken as scaled already.

    The result of a call has three attributes: `kept_indices`, the positions of the images in the result among those
    given, `errors`, position -> why an image is unreadable, and `original_sizes`, (height, width) of each image in the
    result as decoded. They are not entries, which a model would be given.
    The attribute `limits`, an `ImageLimits`, says which sizes are accepted; it is never saved.
    """

    valid_kwargs: Any = ViTCustomImageProcessorKwargs
    # The module and class that transformers loads for each backend; a saved folder is flat.
    auto_classes = {
        "torchvision": "image_processing_vit_custom.ViTCustomImageProcessor",
        "pil": "image_processing_vit_custom.ViTCustomImageProcessorPil",
    }

    resample = PILImageResampling.BILINEAR
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    num_channels = 3
    background_color = (255, 255, 255)
    antialias = True
    rounding = "floor"
    channel_order = "rgb"
    on_error = "raise"
    allow_urls = False
    limits: ImageLimits = DEFAULT_LIMITS

    def __init__(self, **kwargs):
        """
        Raises:
            TypeError: an unknown setting.
            ValueError: an impossible value; the message names the setting, the value and the fix.
        """
        kwargs = {key: value for key, value in kwargs.items() if key not in _SERVICE_KEYS}
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__))
        if unknown:
            known = ", ".join(sorted(self.valid_kwargs.__annotations__))
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}. The settings are: {known}.")
        validate_typed_dict(self.valid_kwargs, kwargs)
        if kwargs.get("num_channels") is None:
            kwargs["num_channels"] = self.num_channels
        for field in ("image_mean", "image_std"):
            if kwargs.get(field) is None:
                kwargs[field] = [DEFAULT_MEAN_STD] * kwargs["num_channels"]
        super().__init__(**kwargs)
        check_settings(**{key: getattr(self, key) for key in self.valid_kwargs.__annotations__})

    @classmethod
    def for_model(cls, config, **overrides):
        """Return a processor for the input size and channels of a model; `overrides` are further settings."""
        height, width = config.image_hw
        fitting = {"size": {"height": height, "width": width}, "num_channels": config.num_channels}
        return cls(**(fitting | overrides))

    def decode(self, source: Any, name: str | None = None, **settings: Any) -> torch.Tensor:
        """Decode one image by `decode_image` with the stored or given settings: [num_channels, H, W] uint8."""
        now = {key: settings.get(key, getattr(self, key)) for key in _DECODING_KEYS}
        return decode_image(
            source,
            now["num_channels"],
            now["background_color"],
            name=name,
            input_data_format=now["input_data_format"],
            keep_float=not now["do_rescale"],
            channel_order=now["channel_order"],
            allow_urls=now["allow_urls"],
            limits=settings.get("limits", self.limits),
        )

    # ---------- from images to decoded tensors

    def fetch_images(self, image_url_or_urls: Any, **settings: Any) -> Any:
        """Decode a source or nested lists of sources; addresses only with `allow_urls`, despite the argument's name."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(source, **settings) for source in image_url_or_urls]
        return self.decode(image_url_or_urls, **settings)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """One image, a list, a list of lists or a [B, ...] array, as a flat list of undecoded images."""
        if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
            images = list(images)
        elif not isinstance(images, list | tuple):
            images = [images]
        flat: list[Any] = []
        for item in images:
            is_batch = isinstance(item, np.ndarray | torch.Tensor) and item.ndim == 4
            flat.extend(item if is_batch or isinstance(item, list | tuple) else [item])
        if not flat:
            raise ValueError("images: there is none. Give at least one image.")
        return flat

    def _preprocess_image_like_inputs(self, images: Any, *args, on_error: str = "raise", **kwargs) -> BatchFeature:
        """Decode every image to the type of the backend, then let the backend process them."""
        sources = self._prepare_images_structure(images)
        decoded = decode_each(sources, lambda image, name: self.process_image(image, name=name, **kwargs), on_error)
        if not decoded.images:
            raise ImageDecodingError(f"none of the {len(sources)} images can be read. {decoded.errors[0]}")
        _check_one_scale(decoded.images, decoded.kept)
        for_this_call = copy.copy(self)  # backends call resize and center_crop without these two
        for_this_call.antialias, for_this_call.rounding = kwargs["antialias"], kwargs["rounding"]
        features = for_this_call._preprocess(decoded.images, *args, **kwargs)
        features.kept_indices, features.errors = decoded.kept, decoded.errors
        features.original_sizes = [tuple(image.shape[-2:]) for image in decoded.images]
        return features

    # ---------- what both backends do alike

    def resize(self, image: Any, size: SizeDict, resample: Any = None, **kwargs) -> Any:
        """Resize [..., H, W] to [..., h, w]; bilinear if `resample` is None."""
        hw = target_size(image.shape[-2:], size, self.rounding)
        resample = PILImageResampling.BILINEAR if resample is None else resample
        if is_own(resample, self.antialias):
            return resize_own(image, hw, resample)
        return self.resize_by_backend(image, hw, resample, **kwargs)

    def resize_by_backend(self, image: Any, hw: tuple[int, int], resample: int, **kwargs) -> Any:
        """Resize [..., H, W] to [..., h, w] by the backend."""
        return super().resize(image, SizeDict(height=hw[0], width=hw[1]), resample, **kwargs)

    def center_crop(self, image: Any, size: Any, **kwargs) -> Any:
        """Crop the centre of [..., H, W] to [..., h, w]; the backend pads images smaller than the crop."""
        if image.shape[-2] < size.height or image.shape[-1] < size.width:
            return super().center_crop(image, size, **kwargs)
        top, left = crop_corner(image.shape[-2:], size, self.rounding)
        return image[..., top : top + size.height, left : left + size.width]

    # ---------- settings

    def _standardize_kwargs(self, **kwargs) -> dict:
        kwargs = super()._standardize_kwargs(**kwargs)
        for field in ("image_mean", "image_std"):
            if isinstance(kwargs[field], int | float):
                kwargs[field] = (kwargs[field],) * kwargs["num_channels"]
        if isinstance(kwargs["background_color"], list):
            kwargs["background_color"] = tuple(kwargs["background_color"])
        return kwargs

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        check_settings(**kwargs)

    # ---------- saving

    @property
    def auto_map(self) -> dict[str, dict[str, str]]:
        """The entry of a saved configuration for the Auto classes, the same wherever it was loaded from."""
        return {"AutoImageProcessor": dict(self.auto_classes)}

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved: the settings that are set, the class (without "Pil") and the auto_map."""
        saved = {*self.valid_kwargs.__annotations__, "image_processor_type"}.difference(_PER_CALL_KEYS)
        settings = {key: value for key, value in super().to_dict().items() if key in saved}
        return settings | {"auto_map": self.auto_map}

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        """Build from saved settings; unknown keys, and settings of a call, are ignored with a warning."""
        known = {*cls.valid_kwargs.__annotations__, *_SERVICE_KEYS}.difference(_PER_CALL_KEYS)
        foreign = [key for key in image_processor_dict if key not in known]
        if foreign:
            logger.warning(f"{cls.__name__} has no settings {', '.join(foreign)}: left out.")
        settings = {key: value for key, value in image_processor_dict.items() if key in known}
        return super().from_dict(settings, **kwargs)


def _check_one_scale(images: Sequence[np.ndarray | torch.Tensor], positions: Sequence[int]) -> None:
    kinds = [str(image.dtype).removeprefix("torch.") for image in images]
    for kind, position in zip(kinds, positions, strict=True):
        if kind != kinds[0]:
            raise ImageDecodingError(
                f"image {position} of the batch is {kind}, image {positions[0]} is {kinds[0]}, and do_rescale=False "
                "leaves both as they are. Fix: give images on one scale."
            )


def check_settings(
    num_channels: int,
    background_color: Sequence[int],
    image_mean: Sequence[float] | None,
    image_std: Sequence[float] | None,
    rescale_factor: float | None,
    size: dict[str, int] | None,
    crop_size: dict[str, int] | None,
    pad_size: dict[str, int] | None,
    resample: int | None,
    antialias: bool,
    rounding: str,
    channel_order: str,
    on_error: str,
    data_format: str | None = None,
    **others,
) -> None:
    """Raise ValueError for settings that cannot process any image, naming the setting, its value and the fix."""
    check_num_channels(num_channels)
    check_background(background_color)
    check_channel_order(channel_order)
    check_on_error(on_error)
    for field, values in (("image_mean", image_mean), ("image_std", image_std)):
        if values is None:
            continue
        if len(values) != num_channels:
            raise ValueError(
                f"{field}={list(values)}: {len(values)} values for num_channels={num_channels}. Give one for "
                "each channel, or one number for all."
            )
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{field}={list(values)}: give finite numbers.")
        if field == "image_std" and min(values) <= 0:
            raise ValueError(f"{field}={list(values)}: pixels are divided by it; give positive numbers.")
    if rescale_factor is not None and not (math.isfinite(rescale_factor) and rescale_factor > 0):
        raise ValueError(f"rescale_factor={rescale_factor!r}: give a positive number, 1/255 for 8-bit images.")
    for field, sides in (("size", size), ("crop_size", crop_size), ("pad_size", pad_size)):
        if sides is not None:
            _check_size(field, dict(sides))
    check_resizing(resample, antialias, rounding)
    if data_format not in (None, "channels_first"):
        raise ValueError(f"data_format={data_format!r}: the models take 'channels_first'.")


def _check_size(field: str, sides: dict[str, int]) -> None:
    if set(sides) not in _SIZE_KEYS:
        raise ValueError(f"{field}={sides}: give height and width, shortest_edge, or max_height and max_width.")
    for key, side in sides.items():
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
            raise ValueError(f"{field}={sides}: {key} must be an integer from 1 to {MAX_SIDE} pixels.")
