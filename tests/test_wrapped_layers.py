"""Layers with adapted or offloaded weights: every path calls them, and changing such weights is refused by name."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, get_peft_model
from tiny import TINY
from torch import nn

from modeling_vit_custom import (
    ViTCustomBackbone,
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
)
from modeling_vit_custom.engines.output import OutputOf

TWO_TOKENS = {"pooling": "cls_register", "num_register_tokens": 1}
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft asks for it
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def outputs(model, images, **asked) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model(images, **asked)
    return [tensor for value in found.values() for tensor in (value if isinstance(value, tuple) else [value])]


def compare(found: list[torch.Tensor], expected: list[torch.Tensor], **tolerance) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or NEAR))


def adapted(model, kinds=(nn.Linear, nn.Conv2d), **options):
    """Put a random adapter on every layer of these kinds."""
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    with_adapters = get_peft_model(model, LoraConfig(target_modules=layers, **options)).eval()
    with torch.no_grad():
        for name, parameter in with_adapters.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return with_adapters


def offloaded(model, how: str, folder):
    model = copy.deepcopy(model)
    return cpu_offload(model, "cpu") if how == "cpu" else disk_offload(model, folder, "cpu", offload_buffers=True)


# ---------- token logits, which once left the adapter out


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_token_logits_see_the_adapter_on_the_head(random_model, pixel_values, dora):
    model = adapted(random_model(ViTCustomConfig(**TINY, **TWO_TOKENS)), nn.Linear, use_dora=dora)
    asked = model(pixel_values, output_token_logits=True)
    torch.testing.assert_close((asked.cls_logits + asked.distillation_logits) / 2, asked.logits, **NEAR)
    expected = outputs(copy.deepcopy(model).merge_and_unload(), pixel_values, output_token_logits=True)
    compare([asked.logits, asked.cls_logits, asked.distillation_logits, asked.pooler_output], expected)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_token_logits_wait_for_offloaded_weights(random_model, pixel_values, tmp_path, where):
    model = random_model(ViTCustomConfig(**TINY, **TWO_TOKENS))
    expected = outputs(model, pixel_values, output_token_logits=True)
    compare(outputs(offloaded(model, where, tmp_path), pixel_values, output_token_logits=True), expected)


def test_token_logits_are_trained_through_an_adapter_with_dropout(random_model):
    model = random_model(ViTCustomConfig(**TINY, **TWO_TOKENS))
    model = get_peft_model(model, LoraConfig(target_modules=["classifier"], lora_dropout=0.5))
    head = model.base_model.model.classifier
    nn.init.normal_(head.lora_B.default.weight)
    image = torch.randn(1, 3, 24, 32)
    draws = model.train()(image.expand(512, -1, -1, -1), output_token_logits=True).cls_logits
    expected = model.eval()(image, output_token_logits=True).cls_logits[0]
    error = draws.std(dim=0) / 512**0.5
    assert error.min() > 0, "the adapter's dropout must act"
    assert ((draws.mean(dim=0) - expected).abs() < 6 * error).all(), "the mean must be the output without dropout"
    draws.sum().backward()
    assert head.lora_B.default.weight.grad.abs().sum() > 0


# ---------- every layer


MODELS = {
    "all layers there are": (
        ViTCustomForImageClassification,
        {
            "stem": "conv", "pooling": "map", "pre_logits_size": 24, "use_gated_mlp": True, "use_qk_norm": True,
            "layer_scale_init_value": 0.1, "embedding_norm": True, "num_register_tokens": 2,
        },
    ),
    "two tokens": (ViTCustomForImageClassification, {**TWO_TOKENS, "position_embedding": "sincos2d"}),
    "merging, smaller": (ViTCustomForImageClassification, {"token_merging": 2, "shrink_to": (16, 32)}),
    "backbone": (ViTCustomBackbone, {}),
    "reconstruction": (ViTCustomForMaskedImageModeling, {}),
}  # fmt: skip
every_model = pytest.mark.parametrize(("cls", "fields"), MODELS.values(), ids=MODELS)


@every_model
def test_adapters_on_all_layers_compute_as_merged(random_model, cls, fields):
    model = adapted(random_model(ViTCustomConfig(**TINY, **fields), cls))
    merged = copy.deepcopy(model).merge_and_unload()
    for size in ((24, 32), (40, 24)):  # for the second size, positions are resampled at run time
        images = torch.randn(2, 3, *size)
        compare(outputs(model, images), outputs(merged, images), rtol=1e-3, atol=1e-4)


@every_model
def test_offloaded_models_compute_alike(random_model, tmp_path, cls, fields):
    model = random_model(ViTCustomConfig(**TINY, **fields), cls)
    images = torch.randn(2, 3, 40, 24)
    for where in ("cpu", "disk"):
        away = offloaded(model, where, tmp_path)
        assert any(parameter.is_meta for parameter in away.parameters())
        compare(outputs(away, images), outputs(model, images))
        if cls is ViTCustomForImageClassification:
            with torch.no_grad():
                torch.testing.assert_close(OutputOf(away, "logits").fused_qkv(images), model(images).logits, **NEAR)


@pytest.mark.parametrize("cls", [ViTCustomForImageClassification, ViTCustomBackbone])
def test_models_are_offloaded_while_they_are_loaded(random_model, pixel_values, tmp_path, cls):
    model = random_model(ViTCustomConfig(**TINY), cls)
    model.save_pretrained(tmp_path / "model")
    where = {name: "disk" for name, _ in model.named_children()} | {"vit.layers.1": "cpu", "vit.embeddings": "cpu"}
    where = {"vit.layers.0": "disk", "vit.layers.2": "disk", "vit.layernorm": "cpu"} | where
    where.pop("vit")
    if model.vit.pooler is not None:
        where["vit.pooler"] = "disk"
    away = cls.from_pretrained(tmp_path / "model", device_map=where, offload_folder=tmp_path / "away").eval()
    assert any(parameter.is_meta for parameter in away.parameters())
    compare(outputs(away, pixel_values), outputs(model, pixel_values))


def test_a_hook_on_one_projection_keeps_the_three_apart(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    model.vit.layers[0].attention.k_proj.register_forward_hook(lambda module, args, output: output * 2)
    with torch.no_grad():
        torch.testing.assert_close(OutputOf(model, "logits").fused_qkv(pixel_values), model(pixel_values).logits)


# ---------- replacing weights


@pytest.mark.parametrize("change", [{"image_size": 48}, {"patch_size": 4}, {"num_channels": 1}], ids=str)
def test_offloaded_weights_are_not_resampled(random_model, tmp_path, change):
    away = offloaded(random_model(ViTCustomConfig(**TINY, speeds={"2x": {"token_merging": 1}})), "cpu", tmp_path)
    before = away.config.to_dict()
    with pytest.raises(ValueError, match=r"cannot be resampled: it is offloaded\. Resize the model where all of it is"):
        away.resize_input(**change)
    assert away.config.to_dict() == before


@pytest.mark.parametrize("cls", [ViTCustomForImageClassification, ViTCustomForMaskedImageModeling])
def test_adapted_kernels_are_not_resampled_and_other_sizes_are(random_model, cls):
    model = adapted(random_model(ViTCustomConfig(**TINY), cls))
    images = torch.randn(2, 3, 40, 24)
    expected = outputs(model, images)
    with pytest.raises(ValueError, match=r"weight of the Conv2d cannot be resampled.* Merge the adapter first\."):
        model.resize_input(patch_size=4)
    compare(outputs(model, images), expected, rtol=0, atol=0)
    model.resize_input(image_size=(40, 24))
    compare(outputs(model, images), expected)


def test_embeddings_that_are_saved_with_an_adapter_are_resized_once(random_model):
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["embeddings"])
    model = get_peft_model(random_model(ViTCustomConfig(**TINY)), config).eval()
    images = torch.randn(2, 3, 40, 24)
    expected = outputs(model, images)
    model.resize_input(image_size=(40, 24))
    compare(outputs(model, images), expected)
