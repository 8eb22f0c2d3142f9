"""The quick start's promise: a saved folder serves in a process that cannot import the package."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from real_digits import write_class_folder
from tiny_training import tiny_train

from modeling_vit_custom.training.quickstart import FRESH_PROCESS, main, serve_fresh

ROOT = Path(__file__).parents[1]


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


def test_a_folder_without_its_code_does_not_serve(trained, tmp_path, capfd):
    model, files = trained
    for path in model.glob("*"):
        if path.suffix in (".json", ".safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(subprocess.CalledProcessError):
        serve_fresh(tmp_path, files)
    assert "modeling_vit_custom" in capfd.readouterr().err


def test_the_package_is_hidden_where_it_is_installed():
    names = runpy.run_path(str(FRESH_PROCESS))
    with pytest.raises(SystemExit, match="can be imported"):
        names["check_hidden"]()  # here it is importable, and the check says so
    hide = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); names = runpy.run_path({str(FRESH_PROCESS)!r})\n"
        "sys.meta_path.insert(0, names['Hide']()); names['check_hidden']()\n"
        "import transformers_modules_or_any_other_name"
    )
    done = subprocess.run([sys.executable, "-I", "-c", hide], capture_output=True, text=True)
    assert "No module named 'transformers_modules_or_any_other_name'" in done.stderr


@pytest.mark.slow
def test_quickstart_runs_from_the_command(tmp_path, capfd):
    """A single pass over a part of the data: that it works, not how well."""
    few = ["--num_train_epochs", "1", "--max_train_samples", "128", "--max_eval_samples", "50"]
    assert main(["--output_dir", str(tmp_path / "o"), "--data_root", str(tmp_path), *few]) == 0
    printed = capfd.readouterr().out
    assert "held-out images right" in printed and "test/9/" in printed
