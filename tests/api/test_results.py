"""What the functions return: typed, with figures, the command's JSON and a picture, and what it was before."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from real_digits import write_class_folder
from safetensors.torch import load_file, save_file
from saved_models import save_ours, save_transformers_vit
from transformers.utils.logging import is_progress_bar_enabled

from modeling_vit_custom import ViTCustomConfig, api
from modeling_vit_custom.api.results import Converted, Measured, Predicted, Published, Staged, Trained, Verified
from modeling_vit_custom.publishing.report import Check

PLAIN = {
    "variant": "ti/16", "image_size": 16, "augmentation": "light", "max_steps": 2, "per_device_train_batch_size": 8,
    "config_overrides": "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=24,patch_size=4",
    "report_to": "none", "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip
SCRIPT = """
from modeling_vit_custom.api import convert, evaluate, predict, publish, train, verify
trained = train(train_dir="photos", output_dir="out", variant="micro/4")
measured = evaluate("out", "photos")
reveal_type([trained.metrics, trained["validation"], trained.to_json(), trained.plot(), measured.result.metrics])
reveal_type([measured.metrics, predict("out", "a.png").records(), convert("out", "hf", to="hf").metrics])
reveal_type((trained.output_dir, verify("out").passed, publish("out", "a/b", save_as="hf").to_json(), measured.plot()))
measured.metric
evaluate("out", split=3)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("photos"), {"0": 16, "1": 16})


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "o"
    return api.train(train_dir=photos, output_dir=folder, save_as="hf", logging_steps=1, **PLAIN)


def test_a_training_is_its_metrics_as_before_and_more(trained):
    text = (trained.output_dir / "metrics.json").read_text()
    assert isinstance(trained, Trained) and isinstance(trained, dict)
    assert trained == trained.metrics == json.loads(text) and trained.to_json() == text
    assert trained["validation"]["accuracy"] == trained.metrics["validation"]["accuracy"]
    assert json.loads(json.dumps(trained)) == trained.metrics and {**trained} == trained.metrics
    assert pickle.loads(pickle.dumps(trained)).output_dir == copy.copy(trained).output_dir == trained.output_dir
    assert str(trained).startswith(f"Trained: {trained.output_dir}\nvalidation  n ") and len(str(trained)) < 400
    with pytest.raises(AttributeError):
        trained.metrics = {}  # type: ignore[misc]


def test_the_course_of_a_training_is_drawn_from_what_was_logged(trained, tmp_path):
    figure = trained.plot()
    assert isinstance(figure, Figure) and figure.axes[0].get_ylabel() == "loss"
    steps = {entry["step"] for entry in trained.history if "loss" in entry}
    assert steps == {1, 2}
    with pytest.raises(ValueError, match="nothing to plot"):
        Trained(trained.metrics, tmp_path).plot()


def test_a_notebook_shows_what_is_drawn(trained, photos, tmp_path):
    """IPython asks a value for `_repr_png_`; a plain Figure has none before pyplot is imported."""
    for result in (trained, api.evaluate(trained.output_dir, photos, tmp_path / "m.json")):
        assert result.plot()._repr_png_().startswith(b"\x89PNG")


def test_no_bars_of_transformers_fill_a_notebook(photos, tmp_path, capfd, monkeypatch):
    """It draws one for each save and load; where stderr is no terminal each takes lines of its own."""
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)  # the commands switch them off for good
    folder = tmp_path / "o"
    api.train(train_dir=photos, output_dir=folder, **PLAIN | {"disable_tqdm": False})
    api.convert(folder, tmp_path / "hf", to="hf")
    api.evaluate(folder, photos, tmp_path / "m.json")
    api.predict(folder, photos / "0", tmp_path / "p.jsonl")
    said = capfd.readouterr().err
    assert "evaluate" in said and "Writing model shards" not in said and "Loading weights" not in said
    assert is_progress_bar_enabled(), "as it was before"


def test_save_as_writes_the_same_model_for_transformers(trained, photos, tmp_path):
    folder = trained.output_dir / "hf"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "conversion.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    report = json.loads((folder / "conversion.json").read_text())
    assert report["check"]["passed"] and report["before_conversion"] == trained["weights"]
    ours, theirs = (
        api.evaluate(model, photos, tmp_path / f"{i}.json").metrics
        for i, model in enumerate((trained.output_dir, folder))
    )
    assert ours == pytest.approx(theirs, abs=1e-5)
    (folder / "config.json").unlink()
    again = api.train(train_dir=photos, output_dir=trained.output_dir, save_as="hf", logging_steps=1, **PLAIN)
    assert again == trained and not (folder / "config.json").exists(), "the same weights are not converted again"


