"""peft adapters find the layers by transformers' ViT names, and can be saved and merged."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.weight_files_vit_custom import WeightFileError

# peft asks for a name that the newest transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def with_lora(model, targets=("q_proj", "v_proj"), **options):
    options = {"r": 4, "init_lora_weights": False, "modules_to_save": ["classifier"], **options}
    return get_peft_model(model, LoraConfig(target_modules=list(targets), **options))


def test_lora_trains_saves_loads_and_merges(tmp_path, random_model, tiny_config, pixel_values):
    random_model(tiny_config).save_pretrained(tmp_path / "base")

    def base():
        return ViTCustomForImageClassification.from_pretrained(tmp_path / "base", num_labels=7)

    adapted = with_lora(base())
    adapted(pixel_values=pixel_values, labels=torch.tensor([0, 6, 2])).loss.backward()
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable == {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert {name.split(".")[-4] for name in trainable if "lora_" in name} == {"q_proj", "v_proj"}
    assert len(trainable) == 3 * 2 * 2 + 2, "two matrices for two layers in three blocks, and two for the head"
    adapted.eval().save_pretrained(tmp_path / "adapter")
    expected = adapted(pixel_values=pixel_values).logits

    loaded = PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
    assert torch.equal(loaded(pixel_values=pixel_values).logits, expected)
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    merged = ViTCustomForImageClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(pixel_values).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_adapter_folder_loads_as_a_model_at_any_size(tmp_path, random_model, tiny_config, pixel_values):
    random_model(tiny_config).save_pretrained(tmp_path / "base")
    base = ViTCustomForImageClassification.from_pretrained(tmp_path / "base")
    adapted = with_lora(base, modules_to_save=None).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded(pixel_values).logits, adapted(pixel_values=pixel_values).logits)
    images = torch.randn(1, 3, 40, 16)
    resized = ViTCustomForImageClassification.from_pretrained(tmp_path / "adapter", image_size=(40, 16))
    torch.testing.assert_close(resized(images).logits, adapted(pixel_values=images).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_head_saved_with_an_adapter_is_loaded_or_refused(tmp_path, random_model, tiny_config, pixel_values):
    """transformers 5.10.1 leaves such a head at the base model's weights, and only its loading report says so."""
    random_model(tiny_config).save_pretrained(tmp_path / "base")
    adapted = with_lora(ViTCustomForImageClassification.from_pretrained(tmp_path / "base")).eval()
    adapted.classifier.modules_to_save["default"].weight.add_(1.0)
    adapted.save_pretrained(tmp_path / "adapter")
    try:
        loaded = ViTCustomForImageClassification.from_pretrained(tmp_path / "adapter")
    except RuntimeError as error:
        assert "not found: classifier.modules_to_save" in str(error)
    else:
        assert torch.equal(loaded(pixel_values).logits, adapted(pixel_values=pixel_values).logits)


def test_the_files_of_an_adapter_are_checked_too(tmp_path, random_model, tiny_config):
    random_model(tiny_config).save_pretrained(tmp_path / "base")
    with_lora(ViTCustomForImageClassification.from_pretrained(tmp_path / "base")).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(WeightFileError, match="its tensors end at"):
        ViTCustomForImageClassification.from_pretrained(tmp_path / "adapter")
    file.unlink()
    torch.save({}, file.with_suffix(".bin"))
    with pytest.raises(OSError, match="adapter_model"):
        ViTCustomForImageClassification.from_pretrained(tmp_path / "adapter")


@torch.no_grad()
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_lora_on_the_convolution_that_sees_the_image(random_model, pixel_values, stem):
    model = random_model(ViTCustomConfig(**TINY, stem=stem))
    before = model(pixel_values).logits
    targets = ["projection" if stem == "patch" else "patch_embeddings.layers.0"]
    adapted = with_lora(model, targets, modules_to_save=None).eval()
    assert not torch.allclose(adapted(pixel_values=pixel_values).logits, before)
    images = torch.randn(1, 3, 40, 16)
    expected = adapted(pixel_values=images).logits
    adapted.resize_input(image_size=(40, 16))
    torch.testing.assert_close(adapted(pixel_values=images).logits, expected, rtol=1e-4, atol=1e-5)
