"""ViT Custom: a Hugging Face-compatible Vision Transformer.

Importing this package registers its classes with transformers' Auto classes, so that folders saved by it load
without `trust_remote_code`. The modules beside this file go into a published repository. The subpackages
(data, training, evaluation, …) stay on the machine that installed the package.
"""

from . import _startup  # noqa: F401, before the slow imports

# isort: split
from importlib import import_module
from typing import Any

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
)

from ._version import __version__
from .configuration_vit_custom import VARIANTS, ViTCustomConfig
from .image_decoding_vit_custom import decode_image, decode_images
from .image_limits_vit_custom import ImageDecodingError, ImageLimits
from .image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil
from .masked_images_vit_custom import ViTCustomForMaskedImageModeling
from .modeling_vit_custom import ViTCustomBackbone, ViTCustomForImageClassification, ViTCustomModel
from .pretrained_vit_custom import ViTCustomPreTrainedModel, resize_input

AutoConfig.register(ViTCustomConfig.model_type, ViTCustomConfig)
AutoModel.register(ViTCustomConfig, ViTCustomModel)
AutoBackbone.register(ViTCustomConfig, ViTCustomBackbone)
AutoModelForImageClassification.register(ViTCustomConfig, ViTCustomForImageClassification)
AutoModelForMaskedImageModeling.register(ViTCustomConfig, ViTCustomForMaskedImageModeling)
AutoImageProcessor.register(
    ViTCustomConfig,
    image_processor_classes={"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil},
)

__all__ = [
    "VARIANTS",
    "ImageDecodingError",
    "ImageLimits",
    "ViTCustomBackbone",
    "ViTCustomConfig",
    "ViTCustomForImageClassification",
    "ViTCustomForMaskedImageModeling",
    "ViTCustomImageProcessor",
    "ViTCustomImageProcessorPil",
    "ViTCustomModel",
    "ViTCustomPreTrainedModel",
    "__version__",
    "decode_image",
    "decode_images",
    "resize_input",
]

_LAZY = ("explain", "Explanation")  # in the sub-package `explanation`, which takes a second to import


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.explanation.explain"), name)
