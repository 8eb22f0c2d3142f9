"""Files of 0.1.0 still work: models, exports, half-finished runs, a published tree, and its code beside ours.

Each test names the parts that it guards. If one fails, the change breaks files on users' disks: it needs a rule that
reads the old form, and is called *Breaking* in CHANGELOG.md. Frozen files are never edited.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from frozen import (
    BACKENDS,
    EXPORTED,
    EXPORTS,
    FROZEN,
    MODEL,
    MODELS,
    PREDICT,
    ROOT,
    RUN,
    RUNS,
    answers,
    differences,
    inside,
    outputs,
    pixels,
    restored,
    unpacked,
    write_digits,
)
from rounding import OPENVINO
from safetensors.torch import load_file

from modeling_vit_custom.cli import main as vit_custom
from modeling_vit_custom.inference.loading import load_classifier

# Relative to the largest weight. AVX2 instead of AVX-512 changes 6e-8, an optimizer without its first moments 3e-3.
WEIGHTS = 2e-5
# Lines of a card that were false, and their correction: no step had been chosen; the epochs were those asked for.
CORRECTED = {
    "There is no test set: the validation images also chose the checkpoint, so their figures are somewhat too good.":
        "There is no test set.",
    "| epochs | 12 |": "| epochs | 12 epochs are asked for |",
    # drawn examples are no longer shown with a class
    "| <b>0</b> 0.963 | <b>0</b> 0.963 | <b>0</b> 0.961 |":
        "These pictures, in `examples/`, are drawn: they show nothing that the model knows, and check that it gives "
        "the same numbers",
    "These images lie in `examples/`; below each, its best label and score as they must come out.":
        "everywhere. Put photographs of yours there with `--examples`.",
}  # fmt: skip
WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def expected(folder: Path) -> dict:
    return json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_answers_as_when_it_was_saved(name):
    """Guards names and shapes of weights, fields of both configurations, the forward pass, the preprocessing."""
    folder, (auto, compared) = FROZEN / "models" / name, MODELS[name]
    loaded, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.dtype == (torch.float16 if name == "half" else torch.float32)
    frozen = expected(folder)
    speeds = frozen.pop("speeds", {})
    assert not list(differences(frozen, answers(folder, auto, compared)))
    for speed, answer in speeds.items():
        assert not list(differences(answer, answers(folder, auto, compared, speed=speed))), speed
        assert list(differences(answer, frozen)), "a speed with the exact answers would test nothing"


@WARNS
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=OPENVINO) if "openvino" in name else name for name in EXPORTS]
)
def test_exports_answer_as_when_they_were_written(name, tmp_path):
    """Guards export.json, the seal of an export's file, each runtime, and ExportedClassifier."""
    unpacked(EXPORTED, tmp_path)
    model, _ = load_classifier(str(tmp_path / name), trust_remote_code=True)
    now = {backend: outputs(model, ("logits",), pixels(tmp_path / name, backend)) for backend in BACKENDS}
    assert not list(differences(expected(tmp_path / name), now, EXPORTS[name][2]))


@pytest.mark.parametrize("name", RUNS)
def test_a_half_finished_run_resumes_to_the_weights_it_would_have_had(name, tmp_path, capsys):
    """Guards checkpoints, their seal, the comparison with training_args.json, order, augmentation, masks, optimizer."""
    write_digits(tmp_path)
    restored(f"runs/{name}/run", tmp_path / "run")
    with inside(tmp_path):
        assert RUNS[name]([*MODEL, *RUN]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["train"]["resumed"] is True
    weights, final = (
        load_file(tmp_path / "run" / "model.safetensors"),
        load_file(FROZEN / f"runs/{name}/final.safetensors"),
    )
    assert weights.keys() == final.keys()
    for tensor in final:
        apart, largest = (weights[tensor] - final[tensor]).abs().max(), final[tensor].abs().max().clamp(min=1)
        assert apart <= WEIGHTS * largest, f"{tensor} off by {apart:.1e}"
    half = load_file(FROZEN / f"runs/{name}/run/checkpoint-4/model.safetensors")
    assert max(float((half[tensor] - final[tensor]).abs().max()) for tensor in final) > 10 * WEIGHTS


def test_predictions_that_were_cut_off_resume(tmp_path, capsys):
    """Guards the parts of an output, its meta file, and the fingerprint of model and settings in it."""
    write_digits(tmp_path)
    for part in FROZEN.glob("predict/predictions.jsonl.*"):
        shutil.copy(part, tmp_path)
    with inside(tmp_path):
        shutil.copytree(FROZEN / "models" / "plain", "plain")
        assert vit_custom(PREDICT) == 0, capsys.readouterr().err
    assert "24 images, 7 of them from before, 0 failed" in capsys.readouterr().out
    frozen, now = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (FROZEN / "predict" / "expected.jsonl", tmp_path / "predictions.jsonl")
    )
    assert [line["path"] for line in now] == [line["path"] for line in frozen]
    for before, after in zip(frozen, now, strict=True):
        for wanted, found in zip(before["predictions"], after["predictions"], strict=True):
            assert found["label"] == wanted["label"] and found["score"] == pytest.approx(wanted["score"], abs=1e-4)


