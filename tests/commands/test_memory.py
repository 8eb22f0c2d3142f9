"""Memory that runs out while images are answered: one sentence with the flags to change, exit code 2."""

import pytest
import torch
from real_digits import write_class_folder
from saved_models import save_ours

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.commands import evaluate, export, predict


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model and images of its classes."""
    folder = tmp_path_factory.mktemp("memory")
    save_ours(folder / "model", num_labels=2)
    write_class_folder(folder / "digits", {"LABEL_0": 3, "LABEL_1": 3})
    return folder


@pytest.mark.parametrize(
    ("command", "flags", "fix"),
    [
        (predict, ["digits", "--output", "p.jsonl", "--batch_size", "8"], "--batch_size 4 (now 8)"),
        (evaluate, ["--data_dir", "digits", "--output", "m.json", "--batch_size", "8"], "--batch_size 4 (now 8)"),
        (export, ["--output", "exported", "--data_dir", "digits"], ""),
    ],
    ids=["predict", "evaluate", "export"],
)
def test_a_command_that_runs_out_of_memory_names_what_to_change(place, command, flags, fix, monkeypatch, capsys):
    with pytest.raises(RuntimeError) as allocation:  # what the allocator itself says
        torch.empty(2**50)

    def full(*_args, **_kwargs):
        raise allocation.value

    monkeypatch.chdir(place)
    monkeypatch.setattr(ViTCustomModel, "forward", full)
    assert command.main(["--model", "model", *flags]) == 2
    said = capsys.readouterr().err
    assert "memory is not enough" in said and "Give " in said and fix in said
    assert not (place / "exported").exists()
