"""Pre-training: counter-based masks, a loss below the mean colour's, and a folder from which `train` can start."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from equal_runs import launch
from foreign_checkpoints import save_encoder, save_vit
from PIL import Image
from real_digits import write_class_folder, write_digit
from safetensors.torch import load_file
from tiny_training import QUICK, TINY, tiny_train
from transformers import AutoImageProcessor, AutoModelForMaskedImageModeling

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.commands.pretrain import main, parse_pretraining_args
from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.claims import check_claims
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.data.views import DecodedViews, eval_resizer
from modeling_vit_custom.tasks.hub import MASKED_IMAGES
from modeling_vit_custom.training.arguments.completion import complete_arguments, complete_pretraining_arguments
from modeling_vit_custom.training.arguments.tables import ONLY_IN_TRAIN
from modeling_vit_custom.training.checkpointing.checkpoints import numbered
from modeling_vit_custom.training.initialization.build import build_model
from modeling_vit_custom.training.initialization.start_checkpoint import open_checkpoint
from modeling_vit_custom.training.objectives.masking import MaskedImages, PatchMasks
from modeling_vit_custom.training.objectives.reconstruction import mean_colour_loss, reconstructions
from modeling_vit_custom.training.runs.data_loading import load_data
from modeling_vit_custom.training.runs.pretrain import pretrain
from modeling_vit_custom.training.trainer.assembly import start_of
from modeling_vit_custom.training.trainer.resuming import ResumingTrainer

MODEL = ["--variant", "nano/4", "--image_size", "16", "--config_overrides", TINY]
STEPS = ("--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2)


def flags_of(output_dir: Path, *flags, model: list[str] = MODEL) -> list[str]:
    return ["--output_dir", str(output_dir), *model, *QUICK, *map(str, flags)]


def tiny_pretrain(output_dir: Path, *flags, model: list[str] = MODEL) -> dict:
    return pretrain(*parse_pretraining_args(flags_of(output_dir, *flags, model=model)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write 80 digits of two classes, and 20 outside any class folder."""
    root = write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 40, "1": 40})
    for n in range(20):
        write_digit(root / f"loose{n}.png", 7, n)
    return root


@pytest.fixture(scope="module")
def pretrained(folder, tmp_path_factory):
    """Return (the folder of a finished run, its metrics)."""
    output_dir = tmp_path_factory.mktemp("runs") / "pre"
    flags = ("--train_dir", folder, "--num_train_epochs", 25, "--learning_rate", 1e-2)
    return output_dir, tiny_pretrain(output_dir, *flags)


def test_a_run_that_has_ended_is_reported_again_and_keeps_its_settings(pretrained, folder):
    output_dir, metrics = pretrained
    before = {path: path.read_bytes() for path in output_dir.glob("*.*") if path.is_file()}
    flags = ("--train_dir", folder, "--num_train_epochs", 25, "--learning_rate", 1e-2)
    assert tiny_pretrain(output_dir, *flags) == metrics and metrics["train"]["epochs"] == 25
    with pytest.raises(UsageError, match=r"--learning_rate 0.01 there, 0.001 now\. Name another --output_dir"):
        tiny_pretrain(output_dir, *flags, "--learning_rate", 1e-3)
    assert {path: path.read_bytes() for path in output_dir.glob("*.*") if path.is_file()} == before
    assert {"metrics.json", "training_args.json"} <= set(check_claims(output_dir)[0])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


# ---------- masks


@pytest.mark.parametrize(
    ("grid", "unit", "ratio", "hidden"),
    [((8, 8), (1, 1), 0.6, 38), ((14, 14), (2, 2), 0.6, 29), ((4, 6), (2, 3), 0.5, 2), ((3, 5), (1, 5), 0.4, 1)],
)
def test_masks_hide_exactly_the_ratio_and_every_unit_as_often(grid, unit, ratio, hidden):
    masks = PatchMasks(grid, unit, ratio)
    drawn = masks(np.random.default_rng(0).random((4000, masks.count), np.float32)).view(4000, *grid)
    assert (drawn.sum((1, 2)) == hidden * unit[0] * unit[1]).all()
    corners = drawn[:, :: unit[0], :: unit[1]]  # a unit's patches are all hidden or all visible
    assert torch.equal(corners.repeat_interleave(unit[0], 1).repeat_interleave(unit[1], 2), drawn)
    share = hidden / masks.count
    assert (corners.float().mean(0) - share).abs().max() < 5 * (share * (1 - share) / 4000) ** 0.5


