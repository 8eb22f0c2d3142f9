"""Weights quantised by torchao are loaded, checked, saved and loaded again; new layers are plain, errors have names."""

import json
import logging

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saved_models import DIGITS, save_ours
from tiny import TINY
from torch import nn
from torchao.quantization import Float8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import TorchAoConfig

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomModel,
)
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.fingerprint import digest, fingerprint
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.conversion.export import export as convert_to
from modeling_vit_custom.engines.fastest import reason_against
from modeling_vit_custom.engines.output import OutputOf
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.pretrained_vit_custom import nonfinite_weights
from modeling_vit_custom.publishing.checks import check_folder
from modeling_vit_custom.quantized_vit_custom import is_finite, is_ordinary
from modeling_vit_custom.speed.export import export
from modeling_vit_custom.training.initialization.start_checkpoint import Start, open_checkpoint

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft asks for it
    "ignore::UserWarning:torchao",
)
load = ViTCustomForImageClassification.from_pretrained
KINDS = {
    "int8": Int8WeightOnlyConfig,
    "int8, activations too": Int8DynamicActivationInt8WeightConfig,
    "float8": Float8WeightOnlyConfig,
}
FC1 = "vit.layers.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("plain"), num_channels=3)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(how, id=name, marks=[] if name == "int8" else [pytest.mark.slow]) for name, how in KINDS.items()
    ],
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def saved(plain, kind, tmp_path_factory):
    """Quantise every linear layer, the head as well; return the saved folder."""
    return save_quantised(plain, tmp_path_factory.mktemp("saved"), kind())


@pytest.fixture(scope="module")
def int8(plain, tmp_path_factory):
    return save_quantised(plain, tmp_path_factory.mktemp("int8"), Int8WeightOnlyConfig())


def save_quantised(source, folder, how, cls=ViTCustomForImageClassification, **options):
    cls.from_pretrained(source, quantization_config=TorchAoConfig(how), **options).save_pretrained(folder)
    if (source / "preprocessor_config.json").exists():
        ViTCustomImageProcessor.from_pretrained(source).save_pretrained(folder)
    return folder


def changed(source, folder, change):
    """Copy a saved model and apply `change` to its tensors."""
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with safe_open(source / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata)
    return folder


def quantised_layers(model) -> set[str]:
    return {name.removesuffix(".weight") for name, tensor in model.state_dict().items() if not is_ordinary(tensor)}


def logits(model, images):
    with torch.no_grad():
        return model.eval()(images).logits


def assert_initialised(layer: nn.Linear, std: float = 0.02) -> None:
    assert type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and layer.weight.requires_grad
    assert 0.5 * std < layer.weight.std() < 1.5 * std and layer.weight.abs().max() < 10 * std
    assert not layer.bias.any()


def test_quantised_models_compute_about_the_same_and_are_saved_and_loaded(plain, saved, kind, pixel_values):
    model = load(plain, quantization_config=TorchAoConfig(kind())).eval()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert quantised_layers(model) == linear > {"classifier"}
    expected = logits(load(plain), pixel_values)
    error = (logits(model, pixel_values) - expected).abs().max() / expected.std()
    without_vnni = not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    # without VNNI, sums of two 8-bit products saturate at 16 bits
    assert 0 < error < (1 if without_vnni and kind is Int8DynamicActivationInt8WeightConfig else 0.3)
    assert torch.equal(logits(load(saved), pixel_values), logits(model, pixel_values))


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize("stored", ["plain", "quantised"])
def test_a_new_head_is_whole_and_no_old_weight_stays(
    plain, saved, kind, tmp_path, pixel_values, caplog, stored, lenient
):
    config = TorchAoConfig(kind())
    source, options = (plain, {"quantization_config": config}) if stored == "plain" else (saved, {})
    caplog.set_level(logging.WARNING, "modeling_vit_custom")
    model, info = load(
        source, id2label={i: f"new {i}" for i in range(7)}, ignore_mismatched_sizes=lenient, output_loading_info=True,
        **options,
    )  # fmt: skip
    assert_initialised(model.classifier)
    assert model.classifier.weight.shape == (7, 32) and logits(model, pixel_values).shape == (3, 7)
    assert quantised_layers(model) == quantised_layers(load(saved)) - {"classifier"}
    new = info["missing_keys"] | {key for key, *_ in info["mismatched_keys"]}
    assert new == {"classifier.weight", "classifier.bias"}
    assert "NEWLY INITIALISED, train before use: classifier.bias stored (10,), needed (7,)" in caplog.text
    assert config.modules_to_not_convert is None, "the caller's configuration must not change"
    if stored == "quantised":  # transformers cannot save a torchao model that was loaded from quantised weights
        return
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert quantised_layers(again) == quantised_layers(model)
    assert torch.equal(logits(again, pixel_values), logits(model, pixel_values))


