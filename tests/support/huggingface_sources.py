"""Models of transformers with random weights, as `convert` reads them."""

import torch
import transformers

COMMON = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
LABELS = {"id2label": {i: f"class {i}" for i in range(5)}}
SQUARE = {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"}
BIASES = ("query_bias", "value_bias", "proj_bias", "mlp_bias")
# name: model class, configuration class, fields that differ; the family is the name up to the slash
MODELS = {
    "vit": ("ViTForImageClassification", "ViTConfig", LABELS),
    "vit/encoder": ("ViTModel", "ViTConfig", {}),
    "vit_mae": (
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "mask_ratio": 0.0},
    ),
    "deit, two heads": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", LABELS),
    "deit": ("DeiTForImageClassification", "DeiTConfig", LABELS),
    "deit/encoder": ("DeiTModel", "DeiTConfig", {}),
    "ijepa": ("IJepaForImageClassification", "IJepaConfig", LABELS),
    "ijepa/encoder": ("IJepaModel", "IJepaConfig", {}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", LABELS),
    "dinov2/relu": ("Dinov2Model", "Dinov2Config", {"hidden_act": "relu", "layerscale_value": 0.1}),
    "dinov2/gated": ("Dinov2Model", "Dinov2Config", {"use_swiglu_ffn": True}),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", LABELS),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 2}),
    "dinov3_vit/gated": ("DINOv3ViTModel", "DINOv3ViTConfig", SQUARE),
    "dinov3_vit/all biases": ("DINOv3ViTModel", "DINOv3ViTConfig", {"key_bias": True, "attention_dropout": 0.1}),
    "dinov3_vit/no biases": ("DINOv3ViTModel", "DINOv3ViTConfig", dict.fromkeys(BIASES, False)),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", {}),
    "clip, classifier": ("CLIPForImageClassification", "CLIPConfig", {"vision_config": COMMON, **LABELS}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", {}),
    "siglip, classifier": (
        "SiglipForImageClassification", "SiglipConfig",
        {"vision_config": COMMON, **LABELS, "problem_type": "multi_label_classification"},
    ),
}  # fmt: skip


def random_source(cls: str, config: str, fields: dict):
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**{**COMMON, **fields})).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model
