"""Libra's rules are exact: evidence, biases, prefix tokens and positions add up to what is explained."""

import pytest
import torch
from tiny import ARCHITECTURES, TINY

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.methods.context import encoder_of, prepared
from modeling_vit_custom.explanation.methods.libra import Constants
from modeling_vit_custom.explanation.methods.maps import of_patches
from modeling_vit_custom.explanation.methods.trace import traced
from modeling_vit_custom.token_merging_vit_custom import source_of

MERGING = {"token_merging": [2, 1, 3]}
MORE = {
    "merging": MERGING,
    "merging, mean": {**MERGING, "pooling": "mean", "use_cls_token": False},
    "merging, map, rope": {**MERGING, "pooling": "map", "rope_theta": 100.0, "use_qk_norm": True},
    "merging, cls_mean, swiglu": {
        **MERGING, "pooling": "cls_mean", "num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu",
    },
    "map without a class token": {"pooling": "map", "use_cls_token": False, "final_norm": "pooled"},
    "relu": {"hidden_act": "relu"},
    "shrunken": {"shrink_to": (16, 24)},
    "dropout": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "drop_path_rate": 0.3,
                "patch_drop_rate": 0.5, "pooling": "mean"},
    "no final norm": {"final_norm": "none"},
}  # fmt: skip
EVERY = ARCHITECTURES | MORE


def left_over(model, pixels, libra):
    """Return |y - everything that adds up to y| / max(|y|, 1) of each image, and the outputs seen inside."""
    encoder, constants = encoder_of(model), Constants()
    pixels = pixels.clone().requires_grad_()
    with prepared(model):
        with traced(model, encoder, libra=libra, from_tokens=False), constants.watched(model, encoder):
            outputs = model(pixel_values=pixels)
        score = outputs.logits[:, 1]
        (gradient,) = torch.autograd.grad(score.sum(), pixels)
        found = (pixels * gradient).flatten(1).sum(1) + constants.share
    return ((score - found).abs() / score.abs().clamp_min(1)).detach(), outputs.logits.detach()


@pytest.mark.parametrize("name", EVERY)
def test_the_evidence_adds_up_to_the_logit(random_model, pixel_values, name):
    model = random_model(ViTCustomConfig(**{**TINY, **EVERY[name]}))
    error, inside = left_over(model, pixel_values, libra=True)
    assert error.max() < 1e-4
    torch.testing.assert_close(inside, model(pixel_values).logits.detach(), rtol=1e-5, atol=1e-5)


def test_the_plain_gradient_does_not_add_up(random_model, pixel_values):
    """Otherwise the check above would be passed by anything."""
    worst = []
    for fields in ARCHITECTURES.values():
        error, _ = left_over(random_model(ViTCustomConfig(**{**TINY, **fields})), pixel_values, libra=False)
        worst.append(float(error.max()))
    assert max(worst) > 0.1 and sum(error > 1e-3 for error in worst) == len(worst)


def test_fused_projections_add_up_too(random_model, pixel_values):
    for fields in ({}, {"pooling": "map"}, {"pooling": "mean", "use_qk_norm": True}):
        model = random_model(ViTCustomConfig(**{**TINY, **fields}))
        apart = explain(model, pixel_values, 2, check=False, confirm=0)
        for module in model.modules():
            if hasattr(module, "fuse_qkv"):
                module.fuse_qkv()
        joined = explain(model, pixel_values, 2, check=False, confirm=0)
        assert left_over(model, pixel_values, libra=True)[0].max() < 1e-4
        torch.testing.assert_close(joined.grid, apart.grid, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"pooling": "mean", **MERGING}, {"pooling": "map", "rope_theta": 100.0,
                                    "use_qk_norm": True, "use_gated_mlp": True, "hidden_act": "silu"}])  # fmt: skip
def test_own_attention_and_kept_weights_give_the_same_gradient(random_model, pixel_values, fields):
    """Libra runs the model's own attention with constant queries and keys; with kept weights it is the same."""
    model = random_model(ViTCustomConfig(**{**TINY, **fields}))
    found = []
    for weights in (False, True):
        with prepared(model), traced(model, encoder_of(model), libra=True, weights=weights) as trace:
            score = model(pixel_values=pixel_values).logits[:, 1].sum()
            found.append(torch.autograd.grad(score, trace.inputs))
    for own, kept in zip(*found, strict=True):
        torch.testing.assert_close(own, kept, rtol=1e-4, atol=1e-6)


def test_shared_values_of_merged_tokens_keep_their_sum(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**{**TINY, **MERGING}))
    with prepared(model), traced(model, encoder_of(model)) as trace:
        model(pixel_values=pixel_values)
    tokens = trace.after[-1]
    values = torch.randn(3, trace.after[-1].sizes.shape[1])
    shared = of_patches(values, tokens, trace.prefix, shared=True)
    assert shared.shape == (3, 12) and values.shape[1] < 12
    torch.testing.assert_close(shared.sum(1), values[:, trace.prefix :].sum(1))
    source = source_of(tokens, values.shape[1])[:, trace.prefix :]
    assert torch.equal(of_patches(values, tokens, trace.prefix, shared=False), values.gather(1, source))
    # patches of one token have one value
    for image in range(3):
        for token in source[image].unique():
            assert shared[image][source[image] == token].unique().numel() == 1


def test_blocks_add_up_and_can_be_chosen(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    whole = explain(model, pixel_values, 1, check=False, confirm=0)
    torch.testing.assert_close(whole.layers.sum(0), whole.grid)
    torch.testing.assert_close(whole.layers.clamp_min(0).sum(0), whole.shown)
    last = explain(model, pixel_values, 1, layers=[-1], check=False, confirm=0)
    torch.testing.assert_close(last.grid, whole.layers[-1])
    with pytest.raises(ValueError, match=r"layers=\[3\]: the model has the blocks 0 to 2"):
        explain(model, pixel_values, 1, layers=[3])
    with pytest.raises(ValueError, match="method='chefer' does not sum over blocks"):
        explain(model, pixel_values, 1, "chefer", layers=[0])


def test_evidence_is_linear_in_what_is_explained(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    one, other = (explain(model, pixel_values, each, check=False, confirm=0).grid for each in (1, 3))
    both = explain(model, pixel_values, 1, contrast=3, check=False, confirm=0)
    torch.testing.assert_close(both.grid, one - other, rtol=1e-4, atol=1e-6)
    assert both.signed and both.contrast == "LABEL_3"
