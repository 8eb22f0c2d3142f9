"""The quick start's promise: a saved folder works in a process that cannot import the package."""

import pytest
from real_digits import write_class_folder
from tiny_training import tiny_train

from modeling_vit_custom.commands.quickstart import main, serve_fresh
from modeling_vit_custom.common.fresh_process import FreshProcessError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("quick")
    data = write_class_folder(root / "digits", {"0": 8, "1": 8})
    tiny_train(root / "o", "--train_dir", data, "--num_train_epochs", 1)
    return root / "o", [data / "0" / "0.png", data / "1" / "1.png"]


def test_folder_serves_in_a_fresh_process(trained, capfd):
    model, files = trained
    serve_fresh(model, files)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["truth", "predicted", "score", "file"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1"]


def test_a_folder_without_its_code_does_not_serve(trained, tmp_path):
    model, files = trained
    for path in model.glob("*"):
        if path.suffix in (".json", ".safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FreshProcessError, match="modeling_vit_custom"):
        serve_fresh(tmp_path, files)


@pytest.mark.slow
def test_quickstart_runs_from_the_command(tmp_path, capfd):
    """One epoch over a part of the data shows that the command works, not how accurate it is."""
    few = ["--num_train_epochs", "1", "--max_train_samples", "128", "--max_eval_samples", "50"]
    assert main(["--output_dir", str(tmp_path / "o"), "--data_root", str(tmp_path), *few]) == 0
    printed = capfd.readouterr().out
    assert "held-out images right" in printed and "test/9/" in printed