def test_layers_that_the_checkpoint_lacks_are_new_and_plain(tmp_path, random_model):
    random_model(ViTCustomConfig(**TINY), ViTCustomModel).save_pretrained(tmp_path)
    config = ViTCustomConfig(**TINY, pooling="map", pre_logits_size=24)
    model = load(tmp_path, config=config, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())).eval()
    pooling = model.vit.pooler.attention_pooling
    for layer in (model.classifier, model.pre_logits[0], pooling.attention.q_proj, pooling.mlp.fc2):
        assert_initialised(layer)
    assert len(quantised_layers(model)) == 6 * TINY["num_hidden_layers"]
    model = load(tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), num_labels=3)
    assert_initialised(model.classifier)


def test_a_head_on_other_features_is_new_with_its_bias(plain, int8):
    """The new head's bias has the stored shape, its weight has not."""
    for options in ({}, {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}):
        model, info = load(plain, pooling="cls_mean", output_loading_info=True, **options)
        assert_initialised(model.classifier)
        assert "classifier.bias" in info["missing_keys"]
    for lenient in (False, True):  # for quantised weights, no shape is known before they are read
        with pytest.raises(RuntimeError, match=r"classifier.weight stored \(10, 32\), needed \(10, 64\)\. Load with"):
            load(int8, pooling="cls_mean", ignore_mismatched_sizes=lenient)


def test_quantised_blocks_are_compared_as_others_are(int8, tmp_path):
    fewer = changed(int8, tmp_path, lambda tensors: None)
    stored = json.loads((fewer / "config.json").read_text())
    (fewer / "config.json").write_text(json.dumps(stored | {"num_hidden_layers": 2}))
    with pytest.raises(RuntimeError, match=r"Not of this model: vit\.layers\.2\."):
        load(fewer)
    assert_initialised(load(int8, num_hidden_layers=4).vit.layers[3].mlp.fc2)
    with pytest.raises(RuntimeError, match=r"do not fit .*vit\.layers\.0\.mlp\.fc2\.weight stored \(32, 48\), needed"):
        load(int8, intermediate_size=40)


# ---------- quantised weights are refused for the same reasons as ordinary ones


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_weights_are_refused_before_and_after_quantising(plain, saved, kind, tmp_path, value):
    def break_plain(tensors):
        tensors[FC1].view(-1)[70] = value

    def break_scale(tensors):
        next(tensor for name, tensor in tensors.items() if "1.mlp.fc1" in name and "scale" in name).view(-1)[0] = value

    for source, change, options in (
        (plain, break_plain, {"quantization_config": TorchAoConfig(kind())}),
        (saved, break_scale, {}),
        (saved, lambda tensors: tensors["vit.layernorm.bias"].fill_(value), {}),
    ):
        with pytest.raises(RuntimeError, match=r"NaN or infinite weights: vit\.layer.*This checkpoint is broken"):
            load(changed(source, tmp_path, change), **options)


def test_every_kind_of_tensor_is_looked_into():
    bad = torch.tensor([1.0, float("nan")])
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        assert not is_finite(bad.to(dtype)) and is_finite(torch.ones(2).to(dtype)), dtype
    assert not is_finite(nn.Parameter(bad)) and not is_finite(nn.Buffer(bad))
    for tensor in (torch.ones(3, dtype=torch.int8), torch.empty(0), torch.empty(3, device="meta"), torch.ones(()) > 0):
        assert is_finite(tensor)


def test_integers_in_the_place_of_weights_are_refused(plain, int8, tmp_path):
    def to_integers(name):
        return lambda tensors: tensors.update({name: tensors[name].to(torch.int8)})

    for source, name, options in (
        (plain, FC1, {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}),
        (int8, "vit.layernorm.weight", {}),
        (int8, "vit.embeddings.cls_token", {}),
    ):
        with pytest.raises(RuntimeError, match=f"no floating-point numbers: {name} I8"):
            load(changed(source, tmp_path, to_integers(name)), **options)


