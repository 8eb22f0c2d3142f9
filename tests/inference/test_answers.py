"""What `predict` shows and writes: short answers on the screen, CSV, standard input and output, patterns."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from real_digits import write_digit
from saved_models import save_ours

from modeling_vit_custom.commands.predict import main
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.processes import Processes
from modeling_vit_custom.inference.answers import csv_columns, csv_line, csv_row, json_line, shown
from modeling_vit_custom.inference.inputs import expanded, find_images
from modeling_vit_custom.inference.lines import output_lines
from modeling_vit_custom.inference.predict import predict

ROOT = Path(__file__).parents[2]
NAMES = {0: "Köln 🏛️", 1: "猫", 2: "می\u200cروم"}  # with a joiner, which belongs to the Persian word


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("models") / "ours", num_labels=3, id2label=NAMES)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in (1, 2, 10):
        write_digit(tmp_path / "photos" / f"größe {n}.png", n % 10)
    return Path("photos")


def run(*arguments):
    return main([str(argument) for argument in arguments])


def read(output):
    return [json.loads(line) for line in Path(output).read_text(encoding="utf-8").splitlines()]


def test_one_image_s_answer_is_shown_and_written(model, photos, capsys):
    assert run("--model", model, photos / "größe 1.png") == 0
    (record,) = read("predictions.jsonl")
    wanted = [(entry["label"], f"{entry['score']:.2f}") for entry in record["predictions"]]
    said = capsys.readouterr().out.splitlines()
    assert [tuple(line.rsplit(maxsplit=1)) for line in said[:3]] == wanted and len({len(line) for line in said[:3]}) < 3
    assert said[3:] == ["1 images, 0 failed", "wrote predictions.jsonl"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_another_image_is_answered_though_the_default_output_holds_others(model, photos, capsys, kind):
    flags = ("--model", model, "--format", kind)
    assert run(*flags, photos / "größe 1.png") == 0
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    capsys.readouterr()
    assert run(*flags, photos / "größe 2.png") == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and said[-1].startswith(f"not written, predictions.{kind} holds other answers and stays")
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    assert run(*flags, photos / "größe 2.png", "--output", f"predictions.{kind}") == 2, "a file that was named"
    assert "Give another --output" in capsys.readouterr().err
    assert run(*flags, photos / "größe 2.png", "missing.png") == 1
    assert "missing.png: there is no such file" in capsys.readouterr().err


def test_few_images_have_a_line_each_and_many_a_summary_alone(model, photos, capsys):
    assert run("--model", model, photos, "--top_k", 2) == 0
    said = capsys.readouterr().out.splitlines()
    for line, record in zip(said, read("predictions.jsonl"), strict=False):
        answer = ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in record["predictions"])
        assert line.split(maxsplit=2)[2] == answer and line.startswith(record["path"])
    assert len(said) == 5
    for n in range(11):
        write_digit(photos / f"{n}.png", n % 10)
    assert run("--model", model, photos, "--output", "many.jsonl") == 0
    assert capsys.readouterr().out.splitlines() == ["14 images, 0 failed", "wrote many.jsonl"]


def test_a_wrong_path_says_why_and_the_exit_code_that_an_image_failed(model, photos, capsys):
    assert run("--model", model, photos, "typo.png") == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("predict: typo.png: ") and "4 images, 1 failed" in said.out
    assert "größe 1.png" in said.out, "the others are answered"
    assert run("--model", model, *(f"{n}.png" for n in range(12)), "--overwrite") == 1
    said = capsys.readouterr()
    assert said.err.count("there is no such file") == 10 and "grep '\"error\"' predictions.jsonl" in said.out


def test_lines_are_readable_and_read_back(model, photos):
    run("--model", model, photos)
    text = Path("predictions.jsonl").read_text(encoding="utf-8")
    assert "größe 10.png" in text and all(name in text for name in NAMES.values())


@pytest.mark.parametrize(
    "name", ["größe 猫 🏛️", "a\u202eb", "cut \udcff", "\x1b]0;\x07\x7f\x9b", "\u2028", "\U000e0041"]
)
def test_what_steers_a_line_or_is_no_text_is_escaped_in_json(name):
    line = json_line({"path": name, "predictions": [{"label": name, "score": 0.5}]})
    assert json.loads(line)["path"] == name and line.encode("utf-8") and len(line.splitlines()) == 1
    assert (name in line) == (name == "größe 猫 🏛️")


def test_lines_that_were_escaped_by_earlier_versions_are_continued(model, photos, capsys):
    run("--model", model, photos)
    now = Path("predictions.jsonl").read_text(encoding="utf-8")
    Path("predictions.jsonl").write_text("".join(json.dumps(json.loads(line)) + "\n" for line in now.splitlines()))
    write_digit(photos / "größe 11.png", 1)
    assert run("--model", model, photos) == 0
    assert "4 images, 3 of them from before, 0 failed" in capsys.readouterr().out
    assert read("predictions.jsonl")[:3] == [json.loads(line) for line in now.splitlines()]


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_what_json_lines_hold(model, photos, capsys):
    run("--model", model, photos, 'gone, or "not".png', "--top_k", 2)
    capsys.readouterr()
    assert run("--model", model, photos, 'gone, or "not".png', "--top_k", 2, "--format", "csv") == 1
    assert "wrote predictions.csv" in capsys.readouterr().out
    table, records = rows(Path("predictions.csv").read_text(encoding="utf-8")), read("predictions.jsonl")
    assert list(table[0]) == ["path", "label", "score", "label_2", "score_2", "error"]
    for row, record in zip(table, records, strict=True):
        assert row["path"] == record["path"] and row["error"] == record.get("error", "")
        for end, entry in zip(("", "_2"), record.get("predictions", ()), strict=False):
            assert row[f"label{end}"] == entry["label"] and float(row[f"score{end}"]) == entry["score"]
    assert table[-1]["label"] == "" and table[-1]["error"]


def test_a_csv_file_is_continued_and_no_stranger_is_replaced(model, photos, capsys):
    assert run("--model", model, photos, "--output", "p.csv", "--format", "csv") == 0
    before = Path("p.csv").read_text(encoding="utf-8").splitlines()
    write_digit(photos / "größe 11.png", 1)
    assert run("--model", model, photos, "--output", "p.csv", "--format", "csv") == 0
    assert "3 of them from before" in capsys.readouterr().out
    assert Path("p.csv").read_text(encoding="utf-8").splitlines()[:-1] == before
    Path("mine.csv").write_text("name,age\n")
    assert run("--model", model, photos, "--output", "mine.csv", "--format", "csv") == 2
    assert "its origin is unknown" in capsys.readouterr().err and Path("mine.csv").read_text() == "name,age\n"
    assert run("--model", model, photos, "--output", "mine.csv", "--format", "csv", "--overwrite") == 0
    assert run("--model", model, photos, "--output", "e.csv", "--format", "csv", "--embeddings") == 2
    assert "give --format jsonl" in capsys.readouterr().err


def test_numbers_have_a_column_and_a_line_each():
    entries = [{"label": "age", "value": 31.25}, {"label": "height", "value": 1.0 / 3}]
    columns = csv_columns(entries)
    assert columns == ["path", "age", "height", "error"] and len(csv_columns([])) == 4
    record = {"path": "a\n.png", "predictions": entries}
    assert rows(csv_line(columns) + csv_row(record, columns))[0]["height"] == str(1 / 3)
    assert len((csv_line(columns) + csv_row(record, columns)).splitlines()) == 2
    assert list(shown([record])) == ["age     31.25", "height  0.3333"]


def started(words, given=b"", cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), *map(str, words)]
    environment["PYTHONIOENCODING"] = "ascii"  # the lines are UTF-8 all the same
    return subprocess.run(command, input=given, env=environment, cwd=cwd, capture_output=True, timeout=120)


def test_names_come_in_and_lines_go_out_in_a_pipe(model, photos, tmp_path):
    """What stands on standard output is lines alone, equal to those of a file."""
    names = ["photos/größe 10.png", "photos/größe 1.png", "photos/*.png"]
    (photos / "*.png").write_bytes((photos / "größe 2.png").read_bytes())
    done = started(["--model", model, "-", "gone.png", "--output", "-"], "\n".join(names).encode() + b"\n\n", tmp_path)
    assert done.returncode == 1, done.stderr
    records = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert [record["path"] for record in records] == [*names, "gone.png"]
    assert b"predict: gone.png: " in done.stderr and b"4 images, 1 failed" in done.stderr
    assert "größe" in done.stdout.decode("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"], "nothing is kept"
    run("--model", model, *names, "gone.png", "--output", tmp_path / "file.jsonl")
    assert read(tmp_path / "file.jsonl") == records


def test_csv_goes_to_standard_output_too(model, photos, capfdbinary):
    assert run("--model", model, photos, "--format", "csv", "--output", "-") == 0
    found = rows(capfdbinary.readouterr().out.decode("utf-8"))
    assert [row["path"] for row in found] == [f"photos/größe {n}.png" for n in (1, 2, 10)]
    assert {row["label"] for row in found} <= {*NAMES.values()}


def test_a_reader_that_goes_away_is_a_sentence(model, photos, monkeypatch, capsys):
    def closed(_):
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", SimpleNamespace(buffer=SimpleNamespace(write=closed), flush=lambda: None))
        patch.setattr(sys.stdout, "fileno", lambda: os.open(os.devnull, os.O_WRONLY), raising=False)
        assert run("--model", model, photos, "--output", "-") == 2
    assert "predict: standard output was closed before all lines were written" in capsys.readouterr().err


def test_standard_output_is_for_one_process():
    with pytest.raises(UsageError, match="--output - is for one process, here are 2: name a file"):
        output_lines("-", "jsonl", 2)


def test_patterns_are_expanded_but_a_file_of_that_name_comes_first(photos):
    def found(*inputs):
        return [Path(path).name for path in find_images(inputs)[0]]

    assert found("photos/*.png") == [f"größe {n}.png" for n in (1, 2, 10)] == found("**/*.png") == found("photo?")
    assert found("photos/größe [12].png") == ["größe 1.png", "größe 2.png"]
    write_digit(photos / "größe [12].png", 1)
    assert found("photos/größe [12].png") == ["größe [12].png"]
    assert found("photos/*.jpg") == ["*.jpg"], "its line says that it is missing"
    assert found("http://nowhere/a.png?size=2") == ["a.png?size=2"]


def test_standard_input_that_holds_no_names_is_refused(monkeypatch, photos):
    def given(read):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(read)))
        return list(expanded(["-"]))

    assert given(b"a.png\r\n\nb c.png") == ["a.png", "b c.png"]
    with pytest.raises(ValueError, match="give it file names, one a line"):
        given((photos / "größe 1.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    with pytest.raises(ValueError, match="no images in standard input"):
        find_images(["-"])


def test_a_summary_in_python_holds_the_first_answers_and_failures(model, photos):
    summary = predict(str(model), ["photos", "gone.png"], "p.jsonl", embeddings=True, processes=Processes())
    assert [Path(record["path"]).name for record in summary.answers][-1] == "gone.png" and len(summary.answers) == 4
    assert summary.failures == summary.answers[-1:] and all("embedding" not in record for record in summary.answers)
