"""Masked image modeling: only masked pixels have a loss, the output does not depend on them, as in transformers."""

import pytest
import torch
from tiny import TINY
from transformers import ViTConfig, ViTForMaskedImageModeling

from modeling_vit_custom import ViTCustomConfig, ViTCustomForMaskedImageModeling, ViTCustomModel
from modeling_vit_custom.embeddings_vit_custom import masked_pixels


def test_masked_image_modeling_learns_only_from_masked_pixels(tiny_config, random_model, pixel_values):
    model = random_model(tiny_config, ViTCustomForMaskedImageModeling)
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[:, 5] = True  # row 1, column 1 of the 3×4 grid: pixels 8 to 16 on both axes
    output = model(pixel_values, bool_masked_pos=mask)
    assert output.reconstruction.shape == pixel_values.shape
    error = (output.reconstruction - pixel_values).abs()[:, :, 8:16, 8:16]
    torch.testing.assert_close(output.loss, error.mean())
    hidden = pixel_values.clone()
    hidden[:, :, 8:16, 8:16] = 7.0
    torch.testing.assert_close(model(hidden, bool_masked_pos=mask).reconstruction, output.reconstruction)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_nothing_depends_on_masked_pixels(random_model, pixel_values, stem):
    """A convolutional stem looks across patch borders, so hiding tokens after the stem would not be enough."""
    model = random_model(ViTCustomConfig(**TINY, stem=stem), ViTCustomForMaskedImageModeling)
    mask = torch.rand(3, 12) < 0.6
    others = torch.where(masked_pixels(mask, (3, 4), (8, 8)), torch.randn_like(pixel_values), pixel_values)
    assert not torch.equal(others, pixel_values)
    expected, got = (model(images, bool_masked_pos=mask).reconstruction for images in (pixel_values, others))
    assert torch.equal(got, expected)
    seen = torch.where(masked_pixels(~mask, (3, 4), (8, 8)), torch.randn_like(pixel_values), pixel_values)
    assert not torch.isclose(model(seen, bool_masked_pos=mask).reconstruction, expected).all()


def test_masked_image_modeling_is_that_of_transformers(random_model, pixel_values):
    """Reconstruction and loss are equal in float64, with the class token's position added into the token."""
    fields = {name: value for name, value in TINY.items() if name not in ("image_size", "num_labels")}
    config = ViTConfig(**fields, image_size=24, encoder_stride=8, layer_norm_eps=1e-6, hidden_act="gelu")
    theirs = random_model(config, ViTForMaskedImageModeling).double()
    ours = ViTCustomForMaskedImageModeling(ViTCustomConfig(**fields, image_size=24)).double().eval()
    tensors = theirs.state_dict()
    positions = tensors["vit.embeddings.position_embeddings"]
    tensors["vit.embeddings.cls_token"] = tensors["vit.embeddings.cls_token"] + positions[:, :1]
    tensors["vit.embeddings.position_embeddings"] = positions[:, 1:]
    tensors["decoder.projection.weight"] = tensors.pop("decoder.0.weight").flatten(1)
    tensors["decoder.projection.bias"] = tensors.pop("decoder.0.bias")
    ours.load_state_dict(tensors)
    images, mask = pixel_values[:, :, :, :24].double(), torch.rand(3, 9) < 0.6
    got, expected = ours(images, bool_masked_pos=mask), theirs(images, bool_masked_pos=mask)
    torch.testing.assert_close(got.reconstruction, expected.reconstruction)
    torch.testing.assert_close(got.loss.double(), expected.loss, rtol=1e-5, atol=1e-6)


def test_masking_needs_the_model_for_it(tiny_config, pixel_values):
    with pytest.raises(ValueError, match="ViTCustomForMaskedImageModeling"):
        ViTCustomModel(tiny_config)(pixel_values, bool_masked_pos=torch.ones(3, 12, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(1, 12), (3, 11), (3, 3, 4)], ids=str)
def test_masks_of_the_wrong_shape_are_named(tiny_config, pixel_values, shape):
    """A mask [1, h·w] would broadcast, and the loss would be divided by the masked pixels of one image only."""
    model = ViTCustomForMaskedImageModeling(tiny_config)
    with pytest.raises(ValueError, match=r"bool_masked_pos has shape .*: give one entry per patch, \(3, 12\)"):
        model(pixel_values, bool_masked_pos=torch.ones(shape, dtype=torch.bool))