# ---------- other inputs


@pytest.mark.parametrize("fields", [{"image_size": (40, 24)}, {"patch_size": 4}, {"num_channels": 1}], ids=str)
def test_resizing_and_quantising_do_not_depend_on_their_order(plain, int8, tmp_path, fields):
    config = ViTCustomConfig.from_pretrained(plain, **fields)
    images = torch.randn(2, config.num_channels, *config.image_hw)
    load(plain, **fields).save_pretrained(tmp_path)
    quantising = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    expected = logits(load(tmp_path, **quantising), images)
    for model in (load(plain, **quantising, **fields), load(int8, **fields)):
        torch.testing.assert_close(logits(model, images), expected, rtol=1e-4, atol=1e-5)


def test_a_quantised_decoder_is_not_resampled(tmp_path, random_model):
    random_model(ViTCustomConfig(**TINY), ViTCustomForMaskedImageModeling).save_pretrained(tmp_path)
    quantising = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    model = ViTCustomForMaskedImageModeling.from_pretrained(tmp_path, **quantising, image_size=48)
    assert model.config.image_size == 48 and "decoder.projection" in quantised_layers(model)
    before = [(name, id(tensor)) for name, tensor in model.named_parameters()]
    with pytest.raises(ValueError, match=r"cannot be resampled: it is a Int8Tensor\. Resize the model before it is"):
        model.resize_input(patch_size=4)
    assert before == [(name, id(tensor)) for name, tensor in model.named_parameters()]


# ---------- other code that reads weights


def test_what_reads_weights_reads_codes_and_scales(plain, int8, tmp_path):
    model, processor = load_classifier(str(int8), device="cpu")
    again, _ = load_classifier(str(int8), device="cpu")
    assert not nonfinite_weights(model)
    assert fingerprint(model, processor, {}) == fingerprint(again, processor, {})
    assert digest(model.state_dict()) == digest(again.state_dict())
    for part in ("qdata", "scale"):
        other = changed(int8, tmp_path, lambda tensors, part=part: tensors[f"classifier._weight_{part}"].add_(1))
        other, _ = load_classifier(str(other), device="cpu")
        assert fingerprint(model, processor, {}) != fingerprint(other, processor, {})
        assert digest(model.state_dict()) != digest(other.state_dict())
    images = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(OutputOf(model, "logits").fused_qkv(images), logits(model, images))


def test_token_logits_of_a_quantised_head(tmp_path, random_model, pixel_values):
    random_model(ViTCustomConfig(**TINY, pooling="cls_register", num_register_tokens=1)).save_pretrained(tmp_path)
    model = load(tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())).eval()
    asked = model(pixel_values, output_token_logits=True)
    torch.testing.assert_close((asked.cls_logits + asked.distillation_logits) / 2, asked.logits)


def test_what_needs_numbers_says_so(int8, tmp_path):
    with pytest.raises(UsageError, match="is quantised, and a training changes weights that are numbers"):
        open_checkpoint(Start(checkpoint=str(int8)))
    with pytest.raises(ConversionError, match="is quantised: give the checkpoint that was"):
        convert_to(str(int8), tmp_path / "o", "hf")
    with pytest.raises(ValueError, match="is quantised: export the checkpoint that was"):
        export(str(int8), tmp_path / "o")
    assert reason_against(*load_classifier(str(int8), device="cpu"), False) == (
        "the other engines are for float32, this is quantised"
    )
    found = {check.name: check for check in check_folder(int8)}
    assert not found["weights fit the model"].passed
    assert "I8 is no type of a weight. Save the model in a float type" in found["weights fit the model"].detail


# ---------- QLoRA


def test_adapters_and_a_new_head_are_trained_on_a_quantised_encoder(int8, tmp_path):
    names = dict(enumerate("abcd"))
    base = load(int8, id2label=names)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], r=4)
    model = get_peft_model(base, lora).train()
    codes = digest({name: tensor for name, tensor in base.state_dict().items() if not is_ordinary(tensor)})
    images, labels = torch.randn(8, 3, 24, 32), torch.arange(8) % 4
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert codes == digest({name: tensor for name, tensor in base.state_dict().items() if not is_ordinary(tensor)})
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(int8, id2label=names), tmp_path)
    torch.testing.assert_close(logits(again, images), logits(model, images))
    assert len(DIGITS) != 4 and logits(again, images).argmax(dim=1).tolist() == labels.tolist()
