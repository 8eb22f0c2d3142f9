"""The image processors: `ViTCustomImageProcessor` on torchvision, `ViTCustomImageProcessorPil` on Pillow.

Both turn images into `pixel_values` [B, C, H, W] float32: decode, resize to a fixed size (by default bilinear with
antialiasing and without keeping the aspect ratio, as in Google's ViT), rescale to [0, 1], normalise. Their outputs
differ by at most one grey level. They share this file so that every saved folder holds both, whichever was loaded. The
file does not import torchvision itself, so the Pillow backend works without it.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend, TorchvisionBackend

from .image_processing_base_vit_custom import BaseViTCustomImageProcessor, ViTCustomImageProcessorKwargs


class ViTCustomImageProcessor(BaseViTCustomImageProcessor, TorchvisionBackend):
    """Image processor on torchvision: tensors throughout, on any device; images of equal size are resized together.

    Args:
        num_channels: 3 for RGB, 1 for grey, another number for images with that many bands.
        background_color: RGB in 0..255, seen through transparent pixels if the output is grey or RGB.
        antialias, rounding: how pixels are resampled and sizes rounded, as where the weights come from.
        size, resample, do_resize, do_rescale, rescale_factor, do_normalize, image_mean, image_std, crop_size,
            do_center_crop, …: as in every transformers image processor. The mean and standard deviation have
            one entry per channel, by default 0.5.
    """

    valid_kwargs = ViTCustomImageProcessorKwargs

    def process_image(
        self, image: Any, device: str | torch.device | None = None, name: str | None = None, **kwargs
    ) -> torch.Tensor:
        """Decode one image: [C, H, W] on `device`."""
        decoded = self.decode(image, name, **kwargs)
        return decoded if device is None else decoded.to(device)


class ViTCustomImageProcessorPil(BaseViTCustomImageProcessor, PilBackend):
    """Image processor on numpy and Pillow: on the CPU, one image at a time, without torchvision; settings as above."""

    valid_kwargs = ViTCustomImageProcessorKwargs

    def process_image(self, image: Any, name: str | None = None, **kwargs) -> np.ndarray:
        """Decode one image: [C, H, W]."""
        return self.decode(image, name, **kwargs).numpy()

    def resize_by_backend(self, image: np.ndarray, hw: tuple[int, int], resample: int, **kwargs) -> np.ndarray:
        """Resize [C, H, W] to [C, h, w]; bands and scaled (float) images channel by channel, in any range."""
        if image.dtype == np.uint8 and len(image) in (1, 3):
            return super().resize_by_backend(image, hw, resample, **kwargs)
        channels = [Image.fromarray(channel).resize((hw[1], hw[0]), resample) for channel in image]
        return np.stack([np.asarray(channel) for channel in channels])


ViTCustomImageProcessor.register_for_auto_class()
ViTCustomImageProcessorPil.register_for_auto_class()
