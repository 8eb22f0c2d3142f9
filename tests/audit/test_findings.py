"""Each finding of the audit appears in a folder made for it, and not in a clean one."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_folders import put, tile, write_clean
from image_files import encode, rotated, without_plugins
from PIL import Image
from real_digits import write_class_folder
from torch.utils.data import get_worker_info

from modeling_vit_custom.audit.audit import audit, text_report
from modeling_vit_custom.audit.duplicates import duplicate_findings
from modeling_vit_custom.audit.files import imagefolder_splits, unloaded_findings
from modeling_vit_custom.audit.findings import ERROR, NOTE, SPLITS, WARNING, Catalogue
from modeling_vit_custom.audit.gate import audit_before_training
from modeling_vit_custom.audit.scan import scan_images
from modeling_vit_custom.commands.audit_data import main
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.common.text import visible
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.sources import read_splits
from modeling_vit_custom.data.targets import ClassIds


@pytest.fixture
def clean(tmp_path):
    return write_clean(tmp_path / "data")


def found(root, **options):
    """Return {code: finding} of an audit."""
    return {one.code: one for one in audit(root, **options).findings}


def test_a_clean_folder_gives_nothing(clean, capsys):
    result = audit(clean)
    assert result.findings == [] and result.sizes == {"train": 24, "validation": 6} and result.files == 30
    assert result.counts["train"] == {"china": 12, "flower": 12}
    assert main([str(clean), "--num_workers", "0"]) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out


# ---------- files


def test_every_file_on_disk_is_an_example_or_in_a_finding(clean, monkeypatch):
    without_plugins(monkeypatch)
    train = clean / "train"
    put(train / "stray.png", tile("china", 0))
    put(train / "china" / ".hidden.png", tile("china", 1))
    put(train / "china" / "phone.heic", b"\0" * 20)
    put(train / "china" / "IMG_0001", encode(tile("china", 2), "JPEG"))
    put(train / "china" / "notes.txt", b"notes")
    put(train / "more.zip", b"PK")
    put(clean / "README.md", b"about")
    put(clean / "outside.png", tile("china", 3))
    result = audit(clean)
    codes = {one.code: one for one in result.findings}
    expected = {
        "lost-images": (ERROR, 2), "classless-images": (WARNING, 2), "archives": (WARNING, 1),
        "hidden-files": (NOTE, 1), "other-files": (NOTE, 2),
    }  # fmt: skip
    assert {code: (one.severity, one.count) for code, one in codes.items()} == expected
    assert result.files == sum(result.sizes.values()) + sum(one.count for one in codes.values())
    assert "1 .heic" in codes["lost-images"].title
    few = {clean / "train" / "china" / "phone.heic": clean}
    assert [unloaded_findings(few, loaded)[0].severity for loaded in (98, 99)] == [ERROR, WARNING]  # above 1 %, at 1 %


def test_links_out_of_the_folder(clean, tmp_path):
    outside = put(tmp_path / "secret" / "x.png", tile("china", 0))
    (clean / "train" / "china" / "link.png").symlink_to(outside)
    (clean / "train" / "flower" / "circle").symlink_to(clean / "train")
    links = found(clean)["links"]
    assert (links.severity, links.count) == (ERROR, 2)
    assert found(clean, follow_links=True)["links"].count == 1  # only the circular link
    os.unlink(clean / "train" / "flower" / "circle")
    assert "links" not in found(clean, follow_links=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipes_keep_nobody_waiting(clean):
    for split, name in (("train", "pipe"), ("train", "pipe.png"), ("validation", "pipe.png")):
        os.mkfifo(clean / split / "china" / name)
    put(clean / "train" / "flower" / "empty.png", b"")
    codes = found(clean)
    assert codes["other-files"].count == 1
    assert codes["unreadable"].count == 3 and "it is no file" in codes["unreadable"].examples[0].text
    assert audit_before_training(read_splits(Source(clean)), "refuse") == []


def test_a_file_that_is_too_large_is_not_read(clean):
    with open(clean / "train" / "china" / "huge.png", "wb") as file:
        file.truncate(2**40)
    assert "refused before decoding: 1,099,511,627,776 bytes" in found(clean)["unreadable"].examples[0].text


def test_a_split_that_is_a_link_out_of_the_folder(clean, tmp_path):
    (clean / "validation").rename(tmp_path / "elsewhere")
    (clean / "validation").symlink_to(tmp_path / "elsewhere")
    codes = found(clean)
    assert codes["links"].severity == ERROR and "leads out" in codes["refused"].examples[0].text
    assert found(clean, follow_links=True) == {}


def test_split_words_as_datasets_reads_them(tmp_path):
    """The words are found in the same files as by `datasets` itself, in folder names, in file names and in neither."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    trees = [
        ["cat/train.png", "cat/0.png", "dog/test_1.png", "dog/contest.png", "dog/x validation.png", "dog/Train.png"],
        ["cat/test tube/0.png", "test_tube/1.png", "cat/1.png", "pre-training/2.png", "latest/3.png"],
        ["train/cat/0.png", "val/cat/1.png", "train/test_tube/2.png", "evaluation/x/3.png"],
        ["cat/0.png", "dog/1.png"],
        ["dev.d/0.png", "cat-dev-x/1.png", "devil/2.png"],
    ]
    for number, tree in enumerate(trees):
        root = tmp_path / str(number)
        for name in tree:
            put(root / name, tile("china", 0))
        try:
            files = DataFilesDict.from_patterns(get_data_patterns(str(root)), base_path=str(root))
        except EmptyDatasetError:
            files = {}
        theirs = {name: {str(s) for s, paths in files.items() if str(root / name) in paths} for name in tree}
        assert imagefolder_splits({name: name for name in tree}) == theirs, tree


