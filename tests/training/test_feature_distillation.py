"""Pre-training from a teacher: its features follow the augmentation, are learnt, and leave a plain encoder."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from equal_runs import launch
from foreign_checkpoints import save_encoder, save_vit
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny_training import QUICK, TINY, tiny_train
from transformers import AutoModel, Dinov2Model

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomImageProcessor,
    ViTCustomModel,
)
from modeling_vit_custom.commands.pretrain import main, parse_pretraining_args
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.sealed_rows import SealedRows
from modeling_vit_custom.data.views import PixelValues, eval_resizer
from modeling_vit_custom.training.checkpointing.checkpoints import numbered
from modeling_vit_custom.training.initialization.frozen_encoder import load_frozen
from modeling_vit_custom.training.initialization.start_checkpoint import Start
from modeling_vit_custom.training.inputs.augmentation import AUGMENTATIONS, MIRROR, BatchAugmentation, warp
from modeling_vit_custom.training.objectives.feature_distillation import FeatureLoss, Statistics
from modeling_vit_custom.training.objectives.teacher_features import (
    NAME,
    EncoderTeacher,
    TeacherFeatures,
    open_teacher_features,
)
from modeling_vit_custom.training.runs.pretrain import pretrain
from modeling_vit_custom.training.trainer.ema_lora import PROJECTION
from modeling_vit_custom.training.trainer.resuming import ResumingTrainer

MODEL = ["--variant", "nano/4", "--image_size", "16", "--config_overrides", TINY]
STEPS = ("--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write 100 digits of two classes."""
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 50, "1": 50})


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Save a DINOv2 of transformers: 2x2 patches of width 16."""
    return save_encoder(tmp_path_factory.mktemp("teacher") / "dinov2")


def tiny_pretrain(output_dir: Path, folder: Path, teacher: Path, *flags, model: list[str] = MODEL) -> dict:
    given = ("--train_dir", folder, "--teacher", teacher, *flags)
    return pretrain(*parse_pretraining_args(["--output_dir", str(output_dir), *model, *QUICK, *map(str, given)]))


@pytest.fixture(scope="module")
def learnt(folder, theirs, tmp_path_factory):
    """Return (the folder of a finished run, its metrics)."""
    output_dir = tmp_path_factory.mktemp("runs") / "learnt"
    flags = ("--num_train_epochs", 12, "--learning_rate", 1e-2, "--ema_decay", 0.9)
    return output_dir, tiny_pretrain(output_dir, folder, theirs, *flags)


def teacher_of(theirs: Path, size: int | None = None) -> EncoderTeacher:
    net, processor, notes = load_frozen(Start(str(theirs), image_size=size))
    return EncoderTeacher("dinov2", net.vit, processor, "", notes)


def seen_by(teacher: EncoderTeacher, examples: Examples) -> TeacherFeatures:
    """Return what the teacher makes of images as a student of 16x16 pixels sees them."""
    config = ViTCustomConfig.from_variant("nano/4", image_size=16)
    resizer = eval_resizer(ViTCustomImageProcessor.for_model(config), config)
    return open_teacher_features(teacher, examples, resizer, "off", CPU)[0]


def examples_of(folder: Path, count: int = 12) -> Examples:
    paths = [str(path) for path in sorted(folder.rglob("*.png"))[:count]]
    return Examples(paths, paths)


# ---------- targets and loss


def test_the_features_are_those_of_the_other_library(theirs, folder, monkeypatch):
    """The rows, in float16, hold DINOv2's class token and patches, as transformers computes them."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # no bfloat16
    teacher, examples = teacher_of(theirs), examples_of(folder)
    rows = seen_by(teacher, examples)(range(12)).float()
    source = Dinov2Model.from_pretrained(theirs).eval()
    with torch.no_grad():
        tokens = source(torch.stack([pixels_of(teacher, path) for path in examples.images])).last_hidden_state
    assert rows.shape == (12, 16 + 4 * 16)
    torch.testing.assert_close(rows, tokens.flatten(1), atol=5e-3, rtol=0)


def pixels_of(teacher: EncoderTeacher, path: str) -> torch.Tensor:
    views = eval_resizer(teacher.processor, teacher.model.config)([path], [path])
    return PixelValues(teacher.processor)(views)[0]


