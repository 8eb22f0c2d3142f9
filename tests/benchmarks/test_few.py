"""Few images: which images are drawn, what is measured, and that a finished row is not run again."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_digits import write_class_folder
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig, ViTCustomImageProcessor, ViTCustomModel
from modeling_vit_custom.benchmarks import few, few_methods, measured
from modeling_vit_custom.benchmarks.few_data import Picture, draw, read_parts, subset, write_pictures
from modeling_vit_custom.benchmarks.few_methods import Job, Ran, as_typed, last_lines
from modeling_vit_custom.benchmarks.few_table import table
from modeling_vit_custom.commands.benchmark import main

USED = {"cpu_seconds": 90.0, "seconds": 120.0, "memory_mb": 500.0}


def pictures(label: str, count: int, first: int = 0) -> list[Picture]:
    return [Picture(label, np.full((2, 2), first + i, np.uint8)) for i in range(count)]


def digests(drawn: list[Picture]) -> list[bytes]:
    return [picture.digest for picture in drawn]


# ---------- images


def test_a_seed_decides_what_is_drawn():
    pool = pictures("a", 30) + pictures("b", 4, first=100)
    drawn = draw(pool, 5, 0)
    assert [picture.label for picture in drawn] == ["a"] * 5 + ["b"] * 4, "a class with fewer images gives all of them"
    assert digests(drawn) == digests(draw(pool, 5, 0)) and digests(drawn) != digests(draw(pool, 5, 1))
    assert set(digests(drawn)) <= set(digests(draw(pool, 10, 0))), "a larger draw contains the smaller one"
    assert len(draw(pool, None, 0)) == len(pool) == len({*digests(draw(pool, None, 0))})


def test_the_test_images_are_always_the_same_and_in_proportion():
    test = pictures("a", 60) + pictures("b", 31, first=100) + pictures("c", 9, first=200)
    chosen = subset(test, 10)
    assert [sum(picture.label == label for picture in chosen) for label in "abc"] == [6, 3, 1]
    assert digests(chosen) == digests(subset(test, 10)) and digests(subset(test, 100)) == digests(test)


def test_no_image_is_in_two_places(tmp_path):
    """An image that is in both parts or under two labels would be refused, or would improve the figures."""
    write_class_folder(tmp_path / "train", {"0": 8, "1": 8})
    write_class_folder(tmp_path / "test", {"0": 4, "1": 4}, first=6)
    (tmp_path / "train" / "1" / "copy.png").write_bytes((tmp_path / "train" / "0" / "1.png").read_bytes())
    pool, test = read_parts("digits", str(tmp_path))
    assert len(test) == 8 and len(pool) == 12, "4 train images are test images too, 1 is a copy"
    assert not {*digests(pool)} & {*digests(test)} and len({*digests(pool)}) == len(pool)
    assert pool[0].grey


def test_a_data_set_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match="no images for test and train"):
        read_parts("bccd", str(tmp_path))


def test_cells_are_cut_out_of_photographs(tmp_path):
    """The folder has the form of Pascal VOC, with boxes that are too small, leave the photograph or have an unknown
    class."""
    boxes = {
        "train": [("RBC", (10, 20, 30, 50)), ("WBC", (1, 1, 8, 40)), ("Dust", (0, 0, 20, 20))],
        "val": [("Platelets", (-3, 0, 9, 8)), ("WBC", (90, 60, 130, 90))],
        "test": [("RBC", (40, 40, 60, 60))],
    }
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for number, (part, objects) in enumerate(boxes.items()):
        pixels = np.arange(80 * 100, dtype=np.uint32).reshape(80, 100) * (number + 1) % 251
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "JPEGImages" / f"{part}_1.jpg")
        items = [
            f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
            f"<ymax>{box[3]}</ymax></bndbox></object>"
            for name, box in objects
        ]
        (tmp_path / "Annotations" / f"{part}_1.xml").write_text(f"<annotation>{''.join(items)}</annotation>")
        (tmp_path / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{part}_1\n")
    pool, test = read_parts("bccd", str(tmp_path))
    shapes = [(picture.label, picture.data.shape) for picture in pool]
    assert shapes == [("RBC", (30, 20, 3)), ("Platelets", (8, 9, 3)), ("WBC", (20, 10, 3))]
    photograph = np.asarray(Image.open(tmp_path / "JPEGImages" / "test_1.jpg").convert("RGB"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(test[0].encoded()))), photograph[40:60, 40:60])
    write_pictures(test, tmp_path / "out")
    assert [path.name for path in tmp_path.glob("out/RBC/*")] == ["00000.png"]


# ---------- rows


@pytest.fixture
def digits(tmp_path):
    write_class_folder(tmp_path / "digits" / "train", {"0": 12, "1": 12})
    write_class_folder(tmp_path / "digits" / "test", {"0": 8, "1": 8}, first=20)
    return tmp_path / "digits"


@pytest.fixture
def pretended(monkeypatch):
    """Keep the commands instead of running them; each reports that half of the images were right."""
    commands: list[list[str]] = []

    def run(command, folder):
        commands.append(command)
        train, test = (command[command.index(name) + 1] for name in few_flags(command))
        assert len(list(Path(train).glob("*/*"))) == 6 and len(list(Path(test).glob("*/*"))) == 12
        return Ran(0, USED, '{"accuracy": 0.5}\n', "")

    def few_flags(command):
        return ("--train", "--test") if "--train" in command else ("--train_dir", "--test_dir")

    monkeypatch.setattr(few, "run", run)
    monkeypatch.setattr(few, "export_for_timm", lambda *_: Ran(0, USED, "", ""))
    return commands


def flags_of(digits: Path, output: Path | None, *more: str) -> list[str]:
    """Return flags of `benchmark few` with three digits of each class, and a checkpoint file that is never read."""
    checkpoint = digits.parent / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    flags = ["few", "--data", f"digits={digits}", "--rows", "digits:3", "--test_images", "12", *more]
    return [*flags, "--checkpoint", str(checkpoint), *(["--output", str(output)] if output else [])]


def test_a_row_that_is_there_is_not_run_again(digits, tmp_path, pretended, capsys, monkeypatch):
    flags = flags_of(digits, tmp_path / "r.json", "--draws", "2", "--methods", "knn", "lora", "default")
    assert main(flags) == 0 and len(pretended) == 5, "knn and default have two draws, lora has one"
    before = (tmp_path / "r.json").read_bytes()
    assert main(flags) == 0 and len(pretended) == 5 and (tmp_path / "r.json").read_bytes() == before
    assert main([*flags, "--draws", "3"]) == 0 and len(pretended) == 7
    capsys.readouterr()
    assert main(["few", "--table", str(tmp_path / "r.json")]) == 0
    assert "| digits | 3 | 50.0 (25.4–74.6), 90 s |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*flags, "--size", "64"])
    assert "rows of another size" in capsys.readouterr().err and len(pretended) == 7


def test_a_row_tells_what_was_measured_without_paths(digits, tmp_path, pretended):
    main(flags_of(digits, tmp_path / "r.json", "--draws", "1", "--methods", "features_once"))
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row[name] for name in ("data", "images", "method", "draw")] == ["digits", 3, "features_once", 0]
    # Wilson's interval at one half: 0.5 ± z / (2 √(n + z²)), here 0.98 / √15.8416 = 0.246222
    assert row["interval"] == pytest.approx([0.5 - 0.246222, 0.5 + 0.246222], abs=1e-6)
    assert (row["train_images"], row["test_images"], row["cpu_seconds"]) == (6, 12, 90.0)
    assert row["command"][:4] == ["vit-custom", "train", "--method", "fitted_head"]
    assert row["torch"] and row["device"] and str(tmp_path) not in (tmp_path / "r.json").read_text()


def test_a_run_that_is_cut_off_leaves_whole_rows(digits, tmp_path, pretended, monkeypatch):
    """An interrupted benchmark must not lose hours of work: the file is replaced as a whole after each row."""
    file, replace, run = tmp_path / "r.json", os.replace, few.run
    flags = flags_of(digits, file, "--draws", "3", "--methods", "knn")

    def watched(source, target):
        if Path(target) == file:
            held = len(json.loads(file.read_text())["rows"]) if file.is_file() else 0
            assert held == len(pretended) - 1, "the file must be whole until it is replaced"
        replace(source, target)

    def cut_off(command, folder):
        if len(pretended) == 2:
            raise KeyboardInterrupt
        return run(command, folder)

    monkeypatch.setattr(os, "replace", watched)
    monkeypatch.setattr(few, "run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        main(flags)
    assert [row["draw"] for row in json.loads(file.read_text())["rows"]] == [0, 1]
    monkeypatch.setattr(few, "run", run)
    assert main(flags) == 0 and len(pretended) == 3


def test_a_row_that_failed_says_so_and_is_run_again(digits, tmp_path, pretended, capsys, monkeypatch):
    flags = flags_of(digits, tmp_path / "r.json", "--draws", "1", "--methods", "full")
    run = few.run
    words = "50%|██\r100%|████\nno such flag\n  in /home/someone/photos/a b.png and micro/4\n"
    monkeypatch.setattr(few, "run", lambda *_: Ran(2, USED, "", words))
    assert main(flags) == 1
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert row["failed"] == 2 and row["stderr"] == ["100%|████", "no such flag", "in a b.png and micro/4"]
    assert "| digits | 3 | failed |" in capsys.readouterr().out
    monkeypatch.setattr(few, "run", run)
    assert main(flags) == 0 and len(pretended) == 1
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert "failed" not in row and row["accuracy"] == 0.5


def test_others_get_the_time_of_the_default(digits, tmp_path, pretended):
    main(flags_of(digits, None, "--draws", "1", "--methods", "timm", "scratch", "default"))
    default, scratch, timm = pretended
    assert "--method" not in default and scratch[scratch.index("--max_minutes") + 1] == "2.00"
    assert "num_channels=1" in scratch and timm[timm.index("--cpu_seconds") + 1] == "90"
    pretended.clear()
    main(flags_of(digits, None, "--draws", "1", "--methods", "timm", "scratch"))
    assert "5.00" in pretended[0] and "600" in pretended[1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--rows", "birds:3"], "name its folder by --data birds=FOLDER"),
        (["--rows", "digits:0"], "a number of images a class or all"),
        (["--data", "digits"], "not NAME=FOLDER"),
        (["--checkpoint", "nowhere"], "no folder with model.safetensors"),
    ],
)
def test_what_cannot_be_run_is_said_first(digits, pretended, capsys, wrong, said):
    with pytest.raises(SystemExit):
        main([*flags_of(digits, None), *wrong])
    assert said in capsys.readouterr().err and not pretended


def test_all_that_a_command_starts_is_counted(tmp_path):
    work = "import time; n = time.process_time()\nwhile time.process_time() < n + {}: pass"
    more = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work.format(0.2)!r}])"
    ran = few_methods.run([sys.executable, "-c", f"{more}\n{work.format(0.2)}\nprint(1); sys.exit(3)"], tmp_path)
    assert ran.code == 3 and ran.stdout == "1\n"
    assert 0.4 < ran.used["cpu_seconds"] < 2 and ran.used["seconds"] > 0.3
    assert 2 < ran.used["memory_mb"] < 60, "must be the peak of the command, not of this process"


def test_a_row_that_is_given_up_ends_its_command(tmp_path):
    line = [sys.executable, measured.__file__, str(tmp_path / "used"), sys.executable, "-c"]
    text = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([*line, text], stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGKILL and (tmp_path / "used").is_file()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_command_is_recorded_as_a_user_would_type_it(tmp_path):
    job = Job("d", *(tmp_path / name for name in ("train", "test", "o")), "/m/s14", tmp_path / "t", 112, False, None)
    typed = {name: " ".join(as_typed(method(job))) for name, method in few_methods.METHODS.items()}
    folders = "--train_dir train --test_dir test --output_dir o"
    assert typed["default"] == f"vit-custom train --model_name_or_path s14 --image_size 112 {folders}"
    assert typed["auto"].startswith("vit-custom train auto --max_minutes 5 --model_name_or_path s14")
    assert typed["scratch"].startswith(
        "vit-custom train fashion_mnist --variant micro/4 --config_overrides num_channels=3"
    )
    assert typed["knn"].startswith("python -m modeling_vit_custom.commands.few_peers knn --train train --test test")
    assert last_lines("a\n\nb /x/y/z.py: c") == ["a", "b z.py: c"]


def test_the_table_pairs_draws():
    def row(method, draw, accuracy, cpu, **more):
        cell = {"data": "d", "images": 5, "method": method, "draw": draw, "test_images": 100}
        return cell | {"accuracy": accuracy, "cpu_seconds": cpu} | more

    rows = [
        row("logistic_regression", 0, 0.70, 10.0), row("logistic_regression", 1, 0.80, 30.0),
        row("features_once", 0, 0.74, 10.0), row("features_once", 1, 0.82, 20.0), row("features_once", 2, 0.1, 9.0),
        row("default", 0, 0.73, 50.0), {"data": "d", "images": 5, "method": "default", "draw": 1, "failed": 2},
    ]  # fmt: skip
    head, _, line = (text.split(" | ") for text in table(rows, list(few_methods.METHODS)).splitlines())
    assert head[2:5] == ["logistic_regression", "features_once", "default"]
    assert line[2] == "75.0 (65.7–82.5), 20 s" and line[4] == "73.0 (63.6–80.7), 50 s, 1 failed"
    assert line[5:] == ["+3.0", "0.75", "-1.0 |"]


@pytest.mark.slow
def test_methods_run_for_real(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(few_methods, "CPU_SECONDS", 20.0)
    config = ViTCustomConfig(**TINY)
    ViTCustomModel(config).save_pretrained(tmp_path / "checkpoint")
    ViTCustomImageProcessor.for_model(config).save_pretrained(tmp_path / "checkpoint")
    methods = ["logistic_regression", "knn", "lora", "timm"]
    flags = ["--data", f"digits={digits}", "--rows", "digits:8", "--draws", "1", "--methods", *methods, "--size", "24"]
    output = tmp_path / "r.json"
    done = main(["few", *flags, "--checkpoint", str(tmp_path / "checkpoint"), "--output", str(output)])
    rows = json.loads(output.read_text())["rows"]
    assert done == 0, [row.get("stderr") for row in rows]
    assert [row["method"] for row in rows] == methods and "| digits | 8 |" in capsys.readouterr().out
    assert all(0 <= row["interval"][0] <= row["accuracy"] <= row["interval"][1] <= 1 for row in rows)
    assert all(row["cpu_seconds"] > 1 and row["memory_mb"] > 100 and row["test_images"] == 16 for row in rows)
    assert rows[3]["steps"] >= 1 and rows[3]["cpu_seconds"] < 60 and rows[1]["n_neighbors"] in (1, 3, 5)
