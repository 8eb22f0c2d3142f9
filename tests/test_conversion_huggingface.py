"""transformers' own Vision Transformers, every parameter random, give the same numbers here."""

import pytest
import torch
import transformers

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.family import Source, detect
from modeling_vit_custom.conversion.huggingface import FAMILIES, canonical

COMMON = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
LABELS = {"id2label": {i: f"class {i}" for i in range(5)}}
SQUARE = {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"}
# name: model, configuration, what differs; the family is the name up to a slash
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
    "ijepa": ("IJepaForImageClassification", "IJepaConfig", LABELS),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", LABELS),
    "dinov2/gated": ("Dinov2Model", "Dinov2Config", {"use_swiglu_ffn": True}),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", LABELS),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 2}),
    "dinov3_vit/gated": ("DINOv3ViTModel", "DINOv3ViTConfig", SQUARE),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", {}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", {}),
}


def random_source(cls: str, config: str, fields: dict):
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**{**COMMON, **fields})).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_converted_equals_source_in_float64(name):
    reference = random_source(*MODELS[name])
    state = canonical(reference.state_dict())
    source = Source(name, state, config=reference.config.to_dict())
    family = detect(FAMILIES, state)
    assert family.name == name.split("/")[0]
    conversion = build(source, family)
    for height, width in ((32, 32), (48, 48), (40, 56)):
        images = torch.randn(2, 3, height, width, dtype=torch.float64)
        options = {} if "dino" in name else {"interpolate_pos_encoding": True}
        if name == "vit_mae":  # the encoder, with nothing masked and nothing shuffled
            options["noise"] = torch.arange(height * width // 64).expand(2, -1)
        encoder = reference.vit if name == "vit_mae" else reference
        expected, actual = encoder(images, **options), conversion.model(images)
        compared = [
            key
            for key in ("logits", "last_hidden_state", "pooler_output")
            if (name, key) != ("vit/encoder", "pooler_output") and key in expected and key in actual
        ]
        assert compared
        for key in compared:
            exact = (height, width) == (32, 32) or "dinov2" not in name  # which resamples positions in float32
            torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-9 if exact else 1e-6)