def test_split_trap(tmp_path):
    root = tmp_path / "flat"
    for number in range(12):
        put(root / "china" / f"{number}.png", tile("china", 10 + number))
        put(root / "flower" / f"{number}.png", tile("flower", 10 + number))
    assert found(root) == {}
    (root / "china" / "0.png").rename(root / "china" / "test.png")
    trap = found(root)["split-words"]
    assert (trap.severity, trap.count) == (WARNING, 24)  # one image becomes the test split, and the others are dropped
    texts = [example.text for example in trap.examples]
    assert any("test.png: test, not train" in text for text in texts)
    assert any("11.png: left out" in text for text in texts)


def test_splits_beside_classes(clean):
    put(clean / "china" / "0.png", tile("china", 0))
    codes = found(clean)
    assert set(codes) == {"refused"} and codes["refused"].severity == ERROR
    assert "others beside them" in codes["refused"].examples[0].text


def test_splits_without_class_folders(tmp_path):
    for number in range(12):
        put(tmp_path / "train" / f"{number}.png", tile("china", number + 10))
        put(tmp_path / "test" / f"{number}.png", tile("flower", number + 10))
    trap = found(tmp_path)["classes-named-as-splits"]
    assert (trap.severity, trap.count) == (ERROR, 2)


# ---------- classes


def test_classes_missing_here_or_there(clean):
    put(clean / "train" / "only_train" / "0.png", tile("china", 0))
    put(clean / "validation" / "only_validation" / "0.png", tile("china", 1))
    (clean / "train" / "empty").mkdir()
    codes = found(clean)
    assert (
        codes["untrained-classes"].severity == ERROR
        and "only_validation" in codes["untrained-classes"].examples[0].text
    )
    assert codes["unmeasured-classes"].examples[0].text == "validation: only_train"
    assert codes["empty-classes"].examples[0].text.endswith("empty")
    assert codes["tiny-classes"].examples[0].text == "only_train: 1 image(s)"
    assert "12.0 times" in codes["imbalance"].title
    assert "refused" not in codes, "the classes have a finding already"


@pytest.mark.parametrize(
    ("name", "code", "severity"),
    [
        ("China", "look-alike-classes", WARNING),
        ("china_", "look-alike-classes", WARNING),
        ("china ", "class-names", ERROR),  # the label map would hold one name for both
        ("chi\u202ena", "class-names", ERROR),
        ("<script>", "class-names", ERROR),
        ("valid", "classes-named-as-splits", WARNING),
    ],
)
def test_class_names(clean, name, code, severity):
    for number in range(10):
        put(clean / "train" / name / f"{number}.png", tile("china", 25 + number))
    put(clean / "validation" / name / "0.png", tile("china", 0))
    codes = found(clean)
    assert codes[code].severity == severity and codes[code].count == 1
    assert set(codes) - {"split-words"} == {code}


def test_unicode_twins(clean):
    for number, name in enumerate(("caf\u00e9", "cafe\u0301")):
        for k in range(5):
            put(clean / "train" / name / f"{k}.png", tile("china", 25 + 5 * number + k))
        put(clean / "validation" / name / "0.png", tile("china", number))
    assert "same name" in found(clean)["class-names"].examples[0].text


# ---------- images