# ---------- published trees


@pytest.mark.slow
def test_every_kind_of_folder_can_be_trained_from(tmp_path, capsys):
    """Guards the files that `train --model_name_or_path` reads from each kind of folder."""
    write_digits(tmp_path)
    short = [*RUN[:-2], "--max_steps", "1", "--save_strategy", "no", "--eval_strategy", "no"]
    with inside(tmp_path):
        for name in ("plain", "lora", "half", "converted", "pretrained"):
            start = ["--model_name_or_path", str(FROZEN / "models" / name), "--image_size", "8"]
            assert vit_custom(["train", *start, *short, "--output_dir", name]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_published_tree_is_verified_and_published_again_with_its_card(tmp_path, capsys):
    """Guards golden.json, the checks, the list of published files and the text of a card."""
    published = restored("published", tmp_path / "published")
    assert vit_custom(["verify", str(published), "--trust_remote_code"]) == 0, capsys.readouterr().out
    model = restored("models/plain", tmp_path / "plain")
    (model / "expected.json").unlink()
    for picture in published.glob("*.png"):
        shutil.copy(picture, model)
    capsys.readouterr()
    again = ["publish", str(model), "someone/digits", "--license", "apache-2.0", "--dry_run", "--trust_remote_code"]
    assert vit_custom(again) == 0, capsys.readouterr().err
    staged = Path(re.findall(r"staged, not uploaded: (.*)", capsys.readouterr().out)[0])
    try:
        files = {path.relative_to(staged / "model").as_posix() for path in (staged / "model").rglob("*.*")}
        assert not {path.relative_to(published).as_posix() for path in published.rglob("*.*")} - files
        cards = [(folder / "README.md").read_text() for folder in (published, staged / "model")]
    finally:
        shutil.rmtree(staged)
    said, says = (said_of(card) for card in cards)
    assert not [line for line in said if CORRECTED.get(line, line) not in says]


def said_of(card: str) -> list[str]:
    """Return the lines of a card without versions."""
    return [re.sub(r"\d+(\.\d+)+\S*", "VERSION", line) if "versions" in line else line for line in card.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["remote", "package"])
def test_a_repositorys_code_works_beside_a_newer_package(tmp_path, first):
    """Guards Auto classes, pipelines and saving: two versions in one process do not replace each other.

    Once the package is imported, its classes load the repository even if the repository's code is trusted, because
    transformers prefers registered classes.
    """
    newer = tmp_path / "newer" / "modeling_vit_custom"
    shutil.copytree(ROOT / "modeling_vit_custom", newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "_version.py").write_text('__version__ = "9.9.9"\n')
    published = restored("published", tmp_path / "published")
    command = [
        sys.executable,
        "-P",
        Path(__file__).parent / "support" / "frozen_together.py",
        first,
        published,
        tmp_path / "out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(newer.parent), "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    golden = json.loads((published / "golden.json").read_text())
    for name, output in printed.items():
        assert output["logits"] == pytest.approx(golden["logits"]["torchvision"][0], abs=1e-3)
        assert output["best"]["label"] == golden["pipeline"][0][0]["label"]
        own = name == "remote" and first == "remote"
        root = "transformers_modules" if own else "modeling_vit_custom"
        assert {module.split(".")[0] for module in output["modules"]} == {root}
        source = published if own else newer
        saved = list((tmp_path / "out" / name).glob("*.py"))
        assert saved and all(path.read_bytes() == (source / path.name).read_bytes() for path in saved)
