"""Heads: options in the configuration, and any checkpoint of ours as the start of any head."""

import json
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from model_classes import MODELS
from tiny import TINY

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomForSemanticSegmentation,
)
from modeling_vit_custom.embeddings_vit_custom import masked_pixels
from modeling_vit_custom.heads_vit_custom import HEADS, options_of
from modeling_vit_custom.training.objectives.reconstruction import masked_losses

OF_LABELS = {
    ViTCustomForImageClassification: {"classifier.weight", "classifier.bias"},
    ViTCustomForSemanticSegmentation: {"decode_head.classifier.weight", "decode_head.classifier.bias"},
}
PIXELS = {"kind": "masked-image-modeling", "loss": "l2"}
ENCODER = ("embeddings.", "layers.", "layernorm.")


def without_prefix(model) -> dict[str, torch.Tensor]:
    return {name.removeprefix("vit."): tensor for name, tensor in model.state_dict().items()}


# ---------- weights: any checkpoint, any head


@pytest.mark.parametrize("fields", [{}, {"pooling": "map", "final_norm": "pooled", "pre_logits_size": 16}])
@pytest.mark.parametrize(("saved", "wanted"), list(permutations(MODELS, 2)), ids=lambda cls: cls.__name__[9:])
def test_any_head_takes_the_whole_encoder_and_says_what_is_new(tmp_path, random_model, caplog, saved, wanted, fields):
    stored = random_model(ViTCustomConfig(**TINY, **fields), saved)
    stored.save_pretrained(tmp_path)
    loaded, info = wanted.from_pretrained(tmp_path, output_loading_info=True)
    before, after = without_prefix(stored), without_prefix(loaded)
    new = {name for name in loaded.state_dict() if name.startswith(wanted.head_prefixes)}
    kept = {name for name in new if name.removeprefix("vit.") in before}  # a pooler that both classes have
    assert set(info["missing_keys"]) == new - kept
    same = {name for name in after if name not in {name.removeprefix("vit.") for name in new - kept}}
    assert same >= {name for name in before if name.startswith(ENCODER) and name != "embeddings.mask_token"}
    assert all(torch.equal(after[name], before[name]) for name in same)
    warned = [message for message in caplog.messages if "NEWLY INITIALISED" in message]
    assert len(warned) == bool(new - kept) and all(name in warned[0] for name in new - kept)


@pytest.mark.parametrize("wanted", MODELS, ids=lambda cls: cls.__name__[9:])
def test_a_checkpoint_of_another_head_that_lacks_a_part_of_the_encoder_is_refused(tmp_path, random_model, wanted):
    saved = MODELS[MODELS.index(wanted) - 1]
    random_model(ViTCustomConfig(**TINY), saved).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with pytest.raises(RuntimeError, match=r"Missing: .*layers\.3\."):
        wanted.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__[9:])
def test_every_weight_is_the_encoders_or_declared_by_its_head(cls):
    model = cls(ViTCustomConfig(**TINY, pooling="map", pre_logits_size=16))
    of_encoder = {name for name in model.state_dict() if name.removeprefix("vit.").startswith(ENCODER)}
    of_head = {name for name in model.state_dict() if name.startswith(cls.head_prefixes)}
    assert of_encoder | of_head == model.state_dict().keys()
    assert of_encoder & of_head <= {"vit.embeddings.mask_token"}
    assert {name for name in of_head if name.startswith(cls.label_prefixes)} == OF_LABELS.get(cls, set())


# ---------- options


