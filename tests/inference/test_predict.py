"""Prediction of image files: every file gets a line, in order, whatever happens meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import without_plugins
from PIL import Image
from real_digits import write_class_folder, write_digit
from saved_models import save_ours, save_resnet, save_transformers_vit
from sklearn.datasets import load_sample_images
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.audit.files import unloaded_findings
from modeling_vit_custom.commands.predict import main
from modeling_vit_custom.data.folders import unread_sentence
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.data.sources import read_splits
from modeling_vit_custom.data.unlabelled import read_unlabelled
from modeling_vit_custom.inference.forward import PreparedImages
from modeling_vit_custom.inference.predict import find_images, predict

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "predict.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("models") / "ours")


@pytest.fixture
def photos(tmp_path):
    """Write real digits as PNG files named 1 to 12, two photographs, and three files that are not images."""
    folder = tmp_path / "photos"
    for n in range(1, 13):
        write_digit(folder / f"{n}.png", n % 10)
    for name, image in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(image).resize((160, 107)).save(folder / f"{name}.jpg")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not tried")
    return folder


def read(output):
    return [json.loads(line) for line in Path(output).read_text().splitlines()]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_every_image_gets_a_line_in_natural_order_and_bad_files_say_why(model, photos, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    assert run("--model", model, photos, tmp_path / "missing.png", "--output", output, "--batch_size", 4) == 1
    records = read(output)
    names = [Path(record["path"]).name for record in records]
    assert names[:12] == [f"{n}.png" for n in range(1, 13)]
    assert names[12:] == ["china.jpg", "empty.png", "flower.jpg", "text.jpg", "missing.png"]
    failed = {Path(r["path"]).name: r["error"] for r in records if "error" in r}
    assert set(failed) == {"empty.png", "text.jpg", "missing.png"}
    assert all(name in error for name, error in failed.items())
    assert all(("error" in record) != ("predictions" in record) for record in records)
    printed = capsys.readouterr().out
    assert "17 images, 3 failed" in printed and str(output) in printed
    assert "1 of 17 files are hidden or no images by name" in printed


def test_scores_are_those_of_the_model(model, photos, tmp_path):
    run("--model", model, photos / "3.png", photos / "china.jpg", "--output", tmp_path / "out.jsonl")
    classifier = AutoModelForImageClassification.from_pretrained(model).eval()
    processor = AutoImageProcessor.from_pretrained(model)
    for record in read(tmp_path / "out.jsonl"):
        with torch.no_grad():
            logits = classifier(processor(record["path"], return_tensors="pt")["pixel_values"]).logits[0]
        scores, ids = logits.softmax(-1).topk(5)
        assert [entry["label"] for entry in record["predictions"]] == [str(i) for i in ids.tolist()]
        assert [entry["score"] for entry in record["predictions"]] == pytest.approx(scores.tolist(), rel=1e-5)


def test_embeddings_are_the_pooler_output_to_the_last_bit(model, photos, tmp_path):
    run("--model", model, photos / "3.png", "--output", tmp_path / "out.jsonl", "--embeddings", "--top_k", 99)
    (record,) = read(tmp_path / "out.jsonl")
    assert len(record["predictions"]) == 10
    pixels = AutoImageProcessor.from_pretrained(model)(photos / "3.png", return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = ViTCustomModel.from_pretrained(model).eval()(pixels, pooled_only=True).pooler_output[0]
    np.testing.assert_array_equal(np.float32(record["embedding"]), expected.numpy())


def test_another_number_format(model, photos, tmp_path, capsys):
    scores = {}
    for dtype in ("float32", "bfloat16"):
        output = tmp_path / f"{dtype}.jsonl"
        assert run("--model", model, photos, "--output", output, "--dtype", dtype) == 1  # two are no images
        scores[dtype] = [record["predictions"][0]["score"] for record in read(output) if "predictions" in record]
    assert scores["bfloat16"] == pytest.approx(scores["float32"], abs=0.05)
    assert scores["bfloat16"] != scores["float32"]
    assert run("--model", model, photos, "--output", output, "--dtype", "float32") == 2
    assert "(changed: dtype)" in capsys.readouterr().err


def test_multi_label_scores_are_independent(photos, tmp_path):
    folder = save_ours(
        tmp_path / "m", problem_type="multi_label_classification", num_labels=2, id2label={0: "cat", 1: "dog"}
    )
    run("--model", folder, photos / "3.png", "--output", tmp_path / "out.jsonl")
    classifier = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(photos / "3.png", return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = classifier(pixels).logits[0].sigmoid().tolist()
    (record,) = read(tmp_path / "out.jsonl")
    scores = {entry["label"]: entry["score"] for entry in record["predictions"]}
    assert [scores["cat"], scores["dog"]] == pytest.approx(expected, rel=1e-5)


def test_a_regression_gives_values_in_the_order_of_its_targets(photos, tmp_path):
    folder = save_ours(
        tmp_path / "m", problem_type="regression", num_labels=3, id2label={0: "age", 1: "height", 2: "weight"}
    )
    run("--model", folder, photos / "3.png", "--output", tmp_path / "out.jsonl", "--top_k", 1)
    (record,) = read(tmp_path / "out.jsonl")
    assert [entry["label"] for entry in record["predictions"]] == ["age", "height", "weight"]
    assert all(set(entry) == {"label", "value"} for entry in record["predictions"])


def test_worker_processes_change_nothing(model, photos, tmp_path):
    run("--model", model, photos, "--output", tmp_path / "0.jsonl", "--batch_size", 3)
    run("--model", model, photos, "--output", tmp_path / "2.jsonl", "--batch_size", 3, "--num_workers", 2)
    assert read(tmp_path / "0.jsonl") == read(tmp_path / "2.jsonl")


def test_a_killed_loading_process_is_a_sentence(model, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PreparedImages, "__getitems__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert run("--model", model, photos, "--output", tmp_path / "o.jsonl", "--num_workers", 1) == 2
    assert "predict: a loading process is gone" in (said := capsys.readouterr().err) and "--num_workers" in said


def test_other_classifiers_work_too(photos, tmp_path, capsys):
    vit, resnet = save_transformers_vit(tmp_path / "vit"), save_resnet(tmp_path / "resnet")
    assert run("--model", vit, photos, "--output", tmp_path / "vit.jsonl") == 1
    assert run("--model", vit, photos, "--output", tmp_path / "no.jsonl", "--embeddings") == 2
    assert "gives no pooler_output" in capsys.readouterr().err
    # Photographs of another shape than the digits are in the same batch.
    assert run("--model", resnet, photos, "--output", tmp_path / "resnet.jsonl", "--embeddings") == 1
    records = [record for record in read(tmp_path / "resnet.jsonl") if "error" not in record]
    assert len(records) == 14 and all(len(record["embedding"]) == 16 for record in records)


def test_the_exit_code_says_when_it_could_not_be_done(model, photos, tmp_path, capsys):
    assert run("--model", model, photos / "text.jpg", "--output", tmp_path / "a.jsonl") == 1
    assert run("--model", tmp_path / "nowhere", photos, "--output", tmp_path / "b.jsonl") == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "void").mkdir()
    assert run("--model", model, tmp_path / "void", "--output", tmp_path / "c.jsonl") == 2
    assert "no images in" in capsys.readouterr().err
    assert run("--model", tmp_path / "void", photos, "--output", tmp_path / "d.jsonl") == 2
    assert "no config.json" in capsys.readouterr().err
    for wrong in (["--top_k", "0"], ["--batch_size", "-1"], ["--batch_size", "x"], ["--unknown"]):
        with pytest.raises(SystemExit) as stopped:
            run("--model", model, photos, *wrong)
        assert stopped.value.code == 2


def test_a_checkpoint_without_a_head_is_refused(photos, model, tmp_path, capsys):
    ViTCustomModel.from_pretrained(model).save_pretrained(tmp_path / "base")
    shutil.copy(model / "preprocessor_config.json", tmp_path / "base")
    assert run("--model", tmp_path / "base", photos, "--output", tmp_path / "out.jsonl") == 2
    assert "lacks weights an image classifier needs (classifier.bias" in capsys.readouterr().err


def test_a_checkpoint_without_labels_is_refused(photos, tmp_path, capsys):
    folder = save_ours(tmp_path / "m", num_labels=0)
    assert run("--model", folder, photos, "--output", tmp_path / "out.jsonl") == 2
    assert "has no labels" in capsys.readouterr().err


def test_nan_outputs_are_errors_not_scores(photos, tmp_path):
    folder = save_ours(tmp_path / "m")
    broken = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        broken.classifier.weight.fill_(3e38)  # finite, so that it loads; its logits overflow
    broken.save_pretrained(folder)
    assert run("--model", folder, photos / "3.png", "--output", tmp_path / "out.jsonl") == 1
    assert "NaN" in read(tmp_path / "out.jsonl")[0]["error"]


def test_images_as_narrow_as_they_have_channels_are_read(model, tmp_path):
    """Decoded they are [3, 4, 3], which would be ambiguous as an array from a user."""
    Image.new("RGB", (3, 4), "teal").save(tmp_path / "narrow.png")
    predict(str(model), [str(tmp_path / "narrow.png")], str(tmp_path / "out.jsonl"))
    assert "predictions" in read(tmp_path / "out.jsonl")[0]


def test_images_that_nothing_here_reads_get_a_line_too(photos, tmp_path, monkeypatch):
    """They are images by name, so leaving them out silently would lose them. All commands use the same sentence."""
    without_plugins(monkeypatch)
    (tmp_path / "in").mkdir()
    shutil.copy(photos / "2.png", tmp_path / "in")
    (tmp_path / "in" / "phone.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(200))
    paths, notes = find_images([str(tmp_path / "in")])
    assert [Path(path).name for path in paths] == ["2.png", "phone.HEIC"]
    sentence = unread_sentence(["phone.HEIC"])
    assert sentence == (
        "NOT READ HERE, 1 image(s) by name: phone.HEIC. Fix: pip install pillow-heif, or convert to JPEG or PNG."
    )
    assert notes == [f"{tmp_path / 'in'}: {sentence}"]
    assert find_images([paths[1]])[1] == [unread_sentence(paths[1:])]
    labelled, unlabelled = (read(Source(tmp_path))["train"] for read in (read_splits, read_unlabelled))
    for raw in (labelled, unlabelled):
        assert f"train: {unread_sentence(['in/phone.HEIC'])}" in raw.notes
    (lost,) = unloaded_findings({Path(paths[1]): tmp_path}, 1)
    assert lost.advice == unread_sentence(paths[1:])


def test_an_image_that_is_too_large_names_the_flag_that_lifts_the_limit(model, photos, tmp_path):
    assert run("--model", model, photos / "china.jpg", "--output", tmp_path / "out", "--max_pixels", 160 * 107 - 1) == 1
    assert "or raise --max_pixels if you trust it" in read(tmp_path / "out")[0]["error"]
    assert run("--model", model, photos / "china.jpg", "--output", tmp_path / "out", "--max_pixels", 160 * 107) == 0


def test_a_model_that_is_not_there_is_no_matter_of_the_network(photos, tmp_path, capsys):
    assert run("--model", "out/typo", photos / "2.png", "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "out/typo: no such folder" in said and "internet" not in said


def test_images_named_twice_are_predicted_once(photos):
    paths, notes = find_images([str(photos / "2.png"), str(photos), str(photos / "2.png")])
    assert paths.count(str(photos / "2.png")) == 1 and Path(paths[0]).name == "2.png" and len(paths) == 16
    assert any("2 images were named more than once" in note for note in notes)


def test_more_images_are_added_and_failed_ones_tried_again(model, photos, tmp_path):
    output = tmp_path / "out.jsonl"
    predict(str(model), [str(photos / "2.png"), str(photos / "text.jpg")], str(output))
    kept = output.read_text().splitlines()[0]
    shutil.copy(photos / "5.png", photos / "text.jpg")
    summary = predict(str(model), [str(photos)], str(output))
    assert (summary.images, summary.resumed, summary.failed) == (16, 1, 1)
    lines = output.read_text().splitlines()
    assert kept in lines and not any("error" in line and "text.jpg" in line for line in lines)


def test_an_output_never_mixes_two_models(model, photos, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    other = save_ours(tmp_path / "other", seed=1)
    assert run("--model", model, photos, "--output", output) == 1
    before = output.read_text()
    assert run("--model", other, photos, "--output", output) == 2
    assert "another model or settings" in capsys.readouterr().err
    assert run("--model", model, photos, "--output", output, "--top_k", 2) == 2
    assert output.read_text() == before
    assert run("--model", other, photos, "--output", output, "--overwrite") == 1
    assert output.read_text() != before


def test_a_killed_run_is_continued_not_repeated(model, tmp_path):
    photos = write_class_folder(tmp_path / "photos", {str(d): 60 for d in range(10)})
    output = tmp_path / "out.jsonl"
    command = ["--model", str(model), str(photos), "--batch_size", "1"]
    part = tmp_path / "out.jsonl.part-0000"
    started = [sys.executable, str(SCRIPT), *command, "--output", str(output)]
    with subprocess.Popen(started, env=environment(), stderr=subprocess.DEVNULL) as process:
        while not (part.exists() and part.read_bytes().count(b"\n") >= 20):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not output.exists()

    # The mark shows that a finished line is kept; a line that was cut in the middle must be computed again.
    whole = part.read_bytes().splitlines(keepends=True)[:20]
    marked = whole[0].replace(b'"predictions"', b'"kept": true, "predictions"')
    part.write_bytes(b"".join([marked, *whole[1:]]) + whole[1][:30])

    summary = predict(str(model), [str(photos)], str(output), batch_size=1)
    assert (summary.images, summary.resumed, summary.failed) == (600, 20, 0)
    records = read(output)
    assert records[0].pop("kept")
    predict(str(model), [str(photos)], str(tmp_path / "whole.jsonl"), batch_size=1)
    assert records == read(tmp_path / "whole.jsonl")
    assert sorted(p.name for p in tmp_path.glob("out*")) == [
        "out.jsonl",
        "out.jsonl.images.npz",
        "out.jsonl.meta.json",
    ]


def launch(count, *arguments):
    """Run `accelerate launch` with `count` processes on the CPU; without --multi_gpu it would start one."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    command += ["--main_process_port", "0", SCRIPT, *arguments]
    return subprocess.run(
        [str(word) for word in command], env=environment(), capture_output=True, text=True, timeout=300
    )


