"""torchvision's Vision Transformers with random parameters give the same numbers here."""

import pytest
import torch
import torchvision
from image_files import CHINA
from PIL import Image
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.engine import ConversionError, read, write
from modeling_vit_custom.conversion.family import Source, detect
from modeling_vit_custom.conversion.torchvision_vit import FAMILIES, TABLE, config_of, processor_of, reference_of

SMALL = {
    "image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48,
    "num_classes": 5,
}  # fmt: skip
MODELS = {
    "plain": SMALL,
    "pre-logits": {**SMALL, "representation_size": 24},
    "eps": {**SMALL, "norm_layer": lambda width: torch.nn.LayerNorm(width, eps=1e-3)},
}


def random_source(fields: dict) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**fields).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.numel() < 10_000 else 0.02))
    return model


def convert(reference: VisionTransformer):
    state = reference.state_dict()
    return build(Source("torchvision", state, config=config_of(reference)), detect(FAMILIES, state))


def at_size(fields: dict, reference: VisionTransformer, side: int) -> VisionTransformer:
    """Return the source for square images of another size, positions resampled by torchvision's own function."""
    patch = fields["patch_size"]
    state = interpolate_embeddings(side, patch, dict(reference.state_dict()))
    model = VisionTransformer(**{**fields, "image_size": side}).eval().double()
    model.load_state_dict(state)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_converted_equals_source_in_float64(name):
    fields = MODELS[name]
    reference = random_source(fields)
    model = convert(reference).model
    side, patch = fields["image_size"], fields["patch_size"]
    sources = {
        (side, side): reference,
        (side + 2 * patch, side + 2 * patch): at_size(fields, reference, side + 2 * patch),
        # torchvision refuses oblong images: its rule, on its modules
        (side + patch, side - patch): lambda images: reference_of(reference, None).run(images)["logits"],
    }
    worst = 0.0
    for size, source in sources.items():
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        worst = max(worst, float((model(images).logits - source(images)).abs().max()))
    print(f"{name}: {worst:.1e}")
    assert worst <= 1e-9


@torch.no_grad()
def test_the_reference_at_another_square_size_is_torchvision_s_model_of_that_size():
    reference = random_source(SMALL)
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    actual = reference_of(reference, None).run(images)["logits"]
    torch.testing.assert_close(actual, at_size(SMALL, reference, 48)(images), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "pre-logits"])
def test_round_trips_are_bit_equal(name):
    reference = random_source(MODELS[name])
    ours = convert(reference).model.state_dict()
    theirs = write(TABLE, ours, {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()})
    again, _ = read(TABLE, theirs)
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = reference(images)
    reference.load_state_dict(theirs)
    torch.testing.assert_close(reference(images), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_no_tensor_can_change_unseen():
    state, config = random_source(MODELS["pre-logits"]).state_dict(), config_of(random_source(SMALL))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    def logits(state):
        return build(Source("file", state, config=config), FAMILIES[0]).model(images).logits

    expected = logits(state)
    for key, tensor in state.items():
        assert (logits(state | {key: tensor + 0.1 * torch.randn_like(tensor)}) - expected).abs().max() > 1e-6, key


def test_older_files_have_other_names_for_the_mlp():
    reference = random_source(SMALL)
    state = reference.state_dict()
    older = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): x for name, x in state.items()}
    assert older.keys() != state.keys()
    source = Source("older", older, config=config_of(reference))
    expected = convert(reference).model.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in build(source, FAMILIES[0]).model.state_dict().items())


def test_a_batch_norm_stem_is_refused():
    stem = torchvision.models.vision_transformer.ConvStemConfig(32, 3, 2)
    reference = VisionTransformer(**SMALL, conv_stem_configs=[stem])
    with pytest.raises(ConversionError, match="conv_bn_relu_0"):
        convert(reference)


def test_heads_that_a_state_dict_does_not_tell_are_those_of_the_published_sizes():
    for width, heads in ((768, 12), (1280, 16)):
        with torch.device("meta"):
            source = VisionTransformer(**{**SMALL, "hidden_dim": width, "num_heads": heads})
        state = {name: torch.ones(tensor.shape) for name, tensor in source.state_dict().items()}
        conversion = build(Source("file", state), FAMILIES[0])
        assert conversion.model.config.num_attention_heads == heads
        assert any(f"num_attention_heads={heads}" in note for note in conversion.notes)


WEIGHTS = [*torchvision.models.ViT_B_16_Weights, *torchvision.models.ViT_L_16_Weights]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_preprocessing_of_every_weights_entry(weights):
    transforms = weights.transforms()
    side = transforms.crop_size[0]
    reference = random_source({**SMALL, "image_size": side, "patch_size": side // 4})
    source = Source("live", reference.state_dict(), config=config_of(reference), processor=processor_of(transforms))
    processor = build(source, FAMILIES[0]).processor
    with Image.open(CHINA) as image:
        photograph = image.convert("RGB")
    actual = processor(photograph, return_tensors="pt")["pixel_values"][0]
    levels = (actual - transforms(photograph)).abs() * torch.tensor(transforms.std).view(3, 1, 1) * 255
    # bicubic overshoot is clipped at different steps: a photograph may differ by two levels at one pixel
    assert levels.max() <= 2.01 and (levels > 1.01).sum() <= 1


@pytest.mark.parametrize(
    ("side", "resized", "resample"), [(224, 256, 2), (384, 384, 3)], ids=["as V1", "as SWAG end to end"]
)
def test_preprocessing_that_a_file_does_not_tell_is_assumed_by_size_and_said(side, resized, resample):
    reference = random_source({**SMALL, "image_size": side, "patch_size": side // 4})
    conversion = build(Source("file", reference.state_dict(), flags={"num_attention_heads": 4}), FAMILIES[0])
    processor = conversion.processor
    assert (processor.size.shortest_edge, processor.crop_size.height) == (resized, side)
    assert processor.resample == resample and list(processor.image_std) == [0.229, 0.224, 0.225]
    assert any(f"resized to {resized}" in note for note in conversion.notes)
