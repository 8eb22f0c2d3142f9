"""The speeds of a checkpoint: valid configurations, and how loading, pipelines and predict use them."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from real_digits import write_class_folder
from saved_models import save_ours, save_transformers_vit
from tiny import TINY
from tiny_training import tiny_trainer
from transformers import AutoModelForImageClassification, pipeline

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.commands.predict import main as predict
from modeling_vit_custom.interpolation_vit_custom import shrink_images

SPEEDS = {"1.5x": {"token_merging": 2, "shrink_to": None}, "2x": {"token_merging": None, "shrink_to": [16, 24]}}


@torch.no_grad()
def test_shrinking_is_what_torch_does(random_model):
    images = torch.rand(2, 3, 24, 32, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(images, (16, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(shrink_images(images, (16, 24)), expected)
    assert shrink_images(images, (24, 40)) is images, "smaller images must stay as they are"
    model = random_model(ViTCustomConfig(**TINY)).double()
    whole = model(expected).logits
    model.config.shrink_to = (16, 24)
    torch.testing.assert_close(model(images).logits, whole)


@torch.no_grad()
def test_a_speed_is_chosen_while_loading(tmp_path):
    folder = str(save_ours(tmp_path / "model", speeds=SPEEDS, num_channels=3))
    images = torch.randn(2, 3, 24, 32)
    exact = ViTCustomForImageClassification.from_pretrained(folder)
    assert exact.config.speeds == SPEEDS and exact.config.token_merging is None and exact.config.shrink_to is None
    for name, settings in SPEEDS.items():
        fast = AutoModelForImageClassification.from_pretrained(folder, speed=name)
        for field, value in settings.items():
            setattr(exact.config, field, None if value is None else tuple(value) if isinstance(value, list) else value)
        assert torch.equal(fast(images).logits, exact(images).logits)
        in_pipeline = pipeline("image-classification", model=folder, model_kwargs={"speed": name}).model
        assert torch.equal(in_pipeline(images).logits, fast(images).logits)
    between = ViTCustomForImageClassification.from_pretrained(folder, speed="1.7x").config
    assert (between.token_merging, list(between.shrink_to)) == (None, [16, 24]), "1.7x takes the next faster speed, 2x"
    with pytest.raises(ValueError, match=r"speed='9x': this checkpoint has '1.5x', '2x'; `vit-custom speed_table`"):
        ViTCustomForImageClassification.from_pretrained(folder, speed="9x")


def test_speeds_are_of_the_size_they_were_measured_at(tmp_path, caplog):
    folder = str(save_ours(tmp_path / "model", speeds=SPEEDS, num_channels=3))
    other = ViTCustomForImageClassification.from_pretrained(folder, patch_size=(12, 16))  # 16 is not a multiple of 12
    assert other.config.speeds is None
    assert "The speeds 1.5x, 2x were measured at another size: dropped." in caplog.text
    assert ViTCustomForImageClassification.from_pretrained(folder, image_size=(24, 32)).config.speeds == SPEEDS
    larger = ViTCustomForImageClassification.from_pretrained(folder, image_size=(48, 64), speed="1.5x").config
    assert (larger.token_merging, larger.speeds, larger.image_hw) == (2, None, (48, 64))


def test_predict_takes_a_speed(tmp_path, capsys):
    import numpy as np
    from PIL import Image

    folder = save_ours(tmp_path / "model", speeds=SPEEDS)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8)).save(tmp_path / "a.png")
    scores = []
    for flags in ([], ["--speed", "2x"]):
        output = tmp_path / f"{len(flags)}.jsonl"
        assert predict(["--model", str(folder), str(tmp_path / "a.png"), "--output", str(output), *flags]) == 0
        scores.append(json.loads(output.read_text())["predictions"])
    assert scores[0] != scores[1]
    assert predict(["--model", str(folder), str(tmp_path / "a.png"), "--speed", "7x"]) == 2
    capsys.readouterr()
    assert predict(["--model", str(folder), str(tmp_path / "a.png"), "--output", str(output)]) == 2
    assert "(changed: speed)" in capsys.readouterr().err
    theirs = save_transformers_vit(tmp_path / "theirs")
    assert predict(["--model", str(theirs), str(tmp_path / "a.png"), "--speed", "2x"]) == 2
    assert "only this package's own models have speeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"shrink_to": 4}, {"shrink_to": (24, 32, 3)}, {"shrink_to": 20}, {"speeds": {"": {}}},
        {"speeds": {"2x": {"colour": 1}}},
        {"speeds": {"2x": {"token_merging": "fast"}}}, {"speeds": {"2x": {"shrink_to": [1, 1]}}},
    ],
)  # fmt: skip
def test_what_is_refused(fields):
    with pytest.raises(StrictDataclassError, match=r"shrink_to|speeds"):
        ViTCustomConfig(**TINY, **fields)


def test_training_leaves_the_speeds_of_other_weights_behind(tmp_path):
    base = save_ours(tmp_path / "base", speeds=SPEEDS)
    write_class_folder(tmp_path / "digits", {"0": 4, "1": 4})
    flags = ("--train_dir", tmp_path / "digits", "--max_steps", 1)
    trainer, splits = tiny_trainer(tmp_path / "o", *flags, model=["--model_name_or_path", str(base)])
    assert trainer.model.config.speeds is None and any("speeds were measured" in note for note in splits.notes)