def test_the_loss_equals_plain_torch():
    """4x4 patches are learnt from a grid of 2x3; all features are standardised by what was measured on the rows."""
    torch.manual_seed(0)
    count, pooled_width, width, grid = 40, 5, 7, (2, 3)
    rows = (torch.randn(count, pooled_width + 6 * width) * 3 + 2).half()
    rows[:, 4] = 1.5  # the same for all
    teacher = type("Sizes", (), {"pooled_width": pooled_width, "width": width, "grid": grid})
    loss = FeatureLoss(Statistics.of(TeacherFeatures(rows.numpy()), teacher), grid)
    plain = BatchAugmentation(None, (16, 16), lambda images: images)
    pooled, patches = loss.targets(rows, lambda grids: plain.follow(grids, (4, 4)))

    first, rest = rows.float()[:, :pooled_width], rows.float()[:, pooled_width:].view(count, 6, width)
    mean, std = rest.reshape(-1, width).mean(0), rest.reshape(-1, width).std(0, correction=0)
    pictures = ((rest - mean) / std).transpose(1, 2).reshape(count, width, *grid)
    wanted = F.interpolate(pictures, (4, 4), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, wanted, atol=1e-4, rtol=0)
    spread = first.std(0, correction=0)
    spread[4] = 1
    whole = (first - first.mean(0)) / spread
    torch.testing.assert_close(pooled, whole, atol=1e-4, rtol=0)
    assert (pooled[:, 4] == 0).all()

    made = torch.randn_like(pooled), torch.randn_like(patches)
    expected = (F.smooth_l1_loss(made[0], whole) + F.smooth_l1_loss(made[1], wanted)) / 2
    torch.testing.assert_close(loss.loss({"projected": made}, (pooled, patches)), expected, atol=1e-5, rtol=1e-5)
    values = loss({"teacher": (pooled, patches)}, {"projected": made})
    one, other = made[0] * spread + first.mean(0), first
    of_patches = F.cosine_similarity(made[1] * std + mean, wanted * std + mean, dim=2).mean(1)
    torch.testing.assert_close(values[:, 1], (F.cosine_similarity(one, other) + of_patches) / 2, atol=1e-4, rtol=1e-4)
    mean_row = first.mean(0).expand(count, -1), mean.expand_as(wanted)
    of_mean = F.cosine_similarity(mean_row[1], wanted * std + mean, dim=2).mean(1)
    torch.testing.assert_close(values[:, 3], (F.cosine_similarity(mean_row[0], first) + of_mean) / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["light", "shift", "standard"])
def test_a_grid_of_features_is_moved_as_the_image_is(name):
    """On a ramp of colours the mean of a patch is a feature that knows where it lies."""
    torch.manual_seed(0)
    x, y = torch.meshgrid(torch.linspace(-1, 1, 33), torch.linspace(-1, 1, 33), indexing="xy")
    middles = [(axis[1:, 1:] + axis[:-1, :-1]) / 2 for axis in (x, y)]
    images = torch.stack(middles).expand(16, 2, 32, 32)
    draws = torch.rand(16, 24)
    augmentation = BatchAugmentation(AUGMENTATIONS[name], (32, 32), lambda images: images)
    warped = F.avg_pool2d(warp(images, AUGMENTATIONS[name](draws, (32, 32)), (32, 32)), 4)
    for cell, error in ((4, 1e-5), (2, 0.04)):  # as many patches as the student has, and more
        moved = augmentation.follow(F.avg_pool2d(images, cell), (8, 8), draws)
        inside = (warped.abs() < 0.75).all(dim=1, keepdim=True).expand_as(warped)
        assert inside.float().mean() > 0.3
        torch.testing.assert_close(moved[inside], warped[inside], atol=error, rtol=0)
    assert (draws[:, MIRROR] < 0.5).any()
    torch.testing.assert_close(augmentation.follow(warped, (8, 8)), warped)


def test_grey_images_are_shown_to_a_teacher_of_colours(folder, theirs, tmp_path, capsys):
    model = [*MODEL[:-1], f"{TINY},num_channels=1"]
    tiny_pretrain(tmp_path / "o", folder, theirs, "--max_steps", 2, *STEPS, model=model)
    assert "the checkpoint's image processor makes 3 channels, the model takes 1" in capsys.readouterr().out


