"""Trainings from shards equal trainings from files, whichever processes read them, interrupted or not."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import ClassLabel, Dataset, Features, Image
from real_digits import encoded_digit, write_class_folder, write_shards
from tiny_training import command, tiny_train, tiny_trainer
from torch.utils.data import BatchSampler

from modeling_vit_custom.commands.train import main
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.data.dataset import ImageDataset
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.views import DecodedViews
from modeling_vit_custom.image_decoding_vit_custom import ImageDecodingError
from modeling_vit_custom.training.inputs.order import StreamOrder
from modeling_vit_custom.training.runs.data_loading import order_notes

EVERYTHING = (
    "--augmentation", "standard", "--auto_augment", "trivialaugment", "--random_erasing", 0.5, "--mixup", 0.5,
    "--class_weights", "balanced", "--num_train_epochs", 2, "--logging_steps", 1, "--learning_rate", 1e-2,
)  # fmt: skip
QUIET = ("--eval_strategy", "no", "--load_best_model_at_end", "false")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Write 34 digits in four files; 28 train: four steps an epoch, the last batch half full."""
    return write_shards(tmp_path_factory.mktemp("shards"), (8, 8, 9, 9))


def streaming(shards, *flags):
    return ("--streaming", "true", "--train_dir", shards, "--train_val_split", 0.175, "--shuffle_buffer", 5, *flags)


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_whole_command(shards, tmp_path, capsys):
    write_class_folder(tmp_path / "test", {"nought": 0, "one": 0})
    for digit, name in enumerate(["nought", "one"]):
        write_class_folder(tmp_path / "written", {str(digit): 4}, first=40)
        shutil.move(tmp_path / "written" / str(digit), tmp_path / "test" / name)
    out = tmp_path / "o"
    flags = streaming(shards, "--test_dir", tmp_path / "test", "--num_train_epochs", 8, "--learning_rate", 1e-2)
    assert main(command(out, *flags)) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert [metrics[split]["n"] for split in ("train", "validation", "test")] == [28, 6, 8]
    assert metrics["test"]["accuracy"] > 0.8, "0 and 1 are easy to distinguish"
    printed = capsys.readouterr().out
    for note in (
        "train: 34 examples in 4 shards of",
        "validation: 6 of 34 training examples, from the front of every shard",
        "validation: 6 encoded images, 0.0 MB, are held in memory",
        "not audited",
        "decoded, again in each epoch",
    ):
        assert note in printed
    assert {"report.html", "confusion_matrix.png", "training.png"} <= {path.name for path in out.iterdir()}
    run = json.loads((out / "training_args.json").read_text())
    assert run["data"]["streaming"] and run["data"]["shuffle_buffer"] == 5 and str(shards) not in json.dumps(run)


def test_an_example_is_augmented_as_it_would_be_from_a_file(shards, tmp_path):
    trainer, splits = tiny_trainer(tmp_path / "o", *streaming(shards, *EVERYTHING))
    data, seen = trainer.train_dataset, {}
    images = [data.views.images[i] for i in np.flatnonzero(data.views.position >= 0)]
    held = Examples(images, list(splits.train.names), splits.train.targets)
    ordinary = ImageDataset(held, DecodedViews(held, data.views.maker), data.seed, data.policy)
    loader = trainer.get_train_dataloader()
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        ordinary.set_epoch(epoch)
        seen[epoch] = []
        for batch in loader:
            expected = ordinary.__getitems__(batch["index"].tolist())
            assert expected.keys() == batch.keys()
            for name, values in expected.items():
                assert torch.equal(values, batch[name]), name
            seen[epoch] += batch["index"].tolist()
        assert sorted(seen[epoch]) == list(range(28))
    assert seen[0] != seen[1]


def test_workers_change_nothing_and_a_run_that_is_cut_off_resumes_bit_for_bit(shards, tmp_path):
    """The run resumes in the second epoch."""
    flags = streaming(shards, *EVERYTHING, *QUIET, "--save_strategy", "steps", "--save_steps", 3)
    whole, _ = tiny_trainer(tmp_path / "whole", *flags)
    whole.train()
    assert len(set(losses(whole))) == 8
    for number, workers in enumerate((0, 2)):
        resumed, _ = tiny_trainer(tmp_path / str(number), *flags, "--dataloader_num_workers", workers)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
        assert losses(resumed) == losses(whole)
        for (name, value), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(value, other), (workers, name)
    threaded, _ = tiny_trainer(tmp_path / "2", *flags, "--dataloader_num_workers", 2)
    threaded.train()
    assert losses(threaded) == losses(whole)


def test_own_validation_and_test_splits_are_held_in_memory(tmp_path):
    for split, counts in {"train": (8, 8), "validation": (6, 4), "test": (3,)}.items():
        write_shards(tmp_path / "d", counts, split)
    source = ("--streaming", "true", "--dataset_name", tmp_path / "d", "--max_eval_samples", 4)
    _, splits = tiny_trainer(tmp_path / "o", *source)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [16, 4, 3]
    assert splits.test.images == [encoded_digit(0, 0), encoded_digit(1, 0), encoded_digit(0, 1)]
    assert all(isinstance(image, bytes) for image in splits.validation.images)


