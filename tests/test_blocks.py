"""Single blocks, as hooks, explanation methods and activation checkpointing use them."""

import pytest
import torch
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification, ViTCustomModel

MERGING = {"image_size": (48, 64), "token_merging": 8}


def test_a_block_works_alone(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY), ViTCustomModel)
    output = model(pixel_values, output_hidden_states=True)
    hidden_states = model.embeddings(pixel_values)
    for layer, expected in zip(model.layers, output.hidden_states[1:], strict=True):
        hidden_states = layer(hidden_states)
        assert isinstance(hidden_states, torch.Tensor) and torch.equal(hidden_states, expected)
    assert torch.equal(model.layernorm(hidden_states), output.last_hidden_state)


@pytest.mark.parametrize("fields", [{}, MERGING])
def test_hooks_see_and_change_what_a_block_returns(random_model, fields):
    model = random_model(ViTCustomConfig(**TINY | fields, pooling="mean"))
    images = torch.randn(2, 3, *model.config.image_hw)
    whole = model(images, output_hidden_states=True)
    seen = []
    handle = model.vit.layers[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with handle:
        model(images)
    assert torch.equal(seen[0], whole.hidden_states[1])
    with model.vit.layers[0].register_forward_hook(lambda module, args, output: torch.zeros_like(output)):
        changed = model(images)
    assert not torch.equal(changed.logits, whole.logits)
    assert torch.equal(model(images).logits, whole.logits)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("fields", [{}, MERGING, {"rope_theta": 100.0, "position_embedding": "none", **MERGING}])
def test_activation_checkpointing_changes_no_gradient(random_model, fields, reentrant):
    model = random_model(ViTCustomConfig(**TINY | fields, pooling="mean")).train()
    images, labels = torch.randn(2, 3, *model.config.image_hw), torch.tensor([0, 1])

    def gradients():
        model.zero_grad()
        model(images, labels=labels).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    again = gradients()
    assert all(torch.equal(again[name], plain[name]) for name in plain)


def test_the_last_block_computes_what_is_read_and_gives_that_to_hooks(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    shapes = []
    with model.vit.layers[-1].register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape))):
        model(pixel_values)
        model.vit(pixel_values)
    assert [shape[1] for shape in shapes] == [1, model.vit.embeddings(pixel_values).shape[1]]


def test_the_pooled_vector_is_in_a_classifiers_output(random_model, pixel_values):
    model: ViTCustomForImageClassification = random_model(ViTCustomConfig(**TINY))
    output = model(pixel_values)
    assert torch.equal(output.pooler_output, model.vit(pixel_values, pooled_only=True).pooler_output)
    assert torch.equal(model.classifier(output.pooler_output), output.logits)
    assert "pooler_output" in model.config.keys_to_ignore_at_inference  # otherwise Trainer gathers it


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, MERGING])
def test_captum_explains_a_block(random_model, fields):
    """Layer attributions equal autograd by hand, and their sum is the difference of the logits."""
    from captum import attr

    model = random_model(ViTCustomConfig(**TINY | fields, pooling="mean"))
    images, layer = torch.randn(2, 3, *model.config.image_hw), model.vit.layers[1]

    def logits(pixel_values):
        return model(pixel_values).logits

    activation = attr.LayerActivation(logits, layer).attribute(images)
    assert torch.equal(activation, model(images, output_hidden_states=True).hidden_states[2])
    found = attr.LayerGradientXActivation(logits, layer).attribute(images, target=3)
    kept = []
    with layer.register_forward_hook(lambda module, args, output: kept.append(output)):
        logit = model(images).logits[:, 3].sum()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    torch.testing.assert_close(found, gradient * kept[0])
    if not fields:  # merging chooses other pairs along the path
        method = attr.LayerIntegratedGradients(logits, layer)
        _, delta = method.attribute(images, torch.zeros_like(images), target=3, return_convergence_delta=True)
        assert delta.abs().max() < 1e-2