# ---------- a run


def test_what_is_learnt_is_better_than_the_mean(learnt):
    _, metrics = learnt
    found = metrics["validation"]
    assert metrics["objective"] == "feature_distillation" and found["n"] == 15
    assert found["loss"] < 0.7 * found["mean_loss"]
    assert 1 - found["cosine"] < 0.8 * (1 - found["mean_cosine"])


def test_output_is_a_plain_encoder(learnt):
    output_dir, metrics = learnt
    stored, config = load_file(output_dir / "model.safetensors"), json.loads((output_dir / "config.json").read_text())
    net = AutoModel.from_pretrained(output_dir, trust_remote_code=True)
    assert stored.keys() == net.state_dict().keys() == ViTCustomModel(ViTCustomConfig(**config)).state_dict().keys()
    assert config["architectures"] == ["ViTCustomModel"] and "AutoModel" in config["auto_map"]
    assert metrics["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert not (output_dir / PROJECTION).exists() and not (output_dir / "reconstruction.png").exists()
    record = json.loads((output_dir / "training_args.json").read_text())
    assert record["data"]["teacher"].keys() == {"name", "weights", "preprocessing"}
    assert "masks" not in record["data"] and str(output_dir.parent) not in json.dumps(record)


def test_metrics_are_those_of_the_best_checkpoint(learnt):
    """With its averaged encoder goes the averaged projection, which is kept beside it."""
    output_dir, metrics = learnt
    best = output_dir / f"checkpoint-{metrics['best']['step']}"
    net = ViTCustomModel.from_pretrained(best).eval()
    layers = {name.removeprefix("feature_projection."): tensor for name, tensor in load_file(best / PROJECTION).items()}
    history = json.loads((best / "trainer_state.json").read_text())["log_history"]
    logged = next(entry for entry in reversed(history) if "eval_cosine" in entry)
    for name in ("loss", "cosine", "mean_loss", "mean_cosine"):
        assert metrics["validation"][name] == pytest.approx(logged[f"eval_{name}"], rel=1e-5), name
    assert layers["patches.weight"].shape == (16, 16) and layers["pooled.weight"].shape == (16, 16)
    for name, tensor in load_file(output_dir / "model.safetensors").items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_train_starts_from_it_bit_for_bit(learnt, folder, tmp_path):
    output_dir, _ = learnt
    flags = ("--train_dir", folder, "--max_steps", 2, *STEPS, "--method", "full")
    metrics = tiny_train(tmp_path / "o", *flags, model=["--model_name_or_path", str(output_dir)])
    assert metrics["train"]["steps"] == 2
    started = ViTCustomForImageClassification.from_pretrained(output_dir, num_labels=2).vit.state_dict()
    assert all(torch.equal(started[name], t) for name, t in load_file(output_dir / "model.safetensors").items())


@pytest.mark.parametrize("decay", [0, 0.9])
def test_a_run_cut_off_resumes_bit_for_bit(folder, theirs, tmp_path, monkeypatch, decay):
    """The run is cut within an epoch, with dropout and augmentation."""
    flags = ("--max_steps", 10, "--logging_steps", 1, "--learning_rate", 1e-2, "--ema_decay", decay, *STEPS)
    cache = ("--image_cache", tmp_path / "cache")
    whole = tiny_pretrain(tmp_path / "whole", folder, theirs, *flags, *cache)
    step = ResumingTrainer.training_step

    def dies(trainer, *args, **kwargs):
        if trainer.state.global_step == 7:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ResumingTrainer, "training_step", dies)
        tiny_pretrain(tmp_path / "cut", folder, theirs, *flags, *cache)
    assert max(numbered(tmp_path / "cut")) == 6
    with monkeypatch.context() as patched:
        patched.setattr(EncoderTeacher, "__call__", None)  # everything is in the cache
        cut = tiny_pretrain(tmp_path / "cut", folder, theirs, *flags, *cache)
    assert cut["train"]["resumed"] and cut["validation"] == whole["validation"] and cut["best"] == whole["best"]
    for name in ("model.safetensors", PROJECTION, "training_weights.safetensors"):
        before, after = (load_file(tmp_path / run / "checkpoint-10" / name) for run in ("whole", "cut"))
        assert all(torch.equal(before[key], after[key]) for key in before), name