COMMON = (80, 80)
ODD = {
    "unreadable": (ERROR, "cut.jpg", encode(tile("flower", 4), "JPEG")[:900]),
    "blank": (WARNING, "blank.png", Image.new("RGB", COMMON, "navy")),
    "tiny-images": (WARNING, "tiny.png", tile("flower", 4, side=7)),
    "extreme-aspect": (WARNING, "wide.png", tile("flower", 4).resize((240, 48))),
    "size-outliers": (NOTE, "large.png", tile("flower", 4).resize((400, 400))),
    "animated": (
        WARNING,
        "film.webp",
        encode(tile("flower", 4), "WEBP", save_all=True, append_images=[tile("flower", 5)]),
    ),
    "transparent": (NOTE, "alpha.png", tile("flower", 4).convert("RGBA").rotate(10)),
    "grey-among-colour": (NOTE, "grey.png", tile("flower", 4).convert("L")),
    "palette": (NOTE, "palette.png", tile("flower", 4).convert("P")),
    "cmyk": (NOTE, "cmyk.jpg", tile("flower", 4).convert("CMYK")),
    "deep": (NOTE, "deep.png", Image.fromarray(np.asarray(tile("flower", 4).convert("L")).astype(np.uint16) * 257)),
    "exif-rotated": (NOTE, "lying.jpg", rotated(tile("flower", 4), "JPEG", 6)),
    "wrong-suffix": (NOTE, "called.png", encode(tile("flower", 4), "JPEG")),
}


@pytest.mark.parametrize("code", ODD)
def test_odd_images(clean, code):
    severity, name, content = ODD[code]
    path = put(clean / "train" / "flower" / name, content)
    codes = found(clean)
    assert set(codes) == {code}
    assert (codes[code].severity, codes[code].count) == (severity, 1) and str(path) in codes[code].examples[0].text


def write_deep(root, scale):
    for number, label in enumerate("abab"):
        grey = np.asarray(tile("flower", number).convert("L")).astype(np.uint16)
        grey[0, 0] = 255
        put(root / label / f"{number}.png", encode(Image.fromarray(grey * scale), "PNG"))


def test_12_bits_in_files_of_16_are_reported_before_training_too(tmp_path):
    write_deep(tmp_path / "dark", 16)
    codes = found(tmp_path / "dark")
    assert codes["deep-but-dark"].severity == WARNING and codes["deep-but-dark"].count == 4
    assert "only about 12 bits" in codes["deep-but-dark"].title and "times 16" in codes["deep-but-dark"].advice
    notes = audit_before_training(read_splits(Source(tmp_path / "dark")), "warn")
    assert "deep-but-dark" in [one.code for one in notes]
    write_deep(tmp_path / "whole", 257)
    assert "deep-but-dark" not in found(tmp_path / "whole")
    notes = audit_before_training(read_splits(Source(tmp_path / "whole")), "warn")
    assert "deep-but-dark" not in [one.code for one in notes]


def test_an_ordinary_jpeg_of_a_phone_is_not_misnamed(clean):
    """Phones write MPO files (a JPEG with a preview) and name them .jpg."""
    put(clean / "train" / "flower" / "phone.jpg", encode(tile("flower", 4), "MPO"))
    assert found(clean) == {}


# ---------- duplicates


def test_the_same_image_under_two_labels(clean):
    image = (clean / "train" / "china" / "00.png").read_bytes()
    put(clean / "train" / "flower" / "copy.png", image)
    conflict = found(clean)["label-conflict"]
    assert (conflict.severity, conflict.count) == (ERROR, 1) and len(conflict.examples[0].images) == 2
    assert "[train, china] = " in conflict.examples[0].text and "[train, flower]" in conflict.examples[0].text


def test_the_same_pixels_in_another_file(clean):
    with Image.open(clean / "train" / "china" / "00.png") as image:
        put(clean / "train" / "flower" / "copy.bmp", image)
    assert found(clean)["label-conflict"].count == 1


def test_the_same_image_in_two_splits(clean):
    put(clean / "validation" / "china" / "copy.png", (clean / "train" / "china" / "00.png").read_bytes())
    codes = found(clean)
    assert set(codes) == {"leak"} and codes["leak"].severity == ERROR and "14.3% of 7" in codes["leak"].title


def test_a_small_leak_is_a_warning_and_a_copy_in_one_split_a_note(tmp_path):
    write_class_folder(tmp_path / "train", {"0": 20, "1": 20})
    write_class_folder(tmp_path / "validation", {"0": 60, "1": 60}, first=100)
    for split, name in (("validation", "leak.png"), ("train", "again.png")):
        put(tmp_path / split / "0" / name, (tmp_path / "train" / "0" / f"{len(name) - 7}.png").read_bytes())
    codes = found(tmp_path)
    assert (codes["leak"].severity, codes["leak"].count) == (WARNING, 1)  # 1 of 121
    assert (codes["repeats"].severity, codes["repeats"].count) == (NOTE, 1)