def masked_images(folder: Path, seed: int | None) -> MaskedImages:
    groups = parse_pretraining_args(flags_of(folder / "x", "--train_dir", folder))
    complete_pretraining_arguments(*groups[1:])
    splits = load_data(groups[2], groups[3], labelled=False)
    model, processor, _ = build_model(start_of(groups[1]), None, splits, 0, MASKED_IMAGES.model)
    views = DecodedViews(splits.train, eval_resizer(processor, model.config))
    return MaskedImages(PatchMasks.for_model(model.config, 0.6), splits.train, views, seed)


def test_masks_depend_on_seed_epoch_and_example_alone(folder):
    def drawn(seed: int | None, epoch: int, indices) -> torch.Tensor:
        images = masked_images(folder, seed)
        images.set_epoch(epoch)
        return images.__getitems__(indices)["bool_masked_pos"]

    together = drawn(5, 2, [7, 3, 11])
    assert together.dtype == torch.bool and (together.sum(1) == 10).all()
    assert torch.equal(drawn(5, 2, [3]), together[1:2])
    assert len({tuple(mask.tolist()) for mask in together}) == 3
    for seed, epoch in ((6, 2), (5, 3)):
        assert (drawn(seed, epoch, [7, 3, 11]) != together).any(1).all()
    images = masked_images(folder, 5)
    batch = images.__getitems__(range(80))
    of_augmentation = images.masks(batch["draws"][:, :16].numpy())
    assert (of_augmentation == batch["bool_masked_pos"]).float().mean() < 0.6, "crops use other random numbers"
    fixed = drawn(None, 0, [7, 3, 11])
    assert torch.equal(drawn(None, 4, [7, 3, 11]), fixed), "accelerate sets epochs on the validation set too"


@pytest.mark.parametrize(
    ("image", "patch", "pixels"),
    [(224, 16, (32, 32)), (224, 32, (32, 32)), (224, 14, (28, 28)), (224, 8, (32, 32)), (32, 4, (4, 4)),
     ((96, 224), (8, 16), (16, 32))],
)  # fmt: skip
def test_hidden_squares_are_a_seventh_of_the_side(image, patch, pixels):
    config = ViTCustomConfig(image_size=image, patch_size=patch)
    unit = PatchMasks.for_model(config, 0.6).unit
    assert tuple(u * p for u, p in zip(unit, config.patch_hw, strict=True)) == pixels
    assert PatchMasks.for_model(config, 0.6, pixels).unit == unit


@pytest.mark.parametrize(
    ("ratio", "pixels", "says"),
    [
        (0.0, None, "mask_ratio 0: give a number between 0 and 1"),
        (float("nan"), None, "mask_ratio nan"),
        (0.01, None, "mask_ratio 0.01 hides 0 of 16 units"),
        (0.9, [8, 16], "mask_ratio 0.9 hides 2 of 2 units"),
        (0.6, [6], r"mask_patch_size 6: 4x4 patches of 4x4 pixels .* Heights that fit: \[4, 8, 16\]"),
        (0.6, [12], "mask_patch_size 12"),
        (0.6, [0], r"one number of pixels or two, not \[0\]"),
        (0.6, [4, 4, 4], "one number of pixels or two"),
    ],
)
def test_masks_that_cannot_be(ratio, pixels, says):
    with pytest.raises(UsageError, match=says):
        PatchMasks.for_model(ViTCustomConfig(image_size=16, patch_size=4), ratio, pixels)


# ---------- a run


def test_the_loss_falls_below_that_of_the_mean_colour(pretrained):
    _, metrics = pretrained
    assert metrics["train"]["n"] == 85 and metrics["validation"]["n"] == 15
    assert metrics["validation"]["loss"] < 0.75 * metrics["validation"]["mean_colour_loss"]


def test_output_is_a_complete_repository_of_the_best_model(pretrained):
    output_dir, metrics = pretrained
    files = {path.name for path in output_dir.iterdir()}
    assert {
        "metrics.json",
        "training_args.json",
        "training.png",
        "reconstruction.png",
        "modeling_vit_custom.py",
    } <= files
    assert json.loads((output_dir / "metrics.json").read_text()) == metrics
    config = json.loads((output_dir / "config.json").read_text())
    assert config["architectures"] == ["ViTCustomForMaskedImageModeling"] and config["id2label"] == {}
    best = max(numbered(output_dir))
    history = json.loads((output_dir / f"checkpoint-{best}" / "trainer_state.json").read_text())["log_history"]
    lowest = min((entry for entry in history if "eval_loss" in entry), key=lambda entry: entry["eval_loss"])
    assert metrics["best"] == {"metric": "eval_loss", "step": lowest["step"]}
    assert metrics["validation"]["loss"] == pytest.approx(lowest["eval_loss"], rel=1e-6)
    run = (output_dir / "training_args.json").read_text()
    assert json.loads(run)["data"]["masks"] == {"units": [4, 4], "hidden": 10}
    assert "class_weights" not in run and str(output_dir.parent) not in run