def test_options_are_written_out_saved_and_read(tmp_path):
    config = ViTCustomConfig(**TINY, heads={"pixels": {"kind": "masked-image-modeling"}})
    assert config.heads == {"pixels": {"kind": "masked-image-modeling", "loss": "l1"}} and config.head["loss"] == "l1"
    config.heads["pixels"]["loss"] = "l2"
    ViTCustomForMaskedImageModeling(config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["heads"] == {"pixels": PIXELS} and "head" not in stored
    loaded = ViTCustomForMaskedImageModeling.from_pretrained(tmp_path)
    assert loaded.config.heads == {"pixels": PIXELS} and loaded.loss == "l2"
    other = ViTCustomConfig.from_pretrained(tmp_path, head={"kind": "masked-image-modeling", "loss": "smooth_l1"})
    assert other.head["loss"] == "smooth_l1" and list(other.heads) == ["masked_image_modeling"]
    assert "heads" not in ViTCustomConfig(**TINY).to_dict() and ViTCustomConfig(**TINY).head is None


def test_a_stored_head_is_the_one_entry_form(tmp_path):
    ViTCustomConfig(**TINY).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"head": PIXELS}))
    assert ViTCustomConfig.from_pretrained(tmp_path).heads == {"masked_image_modeling": PIXELS}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": {"pixels": PIXELS | {"loss": "l3"}}}, r"heads\['pixels'\]=.*'loss' expected one of .*'l2'"),
        ({"heads": {"pixels": PIXELS | {"los": "l1"}}}, r"heads\['pixels'\]=\['los'\]: the options of .* are loss"),
        ({"heads": {"pixels": {"loss": "l1"}}}, r"heads\['pixels'\]=.* must have a kind, one of masked-image-modeling"),
        ({"heads": {"pixels": {"kind": ["x"]}}}, "must have a kind"),
        ({"heads": {"pixels": "l1"}}, "Field 'heads' with value {'pixels': 'l1'}"),
        ({"heads": {"a b": PIXELS}}, "name each head by a letter"),
        ({"heads": {f"h{i}": PIXELS for i in range(65)}}, "at most 64"),
        ({"head": {"loss": "l1"}}, "head=.* must have a kind"),
        ({"head": {"kind": "image-segmentation", "head": "deep"}}, "'head' expected one of .*'linear'.*, got deep"),
        ({"head": {"kind": "image-segmentation", "blocks": [3, 2]}}, "blocks=.* in ascending order, counted from 1"),
        ({"head": {"kind": "image-segmentation", "width": 0}}, "width=0: must be from 1 to 4096, or None"),
        ({"head": {"kind": "image-segmentation", "ignore_index": -101}}, "ignore_index=-101: must be from -100"),
        ({"head": "pixels"}, "head='pixels': must have a kind"),
        ({"head": PIXELS, "heads": {"pixels": PIXELS}}, "head=.* is given too"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_by_name(given, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        ViTCustomConfig(**TINY, **given)


def test_options_that_were_changed_are_checked_where_a_model_is_built():
    config = ViTCustomConfig(**TINY, head=PIXELS)
    config.heads["masked_image_modeling"]["loss"] = "l3"
    with pytest.raises(StrictDataclassError, match="'loss' expected one of"):
        ViTCustomForMaskedImageModeling(config)


def test_several_heads_of_a_kind_are_refused_by_a_model_with_one():
    config = ViTCustomConfig(**TINY, heads={"a": PIXELS, "b": PIXELS | {"loss": "l1"}})
    with pytest.raises(ValueError, match="has several heads"):
        _ = config.head
    with pytest.raises(ValueError, match="one head of the kind masked-image-modeling"):
        ViTCustomForMaskedImageModeling(config)


def test_a_model_of_another_head_does_not_keep_the_options(tmp_path):
    ViTCustomForMaskedImageModeling(ViTCustomConfig(**TINY, head=PIXELS)).save_pretrained(tmp_path)
    classifier = ViTCustomForImageClassification.from_pretrained(tmp_path)
    assert classifier.config.heads is None
    classifier.save_pretrained(tmp_path / "classifier")
    assert "heads" not in json.loads((tmp_path / "classifier" / "config.json").read_text())


@pytest.mark.parametrize("loss", ["l1", "smooth_l1", "l2"])
def test_the_loss_of_masked_pixels_is_torchs(random_model, pixel_values, loss):
    config = ViTCustomConfig(**TINY, head=PIXELS | {"loss": loss})
    model = random_model(config, ViTCustomForMaskedImageModeling)
    mask = torch.arange(3 * 12).view(3, 12) % 12 < torch.tensor([[3], [5], [9]])
    output = model(pixel_values, bool_masked_pos=mask)
    where = masked_pixels(mask, (3, 4), (8, 8)).expand_as(pixel_values)
    reference = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "l2": F.mse_loss}[loss]
    torch.testing.assert_close(output.loss, reference(output.reconstruction[where], pixel_values[where]))
    each = masked_losses(pixel_values, output.reconstruction, masked_pixels(mask, (3, 4), (8, 8)), config)
    for image in range(3):
        expected = reference(output.reconstruction[image][where[image]], pixel_values[image][where[image]])
        torch.testing.assert_close(each[image], expected)


def test_every_kind_has_options_with_defaults():
    assert all(options_of(None, kind) == options() for kind, options in HEADS.items())
