"""The resumable JSON-lines file, and strict JSON."""

import json
import math

import numpy as np
import pytest
from saved_models import save_ours

from modeling_vit_custom.common.fingerprint import fingerprint
from modeling_vit_custom.common.json_files import json_safe, readable_json, write_json
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.inference.resume import ResumableLines, ResumeError

IDENTITY = {"model": "m", "top_k": 5, "fingerprint": "abc"}


def line(path, **values):
    return json.dumps({"path": path, **values}) + "\n"


@pytest.fixture
def lines(tmp_path):
    """Write an output with the lines a and b under IDENTITY."""
    lines = ResumableLines(tmp_path / "out.jsonl")
    lines.open_run(IDENTITY, ["a", "b"], overwrite=False)
    lines.output.write_text(line("a", score=1) + line("b", score=2))
    return lines


def test_lines_of_output_and_parts_merge_in_input_order_and_the_last_one_counts(lines):
    lines.part(0, 0).write_text(line("d", score=4) + line("b", score=20))
    lines.part(1, 0).write_text(line("c", score=3))
    assert [part.name for part in lines.parts()] == ["out.jsonl.part-0000", "out.jsonl.part-0001"]
    assert lines.merge(["c", "b", "a", "d"]) == 0
    found = [json.loads(text) for text in lines.output.read_text().splitlines()]
    assert [(record["path"], record["score"]) for record in found] == [("c", 3), ("b", 20), ("a", 1), ("d", 4)]
    assert lines.parts() == []


@pytest.mark.parametrize("torn", ['{"path": "c", "sco', '{"path": "c", "score": 3}', "\0\0\0\0"])
def test_a_torn_last_line_does_not_count(lines, torn):
    lines.part(0, 0).write_text(line("d", score=4) + torn)
    assert set(lines.open_run(IDENTITY, ["a", "b", "c", "d"], overwrite=False)) == {"a", "b", "d"}


def test_a_new_run_never_writes_into_a_part_that_is_there(lines):
    assert lines.next_part() == 0
    lines.part(2, 0).write_text("")
    (lines.output.parent / "out.jsonl.part-old").write_text("a file of somebody else")
    assert lines.next_part() == 3


def test_merging_with_a_line_missing_is_refused_and_loses_nothing(lines):
    before = lines.output.read_text()
    with pytest.raises(ResumeError, match="1 images have no line, such as c"):
        lines.merge(["a", "b", "c"])
    assert lines.output.read_text() == before


@pytest.mark.parametrize(
    ("identity", "paths", "message"),
    [
        ({**IDENTITY, "fingerprint": "other"}, ["a", "b"], "weights differ"),
        ({**IDENTITY, "fingerprint": "other", "top_k": 3}, ["a", "b"], r"changed: top_k"),
        (IDENTITY, ["a"], "1 images that are not among the inputs, such as b"),
    ],
)
def test_an_output_of_something_else_is_not_continued(lines, identity, paths, message):
    before = lines.output.read_text()
    with pytest.raises(ResumeError, match=message):
        lines.open_run(identity, paths, overwrite=False)
    assert lines.output.read_text() == before and json.loads(lines.meta.read_text()) == IDENTITY
    assert lines.open_run(identity, paths, overwrite=True) == {}
    assert not lines.output.exists()


@pytest.mark.parametrize("meta", [None, "{", "[]", "null", '{"model": "m"}'])
def test_an_output_of_unknown_origin_is_not_continued(lines, meta):
    lines.meta.unlink() if meta is None else lines.meta.write_text(meta)
    with pytest.raises(ResumeError, match=r"origin is unknown|is damaged"):
        lines.open_run(IDENTITY, ["a", "b"], overwrite=False)


@pytest.mark.parametrize("damage", ["no json\n", "[1]\n", '{"score": 1}\n'])
def test_a_line_that_is_no_prediction_is_named(lines, damage):
    lines.output.write_text(line("a") + damage + line("b"))
    with pytest.raises(ResumeError, match=r"out\.jsonl, line 2 is no prediction"):
        lines.open_run(IDENTITY, ["a", "b"], overwrite=False)


def test_the_fingerprint_is_that_of_what_is_computed(tmp_path):
    one = load_classifier(str(save_ours(tmp_path / "one")))
    moved = load_classifier(str(save_ours(tmp_path / "moved")))
    other = load_classifier(str(save_ours(tmp_path / "other", seed=1)))
    renamed = load_classifier(str(save_ours(tmp_path / "renamed", id2label={i: f"digit {i}" for i in range(10)})))
    settings = {"top_k": 5}
    assert fingerprint(*one, settings) == fingerprint(*moved, settings)
    assert fingerprint(*one, settings) != fingerprint(*other, settings)
    assert fingerprint(*one, settings) != fingerprint(*renamed, settings)
    assert fingerprint(*one, settings) != fingerprint(*one, {"top_k": 4})
    one[0].config.speeds = {"2x": {"token_merging": "2x"}}  # the available speeds
    assert fingerprint(*one, settings) == fingerprint(*moved, settings)
    one[0].config.token_merging = "2x"  # the chosen speed
    assert fingerprint(*one, settings) != fingerprint(*moved, settings)
    one[0].config.token_merging = None
    one[1].image_mean = [0.1]
    assert fingerprint(*one, settings) != fingerprint(*moved, settings)


def test_json_is_strict_and_a_table_row_is_a_line(tmp_path):
    value = {
        "nan": math.nan,
        "table": [{"id": np.int64(0), "f1": np.float32(0.5)}, {"id": 1, "f1": -math.inf}],
        "matrix": np.arange(4).reshape(2, 2),
        "empty": [],
        "name": 'é "[1,  2]"',
    }
    text = write_json(tmp_path / "new" / "file.json", value).read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == {
        "nan": None,
        "table": [{"id": 0, "f1": 0.5}, {"id": 1, "f1": None}],
        "matrix": [[0, 1], [2, 3]],
        "empty": [],
        "name": 'é "[1,  2]"',
    }
    assert '    {"id": 0, "f1": 0.5},\n' in text and "    [0, 1],\n" in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.json"]
    assert json_safe((1, "ab")) == [1, "ab"]
    with pytest.raises(ValueError, match="JSON"):
        readable_json([math.nan])