def test_metrics_are_those_of_the_saved_model(pretrained, folder):
    """Masks, loss and baseline are computed again from the folder, one image at a time."""
    output_dir, metrics = pretrained
    model = AutoModelForMaskedImageModeling.from_pretrained(output_dir, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(output_dir, trust_remote_code=True)
    groups = parse_pretraining_args(flags_of(output_dir, "--train_dir", folder))
    complete_pretraining_arguments(*groups[1:])
    names = load_data(groups[2], groups[3], labelled=False).validation.names
    images = masked_images(folder, None)
    losses, yardsticks = [], []
    for i, name in enumerate(names):
        with Image.open(name) as image:
            pixels = processor(image, return_tensors="pt")["pixel_values"]
        mask = images.__getitems__([i])["bool_masked_pos"]
        losses.append(model(pixels, bool_masked_pos=mask).loss.item())
        hidden = mask.view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
        colour = pixels[0][:, ~hidden].mean(1, keepdim=True)
        yardsticks.append((pixels[0][:, hidden] - colour).abs().mean().item())
    assert metrics["validation"]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["validation"]["mean_colour_loss"] == pytest.approx(np.mean(yardsticks), rel=1e-4)


def test_the_picture_shows_the_image_what_is_seen_and_what_is_made_of_it(pretrained, folder):
    output_dir, _ = pretrained
    model = AutoModelForMaskedImageModeling.from_pretrained(output_dir)
    processor = AutoImageProcessor.from_pretrained(output_dir, trust_remote_code=True)
    images = masked_images(folder, None)
    shown = reconstructions(model, images, processor)
    assert shown.shape == (8, 3, 16, 16, 3)
    original, seen, completed = shown.transpose(1, 0, 2, 3, 4)
    batch = images.__getitems__([0, 12, 24, 36, 48, 60, 72, 84])
    views = batch["pixel_values"].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(original, views / 255, atol=1e-6)
    hidden = batch["bool_masked_pos"].view(8, 4, 4).numpy().repeat(4, 1).repeat(4, 2)
    assert (seen[hidden] == np.float32(0.5)).all() and np.array_equal(seen[~hidden], original[~hidden])
    assert np.array_equal(completed[~hidden], original[~hidden])
    error = np.abs(completed - original)[hidden].mean() * 2  # pixel values range from -1 to 1
    assert error < mean_colour_loss(images, model.config, processor)
    with Image.open(output_dir / "reconstruction.png") as picture:
        assert picture.width > 500 and picture.height > picture.width


def test_a_run_cut_off_resumes_bit_for_bit(folder, tmp_path, monkeypatch):
    """The run is cut within an epoch, with dropout, augmentation and masks; 85 images are 11 steps an epoch."""
    flags = ("--train_dir", folder, "--max_steps", 14, "--logging_steps", 1, "--learning_rate", 1e-2, *STEPS)
    whole = tiny_pretrain(tmp_path / "whole", *flags)
    step = ResumingTrainer.training_step

    def dies(trainer, *args, **kwargs):
        if trainer.state.global_step == 7:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ResumingTrainer, "training_step", dies)
        tiny_pretrain(tmp_path / "cut", *flags)
    assert max(numbered(tmp_path / "cut")) == 6
    cut = tiny_pretrain(tmp_path / "cut", *flags)
    assert cut["train"]["resumed"] and cut["validation"] == whole["validation"] and cut["best"] == whole["best"]
    states = [
        json.loads((tmp_path / name / "checkpoint-14" / "trainer_state.json").read_text()) for name in ("whole", "cut")
    ]
    for key in ("loss", "grad_norm", "eval_loss"):
        logged = [[entry[key] for entry in state["log_history"] if key in entry] for state in states]
        assert logged[0] == logged[1] and len(logged[0]) >= 7, key
    for name, value in weights(tmp_path / "whole" / "checkpoint-14").items():
        assert torch.equal(value, weights(tmp_path / "cut" / "checkpoint-14")[name]), name


def test_a_run_without_evaluations_is_measured_at_its_end(folder, tmp_path):
    flags = ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--max_steps", 2)
    parts = ("--per_device_eval_batch_size", 4, "--dataloader_drop_last", "true")  # for training only
    metrics = tiny_pretrain(tmp_path / "o", "--train_dir", folder, *flags, *parts)
    assert metrics["validation"]["n"] == 15 and metrics["validation"]["loss"] > 0
    assert (tmp_path / "o" / "reconstruction.png").is_file() and not (tmp_path / "o" / "training.png").exists()