@pytest.mark.parametrize("held_out", [0, 10])
def test_a_placeholder_in_place_of_thousands_of_images(held_out):
    """The time grows with the number of images, not of pairs."""
    n = 50_000
    splits = np.repeat([SPLITS.index("train"), SPLITS.index("validation")], [n - held_out, held_out])
    images = Catalogue([], [str(i) for i in range(n)], splits, ["a"] * n, ClassIds, not held_out)
    (one,) = duplicate_findings(images, [list(range(n))])
    assert (one.code, one.count) == ("leak", held_out or n - 1)


def test_copies_in_a_train_that_is_still_to_be_divided(clean):
    put(clean / "train" / "china" / "copy.png", (clean / "train" / "china" / "00.png").read_bytes())
    assert found(clean)["repeats"].severity == NOTE
    leak = found(clean / "train")["leak"]
    assert leak.severity == ERROR and "validation will be drawn from it" in leak.title


# ---------- tables, errors, output


def test_tables_and_several_sources(clean, tmp_path):
    rows = [
        [f"data/train/{name}/{number:02}.png", f"{name}|small" if number % 2 else name]
        for name in ("china", "flower")
        for number in range(12)
    ]
    with open(tmp_path / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "tags"], *rows])
    images = [{"bytes": path.read_bytes()} for path in sorted((clean / "validation").rglob("*.png"))]
    images.append({"bytes": (clean / "train" / "china" / "00.png").read_bytes()})
    labels = [["china", "small"]] * 3 + [["flower"]] * 3 + [["flower"]]
    pq.write_table(pa.table({"file": images, "tags": labels}), tmp_path / "val.parquet")
    put(clean / "train" / "china" / "unlisted.png", tile("china", 0))
    columns = Columns("file", "tags", problem_type="multi_label_classification")
    codes = found(tmp_path / "train.csv", validation=tmp_path / "val.parquet", columns=columns)
    assert set(codes) == {"label-conflict", "leak", "classless-images"}
    assert "row 7 of" in codes["label-conflict"].examples[0].text
    assert codes["classless-images"].examples[0].text.endswith("unlisted.png")


def test_regression_may_rate_an_image_twice(clean, tmp_path):
    rows = [[f"data/train/china/{n % 12:02}.png", n / 10 + 0.05] for n in range(14)]
    with open(tmp_path / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "label"], *rows])
    conflict = found(tmp_path / "train.csv")["label-conflict"]
    assert (conflict.severity, conflict.count) == (WARNING, 2)


def test_exit_codes_json_and_text(clean, tmp_path, capsys):
    put(clean / "train" / "flower" / "copy.png", (clean / "train" / "china" / "00.png").read_bytes())
    assert main([str(clean), "--json", str(tmp_path / "audit.json")]) == 1
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["errors"] == 1 and written["findings"][0]["code"] == "label-conflict"
    assert written["examples"] == {"train": 25, "validation": 6} and written["files_on_disk"] == 31
    assert "ERROR    images that occur more than once, with different labels: 1" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([str(clean), "--num_workers", "-1"])
    assert stopped.value.code == 2
    (tmp_path / "nothing").mkdir()
    assert main([str(tmp_path / "nothing")]) == 1
    assert "Expected one folder for each class" in capsys.readouterr().out


def test_names_cannot_command_a_terminal(clean):
    put(clean / "train" / "china" / "\x1b[31mred\u202e.txt", b"")
    printed = text_report(audit(clean))
    assert "\x1b" not in printed and "\u202e" not in printed and "\\x1b[31mred\\u202e.txt" in printed
    assert visible("\udc80 plain é 猫") == "\\udc80 plain é 猫"


def test_many_images_by_several_processes(tmp_path):
    """The records and their order are the same as with one process; unreadable images keep their position."""
    write_class_folder(tmp_path, {"0": 170, "1": 170, "2": 170})
    paths = sorted(map(str, tmp_path.rglob("*.png")))
    put(tmp_path / "0" / "7.png", b"no image")
    alone, together = (scan_images(paths, paths, workers) for workers in (0, 2))
    assert (alone[0] == together[0]).all() and alone[1] == together[1]
    assert list(alone[1]) == [paths.index(str(tmp_path / "0" / "7.png"))]


class Crashing(list):
    """Paths, one of which ends the process that reads it, as a fault inside a codec does."""

    def __getitem__(self, index):
        if index == 300 and get_worker_info():
            os._exit(1)
        return super().__getitem__(index)


def test_a_process_that_dies_is_said(tmp_path):
    files = [str(put(tmp_path / f"{i}.png", tile("china", i % 40))) for i in range(40)]
    paths = Crashing(f"{path}" for _ in range(13) for path in files)
    with pytest.raises(DataError, match=r"process died .* at or after .*\.png"):
        scan_images(paths, paths, num_workers=1)
