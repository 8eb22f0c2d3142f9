"""timm's plain Vision Transformers, every parameter random, give the same numbers here, and written back."""

import pytest
import timm
import torch

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.engine import ConversionError, write
from modeling_vit_custom.conversion.export_timm import TARGETS
from modeling_vit_custom.conversion.family import Source
from modeling_vit_custom.conversion.target import choose
from modeling_vit_custom.conversion.timm_vit import family_of

SMALL = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "img_size": 32,
    "patch_size": 8,
    "dynamic_img_size": True,
}
MODELS = {
    "vit": ("vit_base_patch16_224", {}),
    "no head": ("vit_base_patch16_224", {"num_classes": 0}),
    "clip, pre-norm": ("vit_base_patch16_clip_224.openai", {}),
    "siglip, map": ("vit_base_patch16_siglip_224", {}),
    "siglip, gap": ("vit_base_patch16_siglip_gap_224", {}),
    "fc_norm": ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),
    "registers in the table": ("vit_base_patch16_224", {"reg_tokens": 3}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"patch_size": 8, "num_classes": 5}),
    "dinov2, swiglu": ("vit_giant_patch14_dinov2", {}),
    "deit3": ("deit3_base_patch16_224", {}),
    "qk norm": ("vit_base_patch16_224", {"qk_norm": True}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "dinov3, biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "dinov3, swiglu": ("vit_small_plus_patch16_dinov3", {}),
}


def random_source(name: str, fields: dict):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **{**SMALL, **fields}).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_converted_equals_source_in_float64(name):
    reference = random_source(*MODELS[name])
    conversion = build(Source(name, reference.state_dict()), family_of(reference))
    for height, width in ((32, 32), (48, 48), (40, 56)):
        images = torch.randn(2, 3, height, width, dtype=torch.float64)
        expected, output = reference(images), conversion.model(images)
        actual = output.logits if "logits" in output else output.pooler_output
        exact = (height, width) == (32, 32) and "dinov3" not in name  # timm resamples and rotates in float32
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9 if exact else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_written_back_gives_the_source(name):
    reference = random_source(*MODELS[name])
    family = family_of(reference)
    model = build(Source(name, reference.state_dict()), family).model
    prefix = "" if model.config.num_labels else "vit."
    ours = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    into_itself = write(family.table, ours, {key: tensor.shape for key, tensor in reference.state_dict().items()})
    exported = choose(TARGETS, model.config).build(model.config, ours, None)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = reference(images)
    torch.testing.assert_close(exported.model.double()(images), expected, rtol=1e-12, atol=1e-12)
    reference.load_state_dict(into_itself)
    torch.testing.assert_close(reference(images), expected, rtol=1e-12, atol=1e-12)
    again = build(Source(name, exported.model.state_dict()), family_of(exported.model)).model
    assert again.config.to_dict() == model.config.to_dict()
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_attention_pooling_over_prefix_tokens_is_refused():
    eva = random_source("vit_small_patch16_dinov3", {"global_pool": "map"})
    with pytest.raises(ConversionError, match="pooling that includes prefix tokens"):
        family_of(eva)
