"""The image processors of segmentation: images with their masks, and maps of classes from the model's logits.

`ViTCustomSegmentationImageProcessor` is on torchvision, `ViTCustomSegmentationImageProcessorPil` on Pillow. Images are
prepared by the image processors that they extend. Masks follow every resize, crop and padding, by nearest neighbour,
and are the same from both.

Shapes: B images in a batch, H×W pixels, K classes, h×w after resizing.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers.image_processing_utils import BatchFeature

from .heads_vit_custom import options_of
from .image_decoding_vit_custom import source_name
from .image_limits_vit_custom import ImageDecodingError
from .image_masks_vit_custom import read_mask
from .image_processing_base_vit_custom import BaseViTCustomImageProcessor, ViTCustomImageProcessorKwargs
from .image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil
from .image_resizing_vit_custom import target_size

IGNORED = -100  # class id of a pixel that the loss leaves out, as in torch


class ViTCustomSegmentationImageProcessorKwargs(ViTCustomImageProcessorKwargs, total=False):
    """
    do_reduce_labels (`bool`, *optional*):
        Whether masks count classes from 1, with 0 for pixels of no class (ADE20K): 1 is taken off every id, and 0 is
        left out of the loss.
    ignore_index (`int`, *optional*):
        The id in masks of pixels that the loss leaves out. They become -100, as all that is padded.
    """

    do_reduce_labels: bool | None
    ignore_index: int | None


class BaseViTCustomSegmentationImageProcessor(BaseViTCustomImageProcessor):
    """What the image processors of segmentation add to those that they extend, alike for both backends."""

    valid_kwargs: Any = ViTCustomSegmentationImageProcessorKwargs
    auto_classes = {
        "torchvision": "image_segmentation_vit_custom.ViTCustomSegmentationImageProcessor",
        "pil": "image_segmentation_vit_custom.ViTCustomSegmentationImageProcessorPil",
    }

    do_reduce_labels = False
    ignore_index = 255
    backend: Any  # these four are of the classes that each of the two extends
    pad: Any
    do_center_crop: Any
    do_pad: Any

    @classmethod
    def for_model(cls, config, **overrides):
        """Return a processor for the input size, channels and ignored id of a model; `overrides` are settings too."""
        ignored = options_of(config.heads, "image-segmentation").ignore_index
        return super().for_model(config, **({"ignore_index": ignored} | overrides))

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs) -> BatchFeature:
        """Return pixel_values [B, C, h, w] and, with `segmentation_maps`, labels [B, h, w] of class ids, int64.

        segmentation_maps: a mask for each image, of the image's size, as `read_mask` reads it; -100 marks pixels that
        the loss leaves out.

        Raises ImageDecodingError for an image or a mask that cannot be read or used, by its position in the batch.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(self, images: Any, *maps: Any, **kwargs) -> BatchFeature:
        features = super()._preprocess_image_like_inputs(images, **kwargs)
        if maps and maps[0] is not None:
            masks = self._masks(maps[0], len(self._prepare_images_structure(images)), features)
            labels = self._process_masks(masks, **kwargs)
            features.update(BatchFeature({"labels": labels}, tensor_type=kwargs["return_tensors"]))
        return features

    def _masks(self, maps: Any, count: int, features: BatchFeature) -> list[np.ndarray]:
        """The masks [H, W] of the images in `features`. Raises ImageDecodingError for one of another size."""
        arrays = isinstance(maps, np.ndarray | torch.Tensor)
        each = list(maps) if isinstance(maps, list | tuple) or (arrays and maps.ndim > 2) else [maps]
        if len(each) != count:
            raise ValueError(f"segmentation_maps: {len(each)} masks for {count} images. Give one for each image.")
        masks = []
        for index, size in zip(features.kept_indices, features.original_sizes, strict=True):
            path = source_name(each[index])
            name = f"mask {index} of the batch" + (f" ({path})" if path else "")
            mask = read_mask(each[index], name, self.limits)
            if mask.shape != size:
                raise ImageDecodingError(
                    f"{name} has {mask.shape[0]}x{mask.shape[1]} pixels, its image {size[0]}x{size[1]}. Fix: give "
                    "masks in the size of their images."
                )
            masks.append(mask)
        return masks

    def _process_masks(self, masks: Sequence[np.ndarray], **now: Any) -> list[Any]:
        """Labels [h, w] of the backend, from masks [H, W], by the settings of this call."""
        for_this_call = copy.copy(self)  # center_crop reads it there
        for_this_call.rounding = now["rounding"]
        shifted = []
        for index, mask in enumerate(masks):
            ids = _shifted_ids(mask, index, now["ignore_index"], now["do_reduce_labels"])
            if now["do_resize"]:
                ids = _nearest(ids, target_size(mask.shape, now["size"], now["rounding"]))
            image: Any = ids[None] if self.backend == "torchvision" else ids[None].numpy()
            shifted.append(for_this_call.center_crop(image, now["crop_size"]) if now["do_center_crop"] else image)
        if now["do_pad"]:
            shifted = self.pad(shifted, pad_size=now["pad_size"])
        library: Any = torch if self.backend == "torchvision" else np
        return [library.where(image[0] > 0, image[0] - 1, IGNORED) for image in shifted]

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, return_segmentation_scores: bool = False
    ) -> list[Any]:
        """Return a map of class ids [H, W] for each image of a model's output, int64.

        target_sizes: (height, width) of each map, such as `original_sizes` of the processor's result; without it, the
        maps have the size of the logits. return_segmentation_scores: return, as transformers does, objects with the
        fields `segmentation` and `segmentation_scores`, the resized logits [K, H, W], float32.

        Raises ValueError for another number of sizes than images, for logits that are NaN or infinite, and for
        `target_sizes` of a processor that crops or pads, whose logits do not show the image as it was.
        """
        logits = outputs.logits
        if target_sizes is not None and (self.do_center_crop or self.do_pad):
            raise ValueError(
                "target_sizes: this processor crops or pads, so the logits do not show whole images. Leave it out, or "
                "set do_center_crop=False and do_pad=False."
            )
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(f"target_sizes: {len(target_sizes)} for {len(logits)} images. Give one for each image.")
        if not logits.isfinite().all():
            raise ValueError("the model's output is NaN or infinite: its weights are damaged.")
        results = []
        for index, scores in enumerate(logits):
            scores = scores.float()
            if target_sizes is not None:
                size = tuple(int(side) for side in target_sizes[index])
                scores = interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
            classes = scores.argmax(dim=0)
            entry = {"segmentation": classes, "segmentation_scores": scores}
            results.append(BatchFeature(entry) if return_segmentation_scores else classes)
        return results


