"""A model as one graph of operators, with the preprocessing inside if wanted.

Shapes: B batch, C channels, H×W pixels of an image, h×w of the model's input, p×q patch, K outputs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from transformers.image_utils import PILImageResampling

from ..interpolation_vit_custom import ResizeRule, resize_matrix
from .output import OutputOf

AXES = ("batch", "height", "width")
KERNELS = {
    PILImageResampling.NEAREST: "nearest",
    PILImageResampling.BOX: "area",
    PILImageResampling.BILINEAR: "bilinear",
    PILImageResampling.BICUBIC: "bicubic",
}


class Preprocessed(nn.Module):
    """The image processor's steps, then the model: decoded uint8 images [B, C, H, W] → output [B, K]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: nn.Module, processor: Any):
        """Raises ValueError unless the processor resizes to one height and width, by one of KERNELS, without padding.

        The graph has one size inside, so it cannot depend on an image's aspect ratio.
        """
        super().__init__()
        size = dict(processor.size) if processor.do_resize else {}
        if set(size) != {"height", "width"} or processor.resample not in KERNELS or processor.do_pad:
            raise ValueError(
                f"preprocessing inside the file needs a processor that resizes to one height and width, not size={size}"
                f", resample={processor.resample}: leave --preprocessing out."
            )
        kernel = KERNELS[PILImageResampling(processor.resample)]
        self.rule = ResizeRule(kernel, antialias=processor.antialias and kernel in ("bilinear", "bicubic"))
        self.model, self.size, self.processor = model, (size["height"], size["width"]), processor
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        self.register_buffer("scale", scale / std if processor.do_normalize else torch.tensor(scale))
        self.register_buffer("shift", -mean / std if processor.do_normalize else torch.tensor(0.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows, columns = (
            resize_matrix(n, m, self.rule).float() for n, m in zip(images.shape[2:], self.size, strict=True)
        )
        pixels = _whole(rows @ _whole(images.float() @ columns.T))  # Pillow rounds after each axis
        if self.processor.do_center_crop:
            pixels = self.processor.center_crop(pixels, self.processor.crop_size)
        return self.model(pixels * self.scale + self.shift)


def _whole(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.round().clamp(0, 255)


def trace(
    model: nn.Module, size: Sequence[int], dynamic: Sequence[str], patch_hw: tuple[int, int] | None
) -> torch.export.ExportedProgram:
    """Return the model's graph for inputs [B, C, H, W] of this size; axes that `dynamic` names may have any size.

    patch_hw: sides are whole patches, and the input is float32. None: sides are any number of pixels, and the input is
    uint8.
    """
    p, q = patch_hw or (1, 1)
    axes = {0: Dim("batch", min=1, max=65_536), 2: p * Dim("rows", min=1), 3: q * Dim("columns", min=1)}
    named = dict(zip((0, 2, 3), AXES, strict=True))
    shapes = {axis: dim for axis, dim in axes.items() if named[axis] in dynamic}
    # torch takes special sizes for constants: a batch of one, or the size of the position table; so avoid these
    batch, channels, height, width = size
    batch = max(2, batch) if "batch" in dynamic else batch
    height, width = height + p * ("height" in dynamic), width + 2 * q * ("width" in dynamic)
    example = torch.rand(batch, channels, height, width)
    example = example if patch_hw else (255 * example).to(torch.uint8)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=(shapes or None,))
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine, which the file would contain
    return program


class InFormat(nn.Module):
    """A model that computes in another number format, with float32 input and float32 output `field`."""

    def __init__(self, model: nn.Module, field: str, dtype: torch.dtype):
        super().__init__()
        self.field, self.dtype = field, dtype
        self.add_module(field, OutputOf(model.to(dtype), field))  # the weights' names in the file begin with it

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(self.field)(pixel_values.to(self.dtype)).float()