@pytest.mark.parametrize(
    ("library", "flags", "message"),
    [
        ("hf", {"variant": "nano/4", "config_overrides": None}, "--save_as hf: .*has no place for stem='conv'"),
        ("timm", {"config_overrides": PLAIN["config_overrides"] + ",pre_logits_size=8"}, "pre_logits_size=8"),
        ("hf", {"config_overrides": PLAIN["config_overrides"] + ",num_channels=1"}, "num_channels=1 .only 3"),
        ("hf", {"image_mean": None}, "is something else: remove it"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_so_is_refused_before_training(photos, tmp_path, library, flags, message):
    flags = {name: value for name, value in (PLAIN | flags).items() if value is not None}
    if "something else" in message:
        (tmp_path / "o" / "hf").mkdir(parents=True)
        (tmp_path / "o" / "training_args.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
        api.train(train_dir=photos, output_dir=tmp_path / "o", save_as=library, **flags)
    assert not list((tmp_path / "o").glob("checkpoint-*")) and not (tmp_path / "o" / "model.safetensors").exists()


def test_other_weights_take_their_conversions_place(trained, tmp_path):
    import shutil

    from modeling_vit_custom.common.claims import put_model

    run = shutil.copytree(trained.output_dir, tmp_path / "o")
    (tmp_path / "new").mkdir()
    weights = load_file(run / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "new" / "model.safetensors")
    put_model(tmp_path / "new", run)
    assert not (run / "hf").exists() and not (run / "metrics.json").exists()


def test_a_measurement_is_the_tuple_that_it_was_and_more(trained, photos, tmp_path):
    measured = api.evaluate(trained.output_dir, photos, tmp_path / "m.json")
    result, context, written = measured
    assert isinstance(measured, Measured) and measured.metrics is result.metrics and context["data"] == str(photos)
    assert measured.to_json() == written[0].read_text() == (tmp_path / "m.json").read_text()
    assert isinstance(measured.plot(), Figure) and "confusion" in measured.plot().axes[0].get_title().lower()
    assert "accuracy" in str(measured) and len(repr(measured)) < 500


def test_a_prediction_gives_its_lines(trained, photos, tmp_path):
    predicted = api.predict(trained.output_dir, photos / "0", tmp_path / "p.jsonl", top_k=1)
    assert isinstance(predicted, Predicted) and predicted.metrics == {"images": 16, "failed": 0, "resumed": 0}
    assert predicted.to_json() == (tmp_path / "p.jsonl").read_text()
    assert predicted.records()[0]["predictions"][0]["label"] in ("0", "1") and "16" in str(predicted)


def test_a_conversion_is_its_report(tmp_path):
    converted = api.convert(save_transformers_vit(tmp_path / "vit"), tmp_path / "ours", check=True)
    assert isinstance(converted, Converted) and converted["family"] == "vit" and converted.metrics["passed"] is True
    assert converted.to_json() == (tmp_path / "ours" / "conversion.json").read_text()
    assert converted.metrics["relative_difference"] < 1e-4 and "vit" in str(converted)


def test_a_publication_is_the_text_or_the_path_that_it_was(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.json").write_text('{"test": {"n": 2}}')
    sha = Published.at("0" * 40, "a/b", "https://x/a/b", tmp_path / "model")
    assert sha == "0" * 40 and isinstance(sha, str) and sha.metrics == {"test": {"n": 2}}
    assert json.loads(sha.to_json()) == {"repo_id": "a/b", "commit": "0" * 40, "url": "https://x/a/b"}
    staged = Staged(tmp_path)
    assert isinstance(staged, Path) and staged == tmp_path and (staged / "model").is_dir()
    assert staged.metrics == sha.metrics and json.loads(staged.to_json())["files"] == {"model/metrics.json": 18}


def test_a_verification_is_true_or_false(tmp_path, capsys):
    verified = api.verify(save_ours(tmp_path / "m"))
    assert isinstance(verified, Verified) and not verified and verified == False  # noqa: E712
    assert verified.metrics["failed"] > 0 and "FAIL" in str(verified)
    assert json.loads(verified.to_json())["passed"] is False
    good = Verified([Check("files", True, "all")])
    assert good and good == True and good.metrics == {"passed": 1, "failed": 0}  # noqa: E712
    assert not Verified() and "checks passed" in capsys.readouterr().out


def test_what_a_model_has_no_picture_for_is_said(photos, tmp_path):
    save_ours(tmp_path / "m", id2label={0: "0", 1: "1"}, num_labels=2, problem_type="multi_label_classification")
    assert ViTCustomConfig.from_pretrained(tmp_path / "m").num_labels == 2
    (tmp_path / "t.csv").write_text(
        "image,label\n" + "".join(f"{path},0|1\n" for path in sorted((photos / "0").iterdir()))
    )
    measured = api.evaluate(
        tmp_path / "m", tmp_path / "t.csv", tmp_path / "r.json", follow_links=True,
        problem_type="multi_label_classification",
    )  # fmt: skip
    with pytest.raises(ValueError, match="multi_label_classification has no confusion matrix"):
        measured.plot()


@pytest.mark.slow
def test_a_user_s_script_is_checked_by_mypy(tmp_path):
    """With torch and transformers left out, which take a minute and say nothing about these types."""
    (tmp_path / "user.py").write_text(SCRIPT)
    skipped = "".join(
        f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = True\n"
        for name in ("torch", "transformers", "torchvision", "numpy", "datasets", "sklearn", "timm", "huggingface_hub")
    )
    (tmp_path / "mypy.ini").write_text("[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n" + skipped)
    command = ["-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "user.py"]
    root = Path(api.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(root)}
    )
    said = done.stdout
    lines = [line for line in said.splitlines() if "note" not in line]
    assert done.returncode == 1 and len(lines) == 3, said + done.stderr
    assert '"Measured" has no attribute "metric"' in lines[0] and 'incompatible type "int"' in lines[1]
    assert "Path" in said and "Figure" in said
