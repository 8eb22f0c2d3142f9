"""Every class of models of the package."""

from modeling_vit_custom import (
    ViTCustomBackbone,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomForSemanticSegmentation,
    ViTCustomModel,
)

MODELS = (
    ViTCustomModel,
    ViTCustomBackbone,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomForSemanticSegmentation,
)
