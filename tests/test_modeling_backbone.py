"""The backbone: feature maps for detection and segmentation heads."""

import torch
from tiny import TINY

from modeling_vit_custom import ViTCustomBackbone, ViTCustomConfig


@torch.no_grad()
def test_backbone_feature_maps_are_normed_hidden_states_on_the_grid(random_model, pixel_values):
    config = ViTCustomConfig(**TINY, num_register_tokens=3, out_features=["stem", "stage2", "stage3"])
    backbone = random_model(config, ViTCustomBackbone)
    output = backbone(pixel_values, output_hidden_states=True)
    assert [tuple(m.shape) for m in output.feature_maps] == [(3, 32, 3, 4)] * 3
    tokens = backbone.vit.layernorm(output.hidden_states[2])
    torch.testing.assert_close(output.feature_maps[1][:, :, 2, 1], tokens[:, 4 + 2 * 4 + 1])
    assert backbone.channels == [32, 32, 32]


@torch.no_grad()
def test_backbone_of_fewer_layers_at_load(tmp_path, random_model, tiny_config, pixel_values):
    model = random_model(tiny_config)
    model.save_pretrained(tmp_path)
    backbone = ViTCustomBackbone.from_pretrained(tmp_path, num_hidden_layers=2)
    expected = model.vit(pixel_values, output_hidden_states=True).hidden_states[2]
    tokens = backbone.vit.layernorm(expected)[:, 1:].transpose(1, 2).unflatten(2, (3, 4))
    torch.testing.assert_close(backbone(pixel_values).feature_maps, (tokens,))


@torch.no_grad()
def test_backbone_serves_transformers_own_segmentation_head(pixel_values):
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    backbone = ViTCustomConfig(**{**TINY, "num_hidden_layers": 4}, out_indices=[1, 2, 3, 4])
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=3, use_auxiliary_head=False, pool_scales=[1, 2]
    )
    logits = UperNetForSemanticSegmentation(config).eval()(pixel_values).logits
    assert logits.shape == (3, 3, 24, 32)
