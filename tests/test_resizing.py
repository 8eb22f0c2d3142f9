"""Any input size: at run time, at load and in place give the same function."""

import logging

import pytest
import torch
import torch.nn.functional as F
from rounding import assert_close_but_for_rounding
from tiny import TINY

from modeling_vit_custom import (
    ViTCustomBackbone,
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomImageProcessor,
)
from modeling_vit_custom.interpolation_vit_custom import RESIZE_RULES, shrink_images
from modeling_vit_custom.pretrained_vit_custom import resize_input


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Return the list in which the loader puts its warnings."""
    warnings: list[str] = []
    monkeypatch.setattr(
        "modeling_vit_custom.pretrained_vit_custom.logger.warning", lambda text, *_: warnings.append(text)
    )
    return warnings


@torch.no_grad()
@pytest.mark.parametrize("size", [(24, 32), (32, 24), (8, 64), (64, 8), (8, 8), (40, 56), (27, 37)], ids=str)
def test_loaded_at_a_size_equals_run_at_that_size(tmp_path, any_config, random_model, size):
    model = random_model(any_config)
    model.save_pretrained(tmp_path)
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, image_size=size)
    assert loaded.config.image_size == size
    images = torch.randn(2, 3, *size)
    assert_close_but_for_rounding(loaded(images).logits, model(images).logits, model.config)


@torch.no_grad()
@pytest.mark.parametrize("rule", RESIZE_RULES)
def test_positions_follow_the_rule_of_the_config(random_model, rule):
    model = random_model(ViTCustomConfig(**TINY, position_interpolation=rule))
    embeddings = model.vit.embeddings
    table = embeddings.position_embeddings.unflatten(1, (3, 4)).permute(0, 3, 1, 2)
    settings = RESIZE_RULES[rule]
    options = {"mode": settings.kernel}
    if settings.kernel != "nearest":
        options |= {"antialias": settings.antialias, "align_corners": settings.align_corners}
    if settings.offset:
        options["align_corners"] = None
        expected = F.interpolate(table, scale_factor=(5.1 / 3, 7.1 / 4), mode="bicubic")
    else:
        expected = F.interpolate(table, size=(5, 7), **options)
    torch.testing.assert_close(embeddings.positions((5, 7)), expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_computed_positions_are_those_of_a_model_of_that_size(tmp_path, random_model, said, dtype):
    """The size may be given in a call, at load, in place, or by `shrink_to`."""
    fields = {**TINY, "position_embedding": "sincos2d", "position_interpolation": "computed"}
    model = random_model(ViTCustomConfig(**fields)).to(dtype)
    native = ViTCustomForImageClassification(ViTCustomConfig(**{**fields, "image_size": (40, 56)})).to(dtype).eval()
    positions = native.vit.embeddings.position_embeddings
    native.load_state_dict({**model.state_dict(), "vit.embeddings.position_embeddings": positions})
    images = torch.randn(2, 3, 40, 56)
    expected = native(images).logits
    assert torch.equal(model.vit.embeddings.positions((5, 7)), positions)
    assert torch.equal(model(images).logits, expected)
    model.save_pretrained(tmp_path)
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, image_size=(40, 56), dtype=dtype)
    assert torch.equal(loaded.vit.embeddings.position_embeddings.to(dtype), positions)
    assert len(said) == 1 and said[0].startswith("Computed positions for image_size (24, 32) -> (40, 56)")
    loaded.config.shrink_to = (24, 32)
    torch.testing.assert_close(loaded(images).logits, model(shrink_images(images, (24, 32))).logits)
    resampling = ViTCustomForImageClassification.from_pretrained(
        tmp_path, dtype=dtype, position_interpolation="bilinear_align_corners"
    )
    assert not torch.allclose(resampling(images).logits, expected, rtol=0.01, atol=0.01)


@torch.no_grad()
def test_computed_positions_compile_for_any_size(random_model):
    config = ViTCustomConfig(**TINY, position_embedding="sincos2d", position_interpolation="computed")
    embeddings = random_model(config).vit.embeddings
    compiled = torch.compile(embeddings, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in ((24, 32), (40, 56), (64, 8)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(images), embeddings(images))


def test_images_are_cut_to_whole_patches_by_every_stem(any_config, random_model):
    model = random_model(any_config)
    height, width = any_config.image_hw
    images = torch.randn(2, 3, height + 3, width + 2)
    with torch.no_grad():
        cut = model(images[:, :, :height, :width]).logits
        torch.testing.assert_close(model(images).logits, cut)


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [16, (16, 8), (12, 20)])
def test_larger_patches_at_load_embed_resized_patches_alike(tmp_path, random_model, said, patch_size):
    model = random_model(ViTCustomConfig(**TINY))
    model.save_pretrained(tmp_path)
    p, q = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, patch_size=patch_size, image_size=(3 * p, 4 * q))
    assert len(said) == 1 and "patch_size 8 ->" in said[0]
    images = torch.randn(2, 3, 24, 32)
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # [B·h·w, C, 8, 8]
    enlarged = F.interpolate(patches, size=(p, q), mode="bilinear").view(2, 3, 4, 3, p, q)
    enlarged = enlarged.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 3 * p, 4 * q)
    torch.testing.assert_close(loaded(enlarged).logits, model(images).logits, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_one_channel_at_load_sees_grey_as_three_channels_did(tmp_path, random_model, said, stem):
    model = random_model(ViTCustomConfig(**TINY, stem=stem))
    model.save_pretrained(tmp_path)
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, num_channels=1)
    assert len(said) == 1 and "num_channels 3 -> 1" in said[0]
    grey = torch.randn(2, 1, 24, 32)
    torch.testing.assert_close(loaded(grey).logits, model(grey.expand(-1, 3, -1, -1)).logits, rtol=1e-4, atol=1e-5)


def test_a_config_given_at_load_is_resized_to_as_keywords_are(tmp_path, random_model, said):
    model = random_model(ViTCustomConfig(**TINY))
    model.save_pretrained(tmp_path)
    config = ViTCustomConfig.from_pretrained(tmp_path, image_size=(40, 16), num_channels=1)
    by_config = ViTCustomForImageClassification.from_pretrained(tmp_path, config=config)
    by_keyword = ViTCustomForImageClassification.from_pretrained(tmp_path, image_size=(40, 16), num_channels=1)
    assert config.image_size == by_config.config.image_size == (40, 16)
    for name, tensor in by_config.state_dict().items():
        assert torch.equal(tensor, by_keyword.state_dict()[name]), name


def test_resized_models_save_and_load(tmp_path, any_config, random_model):
    model = random_model(any_config).resize_input(image_size=(40, 16))
    model.save_pretrained(tmp_path)
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path)
    images = torch.randn(2, 3, 40, 16)
    assert loaded.config.image_hw == (40, 16)
    assert_close_but_for_rounding(loaded(images).logits, model(images).logits, model.config)


def test_resizing_keeps_parameters_trainable_or_frozen(tiny_config):
    model = ViTCustomForImageClassification(tiny_config)
    model.vit.embeddings.position_embeddings.requires_grad_(False)
    model.resize_input(image_size=64, patch_size=16, num_channels=1)
    assert not model.vit.embeddings.position_embeddings.requires_grad
    assert model.vit.embeddings.patch_embeddings.projection.weight.requires_grad
    model(torch.randn(2, 1, 64, 64), labels=torch.tensor([0, 1])).loss.backward()
    assert model.vit.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0


def test_nothing_asked_changes_nothing_and_says_nothing(tiny_config, said):
    model = ViTCustomForImageClassification(tiny_config)
    weights = {name: id(p) for name, p in model.named_parameters()}
    model.resize_input(image_size=[24, 32], patch_size=8)
    assert weights == {name: id(p) for name, p in model.named_parameters()} and not said


def test_a_conv_stem_keeps_its_patch_size():
    model = ViTCustomForImageClassification(ViTCustomConfig(**TINY, stem="conv"))
    with pytest.raises(ValueError, match="patch_size=4: a conv stem is built for patch_size=8"):
        model.resize_input(patch_size=4)
    assert model.config.patch_size == 8 and model(torch.randn(1, 3, 24, 32)).logits.isfinite().all()


def test_sizes_that_are_impossible_leave_the_model_as_it_was(tiny_config):
    model = ViTCustomForImageClassification(tiny_config)
    with pytest.raises(Exception, match="image_size=4"):
        model.resize_input(image_size=4)
    assert model.config.image_size == (24, 32) and model(torch.randn(1, 3, 24, 32)).logits.isfinite().all()


@torch.no_grad()
def test_masked_image_modeling_resizes_its_decoder(random_model):
    model = random_model(ViTCustomConfig(**TINY), ViTCustomForMaskedImageModeling)
    mask = torch.ones(1, 12, dtype=torch.bool)  # the encoder then sees no pixel: only the decoder differs
    small = model(torch.zeros(1, 3, 24, 32), bool_masked_pos=mask).reconstruction
    model.resize_input(image_size=(48, 64), patch_size=16, num_channels=6)
    large = model(torch.zeros(1, 6, 48, 64), bool_masked_pos=mask).reconstruction
    cells = small.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    expected = F.interpolate(cells, size=(16, 16), mode="bilinear").view(1, 3, 4, 3, 16, 16)
    expected = expected.permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 48, 64)
    torch.testing.assert_close(large[:, :3], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(large[:, 3:], large[:, :3])


@torch.no_grad()
def test_backbone_takes_any_size(tiny_config, random_model):
    backbone = random_model(tiny_config, ViTCustomBackbone)
    assert backbone(torch.randn(1, 3, 56, 16)).feature_maps[0].shape == (1, 32, 7, 2)


@torch.no_grad()
def test_another_number_of_labels_needs_no_flag_and_is_said(tmp_path, random_model, said):
    model = random_model(ViTCustomConfig(**TINY))
    model.save_pretrained(tmp_path)
    loaded, info = ViTCustomForImageClassification.from_pretrained(tmp_path, num_labels=9, output_loading_info=True)
    assert loaded.classifier.weight.shape == (9, 32) and loaded.classifier.weight.abs().sum() > 0
    assert {key[0] for key in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert said == [
        "NEWLY INITIALISED, train before use: classifier.bias stored (5,), needed (9,); "
        "classifier.weight stored (5, 32), needed (9, 32)."
    ]
    for name, tensor in model.vit.state_dict().items():
        assert torch.equal(loaded.vit.state_dict()[name], tensor)


def test_any_other_shape_is_an_error_that_names_the_keys(tmp_path, random_model):
    random_model(ViTCustomConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"mlp.fc1.weight stored \(48, 32\), needed \(64, 32\)"):
        ViTCustomForImageClassification.from_pretrained(tmp_path, intermediate_size=64)


def test_the_real_logger_prints_the_resize(tiny_config, caplog):
    logger = logging.getLogger("modeling_vit_custom.pretrained_vit_custom")
    logger.propagate = True
    with caplog.at_level("WARNING"):
        ViTCustomForImageClassification(tiny_config).resize_input(image_size=64)
    assert "Resampled weights for image_size (24, 32) -> 64 (grid (3, 4) -> (8, 8))" in caplog.text


def test_a_config_named_by_its_path_is_resized_to_as_well(tmp_path, random_model):
    random_model(ViTCustomConfig(**TINY)).save_pretrained(tmp_path / "model")
    ViTCustomConfig(**{**TINY, "image_size": (40, 16)}).save_pretrained(tmp_path / "config")
    options = {"config": str(tmp_path / "config"), "drop_path_rate": 0.1}
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path / "model", **options)
    expected = ViTCustomForImageClassification.from_pretrained(tmp_path / "model", image_size=(40, 16))
    assert loaded.config.image_size == (40, 16) and loaded.config.drop_path_rate == 0.1
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_weights_without_a_stored_config_are_described_by_the_given_one(tmp_path, random_model):
    model = random_model(ViTCustomConfig(**TINY))
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, config=model.config)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)


def test_a_crop_keeps_its_proportion_whatever_size_the_positions_are_for(tiny_config):
    """DINOv2's positions are for 518 pixels, but its images are resized to 256 and cropped to 224."""
    model = ViTCustomForImageClassification(tiny_config)
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "size": {"shortest_edge": 20}}
    model, processor = resize_input(model, ViTCustomImageProcessor(**crop), 32)
    assert (processor.size.shortest_edge, processor.crop_size.height, processor.crop_size.width) == (40, 32, 32)
