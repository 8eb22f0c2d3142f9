"""The parts of the Trainer that make a run resume exactly, one at a time; whole runs are in test_faults."""

import json

import pytest
import torch
from accelerate.data_loader import DataLoaderShard
from real_digits import write_class_folder
from tiny_training import tiny_train, tiny_trainer
from torch.utils.data import Dataset

from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.model_files import LOCK, LOCK_OWNER
from modeling_vit_custom.common.processes import Processes
from modeling_vit_custom.training.checkpointing.checkpoints import CheckpointError, checkpoint_defect, numbered
from modeling_vit_custom.training.checkpointing.run_lock import run_lock

SHORT = ("--max_steps", 4, "--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write 20 images, 16 of them for training: two steps an epoch."""
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 10, "1": 10})


def test_the_dataset_gets_the_epoch_though_the_data_loader_does_not_pass_it_on(digits, tmp_path, monkeypatch):
    """accelerate's loader does not pass it on in several processes, or if it skips the first batches."""
    monkeypatch.setattr(DataLoaderShard, "set_epoch", lambda self, epoch: None)
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT)
    epochs = []
    whole = trainer.training_step
    monkeypatch.setattr(
        trainer, "training_step", lambda *rest: epochs.append(int(trainer.train_dataset.epoch)) or whole(*rest)
    )
    trainer.train()
    assert epochs == [0, 0, 1, 1]


def test_only_batches_of_the_training_know_their_examples(digits, tmp_path):
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits)
    batch = next(iter(trainer.get_train_dataloader()))
    names = [splits.train.names[i] for i in batch["index"]]
    assert [int(name.split("/")[-2]) for name in names] == batch["labels"].tolist()
    trainer.model.train()
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        assert set(trainer._prepare_inputs(next(iter(loader)))) == {"pixel_values", "labels"}
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    assert torch.isfinite(loss) and trainer.evaluate()["eval_loss"] > 0


class Nameless(Dataset):
    """Images without names, one of them NaN. indexed: their indices are known."""

    def __init__(self, indexed: bool):
        self.indexed = indexed

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = torch.full((3, 8, 8), torch.nan if index == 3 else 0.5)
        item = {"pixel_values": image, "labels": torch.tensor(1)}
        return item | {"index": torch.tensor(index)} if self.indexed else item


@pytest.mark.parametrize(
    ("indexed", "on"), [(False, "at step [12]: one of"), (True, "at step [12], on .*example 3[,:].*one of")]
)
def test_images_without_names(digits, tmp_path, indexed, on):
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT)
    trainer.train_dataset = Nameless(indexed)
    with pytest.raises(FloatingPointError, match=f"the loss is nan {on}"):
        trainer.train()


def test_a_gradient_that_is_no_number_stops_the_run_before_it_is_used(digits, tmp_path):
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT, "--max_grad_norm", 0)
    weight = trainer.model.classifier.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match=r"the norm of the gradient is (nan|inf) at step 1, on .*\.png, "):
        trainer.train()
    assert torch.equal(weight, before) and not numbered(tmp_path / "o")


def test_true_means_the_newest_checkpoint_that_is_whole(digits, tmp_path, caplog):
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    (tmp_path / "o" / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    again, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT, "--eval_on_start", "true")
    again.train(resume_from_checkpoint=True)
    assert "optimizer.pt is not what was saved" in caplog.text
    histories = [[entry for entry in t.state.log_history if "eval_loss" in entry] for t in (trainer, again)]
    assert [entry["step"] for entry in histories[1]] == [2, 4]
    assert [entry["eval_loss"] for entry in histories[0]] == [entry["eval_loss"] for entry in histories[1]]


class RecordingPusher:
    def __init__(self):
        self.pushed = []

    def push_checkpoint(self, folder, message):
        self.pushed.append((folder, checkpoint_defect(folder), message))

    def wait(self):
        pass


def test_a_checkpoint_is_pushed_once_and_whole(digits, tmp_path):
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SHORT, "--hub_strategy", "every_save")
    trainer.args.push_to_hub, trainer.pusher = True, RecordingPusher()
    trainer.train()
    folders = [str(tmp_path / "o" / f"checkpoint-{step}") for step in (2, 4)]
    says = [f"Training in progress, step {step}" for step in (2, 4)]
    assert trainer.pusher.pushed == list(zip(folders, (None, None), says, strict=True))


# ---------- the lock, and processes that agree


def test_the_lock_is_gone_after_the_run_and_a_stale_one_does_not_count(tmp_path):
    for name in (LOCK, LOCK_OWNER):
        (tmp_path / name).write_text("process 1 on a machine that died")
    for _ in range(2):
        with run_lock(tmp_path, Processes()):
            owner = (tmp_path / LOCK_OWNER).read_text()
            assert "process" in owner and "died" not in owner
        assert not list(tmp_path.iterdir())


def test_a_lock_left_behind_does_not_make_a_new_folder_an_old_one(digits, tmp_path):
    (tmp_path / "o").mkdir()
    for name in (LOCK, LOCK_OWNER):
        (tmp_path / "o" / name).write_text("process 1")
    tiny_train(tmp_path / "o", "--train_dir", digits, *SHORT)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        tiny_train(tmp_path / "p", "--train_dir", digits, *SHORT)


def test_what_fails_in_one_process_raises_in_all(monkeypatch):
    """This is the second of two processes; the first has reported its error to it."""
    second = Processes(1, 2)
    monkeypatch.setattr(Processes, "gathered", lambda self, mine: [OSError("full"), mine])
    with pytest.raises(OSError, match="full"):
        second.together(lambda: None)
    with pytest.raises(KeyError):
        second.together(lambda: {}["mine"])


def test_the_last_checkpoint_is_kept_beside_the_best(digits, tmp_path):
    tiny_train(tmp_path / "o", "--train_dir", digits, *SHORT, "--save_total_limit", 1)
    best = json.loads((tmp_path / "o" / "metrics.json").read_text())["best"]["step"]
    assert {best, 4} <= set(numbered(tmp_path / "o")) and len(numbered(tmp_path / "o")) <= 2
