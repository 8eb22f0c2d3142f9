"""The inputs of a training: validation sees the pixels of `pipeline`, flags must fit the task, waiting is measured."""

import os
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from real_digits import write_class_folder
from tiny_training import tiny_train, tiny_trainer
from transformers import pipeline

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.data.dataset import DRAWS
from modeling_vit_custom.training.arguments.completion import complete_arguments
from modeling_vit_custom.training.inputs.augmentation import AUGMENTATIONS, BatchAugmentation
from modeling_vit_custom.training.inputs.mixing import Mix, RandomErasing
from modeling_vit_custom.training.trainer.assembly import FEW_WORKERS, MAX_WORKERS, choose_workers
from modeling_vit_custom.training.trainer.throughput import Throughput


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 12, "1": 12})


def watch(model) -> list[torch.Tensor]:
    """Return a list to which every forward pass of `model` appends its pixel_values."""
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    return seen


@pytest.mark.parametrize("where", ["auto", "off"])
def test_validation_sees_the_pixels_of_pipeline(folder, tmp_path, where):
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", folder, "--image_cache", where)
    trainer.save_model()
    seen = watch(trainer.model)
    trainer.predict(trainer.eval_dataset)
    classify = pipeline("image-classification", model=str(tmp_path / "o"), trust_remote_code=True)
    in_pipeline = watch(classify.model)
    classify([str(path) for path in splits.validation.images])
    assert torch.equal(torch.cat(seen), torch.cat(in_pipeline)) and len(torch.cat(seen)) == 4


def test_validation_loss_is_the_models_own(folder, tmp_path):
    flags = ("--mixup", 1, "--loss", "bce", "--label_smoothing_factor", 0.3, "--class_weights", "balanced")
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", folder, *flags)
    output = trainer.predict(trainer.eval_dataset)
    expected = F.cross_entropy(torch.tensor(output.predictions), torch.tensor(splits.validation.targets.values))
    assert output.metrics["test_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_sampling(tmp_path):
    data = write_class_folder(tmp_path / "d", {"0": 30, "1": 6})
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", data, "--balanced_sampling", "true")
    drawn = torch.cat([batch["labels"] for batch in trainer.get_train_dataloader()])
    assert sorted(drawn.bincount().tolist()) == [15, 16]


@pytest.mark.parametrize(
    "flags",
    [("--mixup", 0.2), ("--cutmix", 1), ("--balanced_sampling", "true"), ("--loss", "bce"),
     ("--class_weights", "balanced"), ("--label_smoothing_factor", 0.1)],
)  # fmt: skip
def test_what_only_single_labels_have(folder, tmp_path, flags):
    rows = [f"{path},{'a|b' if i % 2 else 'a'}" for i, path in enumerate(sorted(folder.rglob("*.png")))]
    (folder / "t.csv").write_text("\n".join(["image,label", *rows]))
    with pytest.raises(UsageError, match=f"{flags[0]} is for single_label_classification, but the data is multi_label"):
        tiny_trainer(tmp_path / "o", "--train_dir", folder / "t.csv", *flags)
    (folder / "t.csv").unlink()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--random_erasing", "1.5"], "--random_erasing 1.5: give a number from 0 to 1"),
        (["--mixup", "-1"], "--mixup -1"),
        (["--view_size", "40", "--augmentation", "light"], "--view_size .*light"),
    ],
)
def test_flags_out_of_range(flags, message):
    groups = parse_args(["--output_dir", "o", "--train_dir", "d", "--variant", "nano/4", *flags])
    with pytest.raises(UsageError, match=message):
        complete_arguments(*groups)


def test_damaged_images_are_named_before_anything_is_written(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "d")
    for file in (tmp_path / "d" / "0" / "3.png", tmp_path / "d" / "1" / "5.png"):
        file.write_bytes(file.read_bytes()[:-40])  # the header stays whole
    with pytest.raises(DataError, match=r"cannot be read.*\.png"):
        tiny_train(tmp_path / "o", "--train_dir", tmp_path / "d")
    assert not list((tmp_path / "o").glob("*.json"))


def test_waiting_is_logged_and_reported(folder, tmp_path, capsys):
    metrics = tiny_train(tmp_path / "o", "--train_dir", folder, "--num_train_epochs", 2, "--logging_steps", 1)
    train = metrics["train"]
    assert 0 <= train["data_wait"] < 1 and train["images_per_second"] > 0
    printed = capsys.readouterr().out
    assert "train: images are read from a cache, 20 views of 3 x 8 x 8" in printed and "images/s" in printed


def test_throughput_counts_waiting_and_leaves_validation_out():
    watched = Throughput(processes=2)

    def slow_batches():
        for _ in range(3):
            time.sleep(0.04)
            yield {"pixel_values": torch.empty(5, 1)}

    batches = slow_batches()
    for _ in range(3):
        assert len(next(watched.timed(batches))["pixel_values"]) == 5
        time.sleep(0.04)
        watched.on_step_end()
        time.sleep(0.2)  # stands for a validation
    rates = watched.take()
    assert 0.3 < rates["data_wait"] < 0.7 and 30 / 0.6 < rates["images_per_second"] <= 30 / 0.24
    assert watched.take() == {} and watched.overall() == rates


@pytest.mark.parametrize(
    ("on_accelerator", "cached", "cores", "expected"),
    [
        (False, True, 64, 0),
        (False, False, 2, 0),
        (False, False, 16, 4),
        (True, True, 16, FEW_WORKERS),
        (True, False, 12, 12),
        (True, False, 64, MAX_WORKERS),
    ],
)
def test_workers_set_themselves(monkeypatch, on_accelerator, cached, cores, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for given, number in ((), expected), (("--dataloader_num_workers", "3"), 3):
        _, _, args = parse_args(["--output_dir", "o", "--train_dir", "d", "--variant", "nano/4", *given])
        args.on_accelerator = on_accelerator
        choose_workers(args, cached)
        assert args.dataloader_num_workers == number


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_everything_stays_on_the_device_of_the_batch(name):
    """The meta device holds no data and refuses tensors of another device."""
    augmentation = BatchAugmentation(
        AUGMENTATIONS[name], (8, 8), lambda x: x.float(), RandomErasing(0.5), Mix(0.5, 0.5, 0.5, 3)
    )
    views = torch.empty(6, 3, 8, 8, dtype=torch.uint8, device="meta")
    labels, draws = torch.empty(6, dtype=torch.int64, device="meta"), torch.empty(6, DRAWS, device="meta")
    pixel_values, targets = augmentation(views, labels, draws)
    assert pixel_values.device.type == targets.device.type == "meta"
    assert pixel_values.shape == (6, 3, 8, 8) and targets.shape == (6, 3)