def test_two_processes_write_what_one_writes(model, photos, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    shared = ["--model", model, photos, "--batch_size", 3, "--embeddings"]
    alone = subprocess.run(
        [str(word) for word in (sys.executable, SCRIPT, *shared, "--output", one)],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert alone.returncode == 1, alone.stderr  # two are no images
    # Lines that a killed run of three processes left are used.
    done = one.read_text().splitlines(keepends=True)
    shutil.copy(f"{one}.meta.json", f"{two}.meta.json")
    Path(f"{two}.part-0002").write_text(done[7] + done[4][:40])
    result = launch(2, *shared, "--output", two)
    assert result.returncode == 1, result.stderr
    assert "16 images by 2 processes, 1 of them from before, 2 failed" in result.stdout
    for one_record, two_record in zip(read(one), read(two), strict=True):
        assert one_record["path"] == two_record["path"] and one_record.keys() == two_record.keys()
        if "error" not in one_record:
            labels = [[entry["label"] for entry in r["predictions"]] for r in (one_record, two_record)]
            assert labels[0] == labels[1]
            np.testing.assert_allclose(two_record["embedding"], one_record["embedding"], rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.glob("two.jsonl.part-*"))


def test_two_processes_stop_together_with_one_message(model, photos, tmp_path):
    (tmp_path / "out.jsonl").write_text("")
    result = launch(2, "--model", model, photos, "--output", tmp_path / "out.jsonl")
    assert result.returncode != 0
    assert result.stderr.count("predict: ") == 1 and "its origin is unknown" in result.stderr


def test_help_shows_examples():
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0 and "examples:" in result.stdout and "--embeddings" in result.stdout