class ViTCustomSegmentationImageProcessor(BaseViTCustomSegmentationImageProcessor, ViTCustomImageProcessor):
    """Image processor of segmentation on torchvision: `processor(images, segmentation_maps)`.

    Args:
        do_reduce_labels, ignore_index: how the ids of masks are read.
        the others: as of `ViTCustomImageProcessor`.
    """

    valid_kwargs = ViTCustomSegmentationImageProcessorKwargs


class ViTCustomSegmentationImageProcessorPil(BaseViTCustomSegmentationImageProcessor, ViTCustomImageProcessorPil):
    """Image processor of segmentation on numpy and Pillow, without torchvision; settings as above."""

    valid_kwargs = ViTCustomSegmentationImageProcessorKwargs


def _shifted_ids(mask: np.ndarray, index: int, ignore_index: int, reduce_labels: bool) -> torch.Tensor:
    """The class ids plus 1, int64, with 0 for a pixel of no class, which crops and padding also fill in."""
    ids = torch.from_numpy(mask.astype(np.int64))
    nothing = (ids == ignore_index) | (ids == IGNORED)
    if reduce_labels:
        nothing |= ids == 0
        ids = ids - 1
    if bool(((ids < 0) & ~nothing).any()):
        raise ImageDecodingError(f"mask {index} holds ids below 0. Fix: number classes from 0, or set ignore_index.")
    return (ids + 1).masked_fill(nothing, 0)


def _nearest(ids: torch.Tensor, hw: tuple[int, int]) -> torch.Tensor:
    """Ids [H, W] resized to [h, w]: each takes that of the pixel at its centre, as in Pillow."""
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()
        for old, new in zip(ids.shape, hw, strict=True)
    )
    return ids[rows][:, columns]


ViTCustomSegmentationImageProcessor.register_for_auto_class()
ViTCustomSegmentationImageProcessorPil.register_for_auto_class()
