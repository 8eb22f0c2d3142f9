"""The same global batch gives the same training, whether it is accumulated or spread over processes."""

import json

import pytest
import torch
from equal_runs import EVERYTHING, PLAIN, QUIET, launch, run
from real_digits import write_class_folder, write_shards
from tiny_training import tiny_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write 32 images, 28 of them for training: the last batch of an epoch (8, or 2 x 4) is half full."""
    return write_class_folder(tmp_path_factory.mktemp("d"), {"0": 16, "1": 16})


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (EVERYTHING, {}),
        ([*EVERYTHING, "--loss", "bce"], {}),
        ([], {"multi_hot": True}),
    ],
    ids=["plain", "everything", "bce", "multi-hot"],
)
def test_accumulation_equals_one_large_batch(folder, tmp_path, flags, options):
    flags = ["--train_dir", folder, *flags]
    whole = run(tmp_path / "1", *flags, "--per_device_train_batch_size", 8, **options)
    parts = run(
        tmp_path / "2", *flags, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, **options
    )
    assert len(whole[0]) == 2 * 4 and len(set(whole[0].tolist())) > 1
    torch.testing.assert_close(parts[0], whole[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(parts[1], whole[1], atol=1e-4, rtol=0)


def test_cache_and_workers_change_nothing(folder, tmp_path):
    flags = ["--train_dir", folder, *EVERYTHING]
    losses, weights = run(tmp_path / "1", *flags)
    for number, others in enumerate((["--image_cache", "off"], ["--dataloader_num_workers", 2]), start=2):
        same = run(tmp_path / str(number), *flags, *others)
        assert torch.equal(same[0], losses) and torch.equal(same[1], weights), others
    other = run(tmp_path / "4", *flags, "--seed", 1)
    assert not torch.equal(other[0], losses)


def test_a_run_cut_off_within_an_epoch_resumes_bit_for_bit(folder, tmp_path):
    """Dropout is on: augmentation does not use its random numbers."""
    flags = ["--train_dir", folder, *EVERYTHING, *QUIET[:-1], "steps", "--save_steps", 3, "--logging_steps", 1]
    flags += ["--num_train_epochs", 2, "--learning_rate", "1e-2"]
    trainer, _ = tiny_trainer(tmp_path / "o", *flags)
    trainer.train()
    resumed, _ = tiny_trainer(tmp_path / "p", *flags)
    resumed.train(resume_from_checkpoint=str(tmp_path / "o" / "checkpoint-6"))
    histories = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (trainer, resumed)]
    assert len(histories[0]) == 8 and histories[0] == histories[1]
    for (name, value), other in zip(trainer.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["files", "shards"])
@pytest.mark.parametrize("options", [[], EVERYTHING], ids=["plain", "everything"])
def test_two_processes_equal_one(folder, tmp_path, options, streamed):
    """24 images make whole batches: accelerate would fill a last half batch with images of the first one."""
    data = ["--train_dir", folder]
    if streamed:
        data = ["--streaming", "true", "--train_dir", write_shards(tmp_path / "shards", (8, 8, 8, 8))]
    flags = [*PLAIN, *data, "--train_val_split", 0.25, *options]
    one = launch(tmp_path / "one", 1, *flags, "--per_device_train_batch_size", 8)
    two = launch(tmp_path / "two", 2, *flags, "--per_device_train_batch_size", 4)
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in (one, two)]
    assert len(losses[0]) == 6
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["validation"]["n"] == metrics[1]["validation"]["n"] == 8
    assert metrics[0]["validation"]["accuracy"] == metrics[1]["validation"]["accuracy"]
