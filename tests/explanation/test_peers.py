"""pytorch-grad-cam and captum explain these models, and their maps are ours."""

import numpy as np
import pytest
import torch
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.methods.peers import outputs_alone, reshape_transform, target_layers

POOLINGS = [{}, {"pooling": "mean", "use_cls_token": False}, {"pooling": "cls_register", "num_register_tokens": 2}]


@pytest.mark.parametrize("fields", POOLINGS)
def test_tokens_become_feature_maps_without_the_prefix(random_model, pixel_values, fields):
    model = random_model(ViTCustomConfig(**{**TINY, **fields}))
    tokens = model.vit(pixel_values).last_hidden_state
    maps = reshape_transform(model)(tokens)
    assert maps.shape == (3, 32, 3, 4)
    prefix = model.config.num_prefix_tokens
    assert torch.equal(maps[1, :, 2, 1], tokens[1, prefix + 2 * 4 + 1])
    larger = model.vit(torch.randn(1, 3, 48, 40)).last_hidden_state
    assert reshape_transform(model, (48, 40))(larger).shape == (1, 32, 6, 5)
    assert torch.equal(outputs_alone(model)(pixel_values), model(pixel_values).logits)


def test_what_has_no_grid_is_refused(random_model):
    with pytest.raises(ValueError, match="token_merging=2: merged tokens are no grid"):
        reshape_transform(random_model(ViTCustomConfig(**TINY, token_merging=2)))
    with pytest.raises(ValueError, match="Linear has no encoder of this package"):
        target_layers(torch.nn.Linear(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("fields", POOLINGS)
@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM"])
def test_pytorch_grad_cam_draws_our_map(random_model, pixel_values, fields, name):
    """It scales each map to 0 … 1 twice, on the grid and after resizing; then both are equal."""
    library = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is installed by `make test-slow`")
    cv2 = pytest.importorskip("cv2")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = random_model(ViTCustomConfig(**{**TINY, **fields}))
    with getattr(library, name)(
        model=outputs_alone(model), target_layers=target_layers(model), reshape_transform=reshape_transform(model)
    ) as cam:
        theirs = cam(input_tensor=pixel_values, targets=[ClassifierOutputTarget(2)] * 3)
    ours = explain(model, pixel_values, 2, name.lower(), check=False, confirm=0).shown.numpy()
    for mine, other in zip(ours, theirs, strict=True):
        resized = cv2.resize(_scaled(mine), (32, 24))
        assert np.abs(_scaled(resized) - other).max() < 1e-5


def _scaled(values):
    values = values - values.min()
    return values / (1e-7 + values.max())


@pytest.mark.slow
def test_captum_reads_the_outputs(random_model, pixel_values):
    captum = pytest.importorskip("captum.attr", reason="captum is installed by `make test-slow`")
    model = random_model(ViTCustomConfig(**TINY))
    maps = captum.InputXGradient(outputs_alone(model)).attribute(pixel_values.requires_grad_(), target=1)
    assert maps.shape == pixel_values.shape and maps.isfinite().all()