@pytest.mark.slow
def test_two_processes_equal_one(folder, tmp_path):
    """Training has 72 images, which make whole batches; each process measures a part of the 23 validation images."""
    flags = ["--train_dir", str(folder), "--max_train_samples", "72", "--max_eval_samples", "23"]
    flags += ["--train_val_split", "0.25", "--num_train_epochs", "1", "--logging_steps", "1", "--learning_rate", "1e-2"]
    model = [*MODEL[:-1], TINY.replace("hidden_dropout_prob=0.1", "hidden_dropout_prob=0.0")]
    script = "pretrain.py"
    one = launch(tmp_path / "1", 1, *flags, "--per_device_train_batch_size", "8", model=model, script=script)
    two = launch(tmp_path / "2", 2, *flags, "--per_device_train_batch_size", "4", model=model, script=script)
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in (one, two)]
    assert len(losses[0]) == 9
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["validation"] for name in "12"]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)


# ---------- trainings that start from it


def start_of_training(output_dir: Path, *flags) -> tuple:
    """Return (model, splits) before the first step of `train`."""
    model_args, data_args, training_args = parse_args(["--output_dir", str(output_dir), *QUICK, *map(str, flags)])
    complete_arguments(model_args, data_args, training_args)
    start = start_of(model_args)
    model, _, splits = build_model(start, open_checkpoint(start), load_data(data_args, training_args), 0)
    return model, splits


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("labelled"), {"0": 20, "1": 20}, first=60)


def test_train_starts_from_the_encoder_bit_for_bit_and_says_the_rest(pretrained, labelled, tmp_path):
    checkpoint, _ = pretrained
    flags = ("--train_dir", labelled, "--model_name_or_path", checkpoint)
    model, splits = start_of_training(tmp_path / "o", *flags)
    stored, now = weights(checkpoint), model.state_dict()
    left_out = {"decoder.projection.weight", "decoder.projection.bias", "vit.embeddings.mask_token"}
    new = {"classifier.weight", "classifier.bias"}
    assert stored.keys() - now.keys() == left_out and now.keys() - stored.keys() == new
    assert all(torch.equal(now[name], stored[name]) for name in stored.keys() - left_out)
    (said,) = [note for note in splits.notes if note.startswith("left out of the checkpoint")]
    assert all(name in said for name in left_out)
    assert any(note.startswith("NEW HEAD") for note in splits.notes)
    assert not any(note.startswith("NEW WEIGHTS") for note in splits.notes)

    metrics = tiny_train(
        tmp_path / "o", *flags[:2], "--num_train_epochs", 15, "--learning_rate", 1e-2, model=[*map(str, flags[2:])]
    )
    assert metrics["validation"]["accuracy"] > 0.8, "0 and 1 are easy to distinguish"


def test_weights_that_only_a_classifier_has_are_new_and_said(labelled, folder, tmp_path):
    """A norm after pooling and learned pooling are not parts of the model that predicts pixels."""
    model = [*MODEL[:-1], f"{TINY},final_norm=pooled,pooling=map"]
    tiny_pretrain(tmp_path / "pre", "--train_dir", folder, "--max_steps", 2, *STEPS, model=model)
    flags = ("--train_dir", labelled, "--model_name_or_path", tmp_path / "pre")
    fresh, splits = start_of_training(tmp_path / "o", *flags)
    new = {name for name in fresh.state_dict() if name.startswith("vit.pooler.")}
    assert new.isdisjoint(weights(tmp_path / "pre"))
    (said,) = [note for note in splits.notes if note.startswith("NEW WEIGHTS")]
    assert all(name in said for name in new) and "vit.pooler.layernorm.weight" in new
    with pytest.raises(UsageError, match=r"linear_probe would leave random weights.*vit.pooler.attention_pooling"):
        start_of_training(tmp_path / "o", *flags, "--method", "linear_probe")


def masked_model_from(checkpoint: Path, output_dir: Path, folder: Path) -> tuple:
    groups = parse_pretraining_args(
        flags_of(output_dir, "--train_dir", folder, model=["--model_name_or_path", str(checkpoint)])
    )
    complete_pretraining_arguments(*groups[1:])
    splits = load_data(groups[2], groups[3], labelled=False)
    loaded = open_checkpoint(start_of(groups[1]), MASKED_IMAGES.model)
    model, _, splits = build_model(start_of(groups[1]), loaded, splits, 0, MASKED_IMAGES.model)
    return model.state_dict(), splits.notes, groups[3]


