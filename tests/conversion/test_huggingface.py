"""transformers' own Vision Transformers with random parameters give the same numbers here, and when written back."""

import pytest
import torch
from huggingface_sources import MODELS, random_source

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.conversion.export_huggingface import model_of, run
from modeling_vit_custom.conversion.family import Source, detect
from modeling_vit_custom.conversion.huggingface import FAMILIES, canonical

OWN_POOLER = ("vit/encoder", "deit/encoder")  # it has a tanh, and no classifier of theirs uses it


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
        if name == "vit_mae":  # the encoder, nothing masked or shuffled
            options["noise"] = torch.arange(height * width // 64).expand(2, -1)
        encoder = reference.vit if name == "vit_mae" else reference
        expected, actual = encoder(images, **options), conversion.model(images)
        compared = [
            key
            for key in ("logits", "last_hidden_state", "pooler_output")
            if key in expected and key in actual and (key != "pooler_output" or name not in OWN_POOLER)
        ]
        assert compared
        for key in compared:
            exact = (height, width) == (32, 32) or "dinov2" not in name  # DINOv2 resamples positions in float32
            torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-9 if exact else 1e-6)


def converted(name):
    """Return (source, its tensors under canonical names, its family, our model of them)."""
    reference = random_source(*MODELS[name])
    state = canonical(reference.state_dict())
    family = detect(FAMILIES, state)
    return reference, state, family, build(Source(name, state, config=reference.config.to_dict()), family).model


@torch.no_grad()
@pytest.mark.parametrize("written", [True, False], ids=["written back", "its own tensors"])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_runs_ours_and_the_tensors_it_came_from(name, written):
    reference, state, family, model = converted(name)
    prefix = "" if model.config.num_labels else "vit."
    ours = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    theirs, notes = model_of(model.config, family.name, ours if written else state, ours=written)
    encoder = reference.vit if name == "vit_mae" else reference
    assert type(theirs.double()) is type(encoder)  # double: also for buffers such as frequencies
    if name == "vit_mae":
        encoder.config.mask_ratio = 0.0
    for size in ((32, 32), (48, 48), (40, 56)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        expected, actual = run(encoder, images), run(theirs, images)
        if "pooler.dense.weight: the identity, so that it gives the class token" in notes and size == (32, 32):
            torch.testing.assert_close(theirs(images).pooler_output, actual["tokens"][:, 0], rtol=0, atol=1e-12)
        assert expected.keys() == actual.keys()
        for key, value in expected.items():
            torch.testing.assert_close(actual[key], value, rtol=1e-12, atol=1e-12)
    # the written tensors are read as the same model; without its decoder, a "vit_mae" is a "vit"
    written_state = canonical(theirs.state_dict())
    source = Source(name, written_state, config=theirs.config.to_dict())
    again = build(source, detect(FAMILIES, written_state)).model
    assert again.config.to_dict() == model.config.to_dict()
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_tensors_that_do_not_fit_the_family_are_refused():
    _, state, _, model = converted("vit")
    with pytest.raises(ConversionError, match="without a place: surplus"):
        model_of(model.config, "vit", {**state, "surplus": torch.ones(1)})
    with pytest.raises(ConversionError, match=r"missing: layernorm.bias"):
        model_of(model.config, "vit", {key: tensor for key, tensor in state.items() if key != "layernorm.bias"})
    with pytest.raises(ConversionError, match=r"dinov2 of transformers has no place for layer_scale_init_value=None"):
        model_of(model.config, "dinov2", state)
