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
    AutoModelForSemanticSegmentation,
)

from ._version import __version__
from .configuration_vit_custom import VARIANTS, ViTCustomConfig
from .heads_vit_custom import SegmentationOptions
from .image_decoding_vit_custom import decode_image, decode_images
from .image_limits_vit_custom import ImageDecodingError, ImageLimits
from .image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil
from .image_segmentation_vit_custom import (
    ViTCustomSegmentationImageProcessor,
    ViTCustomSegmentationImageProcessorPil,
)
from .masked_images_vit_custom import ViTCustomForMaskedImageModeling
from .modeling_vit_custom import ViTCustomBackbone, ViTCustomForImageClassification, ViTCustomModel
from .pretrained_vit_custom import ViTCustomPreTrainedModel, resize_input
from .segmentation_vit_custom import ViTCustomForSemanticSegmentation

AutoConfig.register(ViTCustomConfig.model_type, ViTCustomConfig)
AutoModel.register(ViTCustomConfig, ViTCustomModel)
AutoBackbone.register(ViTCustomConfig, ViTCustomBackbone)
AutoModelForImageClassification.register(ViTCustomConfig, ViTCustomForImageClassification)
AutoModelForMaskedImageModeling.register(ViTCustomConfig, ViTCustomForMaskedImageModeling)
AutoModelForSemanticSegmentation.register(ViTCustomConfig, ViTCustomForSemanticSegmentation)
AutoImageProcessor.register(
    ViTCustomConfig,
    image_processor_classes={"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil},
)
# transformers keeps one pair of processors for a class and finds it by name among all pairs; the options of a head are
# the class of the others, since every model has one class of configuration.
AutoImageProcessor.register(
    SegmentationOptions,
    image_processor_classes={
        "torchvision": ViTCustomSegmentationImageProcessor,
        "pil": ViTCustomSegmentationImageProcessorPil,
    },
)

__all__ = [
    "VARIANTS",
    "ImageDecodingError",
    "ImageLimits",
    "ViTCustomBackbone",
    "ViTCustomConfig",
    "ViTCustomForImageClassification",
    "ViTCustomForMaskedImageModeling",
    "ViTCustomForSemanticSegmentation",
    "ViTCustomImageProcessor",
    "ViTCustomImageProcessorPil",
    "ViTCustomModel",
    "ViTCustomPreTrainedModel",
    "ViTCustomSegmentationImageProcessor",
    "ViTCustomSegmentationImageProcessorPil",
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