def test_pretraining_starts_from_its_own_checkpoint_and_from_a_classifier(pretrained, labelled, folder, tmp_path):
    now, notes, training_args = masked_model_from(pretrained[0], tmp_path / "o", folder)
    stored = weights(pretrained[0])
    assert now.keys() == stored.keys() and all(torch.equal(now[name], stored[name]) for name in now)
    assert not any("NEW" in note or "left out" in note for note in notes)
    assert (training_args.learning_rate, training_args.num_train_epochs) == (1e-4, 20)

    classifier = tmp_path / "classifier"
    tiny_train(classifier, "--train_dir", labelled, "--max_steps", 2, *STEPS, model=MODEL)
    now, notes, _ = masked_model_from(classifier, tmp_path / "o", folder)
    stored = weights(classifier)
    assert all(torch.equal(now[name], stored[name]) for name in stored if not name.startswith("classifier"))
    assert any("left out" in note and "classifier.weight" in note for note in notes)
    assert any("NEW WEIGHTS" in note and "decoder.projection.weight" in note for note in notes)


@pytest.mark.parametrize("save", [lambda folder: save_vit(folder, ["a", "b"]), save_encoder], ids=["vit", "dinov2"])
def test_pretraining_starts_from_another_library(folder, tmp_path, save):
    """The encoder is converted; the size of images follows --image_size."""
    source = save(tmp_path / "theirs")
    now, notes, _ = masked_model_from(source, tmp_path / "o", folder)
    convert(str(source), tmp_path / "ours", {})
    encoder = {name.removeprefix("vit."): value for name, value in weights(tmp_path / "ours").items()}
    new = {name for name in now if name.startswith("decoder.")} | {"vit.embeddings.mask_token"}
    assert all(torch.equal(now[name], encoder[name.removeprefix("vit.")]) for name in now.keys() - new)
    assert any("NEW WEIGHTS" in note and "decoder.projection.weight" in note for note in notes)


# ---------- flags and errors


def test_flags_of_classifiers_are_neither_offered_nor_taken(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = capsys.readouterr().out
    for name in ONLY_IN_TRAIN:
        assert f"--{name} " not in offered, name
    assert "--mask_ratio" in offered and "--train_dir" in offered
    given = {"mixup": 0.8, "class_weights": "balanced", "label_smoothing_factor": 0.1, "method": "linear_probe"}
    for name, value in given.items():
        with pytest.raises(UsageError, match=f"--{name} has no meaning in pre-training"):
            tiny_pretrain(tmp_path / "o", "--train_dir", folder, f"--{name}", value)
    refused = {"prediction_loss_only": "true", "learning_rate": "nan", "greater_is_better": "true", "fp16": "true"}
    for name, value in refused.items():
        with pytest.raises(UsageError, match=f"--{name} "):
            tiny_pretrain(tmp_path / "o", "--train_dir", folder, f"--{name}", value)
    with pytest.raises(UsageError, match="lowest eval_loss"):
        tiny_pretrain(tmp_path / "o", "--train_dir", folder, "--metric_for_best_model", "accuracy")
    assert not (tmp_path / "o").exists()


def test_errors_come_before_any_work(pretrained, folder, labelled, tmp_path, capsys):
    write_digit(tmp_path / "d" / "good.png", 1)
    (tmp_path / "d" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        tiny_pretrain(tmp_path / "o", "--train_dir", tmp_path / "d", "--train_val_split", 0.5)
    assert main(flags_of(tmp_path / "o", "--train_dir", folder, "--mask_ratio", 1)) == 2
    assert "--mask_ratio 1:" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"other settings \(.*masks"):
        tiny_pretrain(pretrained[0], "--train_dir", folder, "--mask_ratio", 0.4)
    with pytest.raises(UsageError, match="other settings"):
        tiny_train(pretrained[0], "--train_dir", labelled, model=MODEL)


def test_nan_pixels_stop_the_run_with_the_names_of_images(folder, tmp_path, monkeypatch):
    whole = ResumingTrainer._prepare_inputs

    def spoilt(trainer, inputs):
        prepared = whole(trainer, inputs)
        if "draws" in inputs:
            prepared["pixel_values"][0] = torch.nan
        return prepared

    monkeypatch.setattr(ResumingTrainer, "_prepare_inputs", spoilt)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1, on .*\.png"):
        tiny_pretrain(tmp_path / "o", "--train_dir", folder, "--num_train_epochs", 1)