def test_what_is_skipped_is_not_decoded(shards, tmp_path, monkeypatch):
    flags = streaming(
        shards, *EVERYTHING, *QUIET, "--save_strategy", "steps", "--save_steps", 3, "--save_total_limit", 9
    )
    tiny_trainer(tmp_path / "o", *flags)[0].train()
    resumed, _ = tiny_trainer(tmp_path / "p", *flags)
    views, decoded = resumed.train_dataset.views, []
    whole = views.maker.decode
    monkeypatch.setattr(views.maker, "decode", lambda source, name: decoded.append(name) or whole(source, name=name))
    resumed.train(resume_from_checkpoint=str(tmp_path / "o" / "checkpoint-3"))
    assert len(decoded) == 4 + 28, "only the first epoch's last batch and the second epoch"


def test_two_processes_share_the_batches_of_one(shards, tmp_path):
    """accelerate gives batches of 4 and 4 to two processes, in place of 8 to one."""
    data = tiny_trainer(tmp_path / "o", *streaming(shards))[0].train_dataset
    alone = list(BatchSampler(StreamOrder(data, 0), 8, False))
    first, second = (list(BatchSamplerShard(BatchSampler(StreamOrder(data, 0), 4, False), 2, rank)) for rank in (0, 1))
    assert len(alone) == len(first) == len(second) == 4
    assert [a + b for a, b in zip(first, second, strict=True)][:3] == alone[:3]
    assert first[3] == alone[3], "accelerate fills a last half batch with images of the first one"


def test_labels_are_those_of_a_checkpoint_whose_ids_run_the_other_way(shards, tmp_path):
    tiny_train(tmp_path / "o", *streaming(shards, "--num_train_epochs", 1))
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    config |= {"id2label": {"0": "one", "1": "nought"}, "label2id": {"one": 0, "nought": 1}}
    (tmp_path / "o" / "config.json").write_text(json.dumps(config))
    model = ["--model_name_or_path", str(tmp_path / "o")]
    trainer, splits = tiny_trainer(tmp_path / "p", *streaming(shards), model=model)
    noughts = {encoded_digit(0, n) for n in range(17)}
    for row in StreamOrder(trainer.train_dataset, 0):
        assert (row.source in noughts) == (splits.train.targets.values[row] == 1)


def test_a_run_resumes_with_the_same_shards_only(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "d")
    flags = ("--num_train_epochs", 1)
    tiny_train(tmp_path / "o", *streaming(tmp_path / "d", *flags))
    shutil.move(tmp_path / "d", tmp_path / "moved")
    (tmp_path / "o" / "model.safetensors").unlink()  # as if it had been killed before its end
    assert tiny_train(tmp_path / "o", *streaming(tmp_path / "moved", *flags))["train"]["resumed"]
    with pytest.raises(UsageError, match=r"other settings \(shuffle_buffer\)"):
        tiny_train(tmp_path / "o", *streaming(tmp_path / "moved", *flags, "--shuffle_buffer", 6))
    last = tmp_path / "moved" / "train-00003.parquet"
    pq.write_table(pq.read_table(last, columns=["image", "label"]), last)  # as many rows with the same labels
    with pytest.raises(UsageError, match=r"other settings \(fingerprint\)"):
        tiny_train(tmp_path / "o", *streaming(tmp_path / "moved", *flags))


# ---------- errors


def test_an_image_that_cannot_be_read_stops_the_run_by_name(tmp_path, capsys):
    features = Features({"image": Image(), "label": ClassLabel(names=["0", "1"])})
    cells = [{"bytes": encoded_digit(n % 2, n), "path": None} for n in range(24)]
    cells[17] = {"bytes": encoded_digit(1, 17)[:60], "path": None}
    rows = {"image": cells, "label": [n % 2 for n in range(24)]}
    Dataset.from_dict(rows, features).to_parquet(write_shards(tmp_path / "d", ()) / "train-0.parquet")
    assert main(command(tmp_path / "o", *streaming(tmp_path / "d", "--num_train_epochs", 1))) == 2
    assert re.search(r"row 18 of .*train-0\.parquet", capsys.readouterr().err)
    trainer, _ = tiny_trainer(tmp_path / "p", *streaming(tmp_path / "d", "--dataloader_num_workers", 1))
    batches = iter(trainer.get_train_dataloader())
    with pytest.raises(ImageDecodingError, match=r"row 18 of .*train-0\.parquet"):
        list(batches)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--balanced_sampling", "true"), "--balanced_sampling needs all images"),
        (("--shuffle_buffer", 0), "--shuffle_buffer 0"),
        (("--train_sampling_strategy", "sequential"), "--train_sampling_strategy"),
        (("--teacher", "timm:resnet18"), "--teacher looks at all images first"),
        (("--method", "head_then_full"), "--method head_then_full fits the head to all images"),
    ],
)
def test_what_a_stream_cannot_do(shards, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        tiny_train(tmp_path / "o", *streaming(shards, *flags))


def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(tmp_path):
    with pytest.raises(DataError, match="nothing is not there"):
        tiny_train(tmp_path / "o", *streaming(tmp_path / "nothing"))


def test_the_built_in_data_set_needs_no_stream(tmp_path):
    with pytest.raises(UsageError, match="--dataset mnist5k is small"):
        tiny_train(tmp_path / "o", "--streaming", "true", "--dataset", "mnist5k")


def test_sorted_shards_are_noticed():
    labels = np.repeat(np.arange(10), 100)
    assert "99% of neighbours in the shards are of one class (by chance 10%)" in order_notes(labels, 50)[0]
    assert not order_notes(np.random.default_rng(0).permutation(labels), 50)
    assert not order_notes(np.repeat([0, 1], [950, 50])[np.random.default_rng(0).permutation(1000)], 50)