def test_the_cache_is_of_this_teacher_and_damage_is_found(folder, theirs, tmp_path):
    flags = ("--image_cache", tmp_path / "cache", "--max_steps", 1, *STEPS)
    tiny_pretrain(tmp_path / "a", folder, theirs, *flags)
    one = next((tmp_path / "cache").glob("encoder-????????????????"))
    tiny_pretrain(tmp_path / "b", folder, theirs, *flags, "--teacher_config", "image_size=12")
    assert len([*(tmp_path / "cache").glob("encoder-????????????????")]) == 4  # of two splits each
    rows = TeacherFeatures(SealedRows(one, NAME))
    with (one / NAME).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    rows([0])
    with pytest.raises(DataError, match="does not hold the teacher's features of image"):
        rows([len(rows) - 1])


@pytest.mark.slow
def test_two_processes_equal_one(folder, theirs, tmp_path):
    flags = ["--train_dir", str(folder), "--max_train_samples", "72", "--max_eval_samples", "23", "--teacher", theirs]
    flags += ["--train_val_split", "0.25", "--num_train_epochs", "1", "--logging_steps", "1", "--learning_rate", "1e-2"]
    flags += ["--image_cache", str(tmp_path / "cache")]
    model = [*MODEL[:-1], TINY.replace("hidden_dropout_prob=0.1", "hidden_dropout_prob=0.0")]
    one = launch(tmp_path / "1", 1, *flags, "--per_device_train_batch_size", "8", model=model, script="pretrain.py")
    two = launch(tmp_path / "2", 2, *flags, "--per_device_train_batch_size", "4", model=model, script="pretrain.py")
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in (one, two)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["validation"] for name in "12"]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)


# ---------- errors


def test_refusals_name_flag_value_and_fix(folder, theirs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    four = [*MODEL[:-1], f"{TINY},num_channels=4"]
    dropped = [*MODEL[:-1], f"{TINY},patch_drop_rate=0.5"]
    refused = [
        ((theirs, "--mask_ratio", 0.4), MODEL, r"--mask_ratio 0\.4 hides parts of images, and --teacher .* shows all"),
        ((theirs, "--auto_augment", "randaugment"), MODEL, "--auto_augment randaugment moves images"),
        ((theirs,), dropped, r"--patch_drop_rate 0\.5 leaves out patches"),
        ((theirs,), four, "takes images of 3 channels, the student 4"),
        ((theirs, "--teacher_config", "image_size=0"), MODEL, "--teacher_config image_size=0: give whole pixels"),
        ((theirs, "--teacher_config", "labels=[a]"), MODEL, "--teacher_config: labels unknown; of an encoder it takes"),
        ((theirs, "--teacher_weights", "x.pth"), MODEL, "--teacher_weights has no meaning in pre-training"),
        ((tmp_path / "empty",), MODEL, "--teacher .*empty cannot be converted: .* holds no config.json"),
        ((tmp_path / "nothing",), MODEL, "--teacher .*nothing cannot be used"),
        ((theirs, "--streaming", "true"), MODEL, "--streaming has no meaning in pre-training"),
    ]
    for (teacher, *flags), model, says in refused:
        with pytest.raises(UsageError, match=says):
            tiny_pretrain(tmp_path / "o", folder, teacher, *flags, model=model)
    given = ["--output_dir", str(tmp_path / "o"), *MODEL, *QUICK, "--train_dir", str(folder)]
    assert main([*given, "--teacher_config", "image_size=8"]) == 2
    assert "needs a teacher: name one by --teacher" in capsys.readouterr().err


def test_another_teacher_is_another_run(learnt, folder, tmp_path):
    other = save_vit(tmp_path / "other", ["a", "b"])
    flags = ("--num_train_epochs", 12, "--learning_rate", 1e-2, "--ema_decay", 0.9)
    with pytest.raises(UsageError, match=r"other settings \(.*teacher"):
        tiny_pretrain(learnt[0], folder, other, *flags)
