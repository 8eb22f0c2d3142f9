"""What a run that has ended keeps of its checkpoints, and that a longer run goes on from it bit for bit."""

import shutil

import pytest
import torch
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny_training import tiny_train

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.training.arguments.training_arguments import ViTTrainingArguments
from modeling_vit_custom.training.checkpointing.checkpoints import UNFINISHED, checkpoint_defect, drop_state, numbered
from modeling_vit_custom.training.runs import finishing
from modeling_vit_custom.training.runs.thinning import thin_checkpoints

FLAGS = ("--num_train_epochs", 3, "--metric_for_best_model", "loss", "--learning_rate", 0.5, "--warmup_steps", 0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 16, "1": 16})


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A run that keeps everything, two checkpoints in the end."""
    folder = tmp_path_factory.mktemp("whole") / "o"
    tiny_train(folder, "--train_dir", digits, *FLAGS, "--keep_checkpoints", "all")
    assert len(numbered(folder)) == 2
    return folder


def test_an_older_checkpoint_keeps_a_sealed_model_and_the_last_everything(whole, tmp_path):
    run = tmp_path / "o"
    shutil.copytree(whole, run)
    best, last = (numbered(run)[step] for step in sorted(numbered(run)))
    before = load_file(best / "model.safetensors")
    said = thin_checkpoints(run, "last", min(numbered(run)))
    assert said.startswith("removed ") and f"goes on from {last.name}, {best.name} has the best model" in said
    assert "--keep_checkpoints all" in said
    assert checkpoint_defect(best, to_go_on=False) is None and checkpoint_defect(last) is None
    assert "is missing" in checkpoint_defect(best), "no run goes on from it"
    assert not [*best.glob("*.pt"), *best.glob("*.pth")] and not (run / UNFINISHED).exists()
    after = load_file(best / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    ViTCustomForImageClassification.from_pretrained(best)
    assert thin_checkpoints(run, "last", min(numbered(run))) is None, "there is nothing more to remove"
    assert thin_checkpoints(run, "last", max(numbered(run))) and [*numbered(run).values()] == [last], "neither of both"


def test_a_longer_run_goes_on_from_a_thinned_one_as_from_a_whole_one(whole, digits, tmp_path):
    longer = ("--train_dir", digits, *FLAGS, "--num_train_epochs", 4)
    for name, keep in (("thin", "last"), ("all", "all")):
        shutil.copytree(whole, tmp_path / name)
        thin_checkpoints(tmp_path / name, keep, min(numbered(whole)))
        assert tiny_train(tmp_path / name, *longer, "--keep_checkpoints", "all")["train"]["resumed"]
    newest = f"checkpoint-{max(numbered(tmp_path / 'thin'))}"
    for place in (newest, "."):
        thin, every = (load_file(tmp_path / name / place / "model.safetensors") for name in ("thin", "all"))
        assert all(torch.equal(tensor, thin[name]) for name, tensor in every.items()), place


def test_it_is_done_once_a_run_has_ended_and_said(digits, tmp_path, capsys, monkeypatch):
    metrics = tiny_train(tmp_path / "o", "--train_dir", digits, *FLAGS, "--keep_checkpoints", "last")
    best, last = metrics["best"]["step"], metrics["train"]["steps"]
    assert "MB of checkpoints; a longer run goes on from " in capsys.readouterr().out
    assert {*numbered(tmp_path / "o")} == {best, last}
    assert [path.parent for path in (tmp_path / "o").rglob("optimizer.pt")] == [numbered(tmp_path / "o")[last]]

    def failed(*_):
        raise OSError("no end")

    monkeypatch.setattr(finishing, "end_records", failed)
    with pytest.raises(OSError, match="no end"):
        tiny_train(tmp_path / "p", "--train_dir", digits, *FLAGS, "--keep_checkpoints", "none")
    assert all(checkpoint_defect(path) is None for path in numbered(tmp_path / "p").values()), "it has not ended"


def test_none_removes_all_and_the_error_of_a_longer_run_names_the_flag(whole, digits, tmp_path):
    run = tmp_path / "o"
    shutil.copytree(whole, run)
    said = thin_checkpoints(run, "none", None)
    assert said.startswith("removed ") and "--keep_checkpoints last" in said and not numbered(run)
    assert tiny_train(run, "--train_dir", digits, *FLAGS)["train"]["steps"], "the results are still there"
    with pytest.raises(UsageError, match=r"no checkpoint to continue from: --keep_checkpoints last"):
        tiny_train(run, "--train_dir", digits, *FLAGS, "--num_train_epochs", 4)


def test_what_is_not_to_be_thinned_is_left(whole, tmp_path):
    run = tmp_path / "o"
    shutil.copytree(whole, run)
    assert thin_checkpoints(run, "all", 1) is None and thin_checkpoints(tmp_path, "last", 1) is None
    (numbered(run)[max(numbered(run))] / "optimizer.pt").write_bytes(b"")
    assert thin_checkpoints(run, "last", None) is None, "the older one may be needed to go on from"
    assert drop_state(numbered(run)[min(numbered(run))]) > 0


def test_the_flag():
    with pytest.raises(UsageError, match="--keep_checkpoints some: give one of all, last, none"):
        ViTTrainingArguments(output_dir="o", keep_checkpoints="some")
    kept = [ViTTrainingArguments(output_dir="o", save_total_limit=n).keep_checkpoints for n in (2, 5, None)]
    assert kept == ["none", "all", "all"], "who keeps another number wants them"
