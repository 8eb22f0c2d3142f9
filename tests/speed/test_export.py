"""Exports give the original's answers and can replace it; an export whose answers differ is not written."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from real_digits import write_class_folder, write_digit
from saved_models import save_ours
from tiny import ARCHITECTURES
from transformers import pipeline

from modeling_vit_custom.commands.evaluate import main as evaluate
from modeling_vit_custom.commands.export import main
from modeling_vit_custom.commands.predict import main as predict
from modeling_vit_custom.common.claims import digest_of, weights_digest
from modeling_vit_custom.engines.exported import file_bytes, file_digest, load_exported
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.speed import export as exporting
from modeling_vit_custom.speed.export import ExportError, ExportOptions, export

FORMATS = ["onnx", "torch_export", "openvino"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("models") / "ours")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_class_folder(folder, {str(digit): 3 for digit in range(10)})
    return folder


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dynamic", [(), ("batch", "height", "width")])
def test_it_answers_as_the_original(model, tmp_path, form, dynamic):
    record = export(str(model), tmp_path / "e", ExportOptions(form, dynamic=dynamic, batch_size=2), seconds=0.1)
    assert max(row["relative"] for row in record["compared"]) < 1e-4
    original, processor = load_classifier(str(model))
    exported, own = load_classifier(str(tmp_path / "e"), trust_remote_code=True)
    images = [np.random.default_rng(i).integers(0, 255, (30, 20), np.uint8) for i in range(3)]
    pixels = [p(images, return_tensors="pt")["pixel_values"] for p in (processor, own)]
    with torch.no_grad():
        torch.testing.assert_close(exported(pixels[1]).logits, original(pixels[0]).logits, rtol=1e-4, atol=1e-4)
    if "height" not in dynamic:
        with pytest.raises(ValueError, match="export with --dynamic height"):
            exported(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("form", FORMATS)
def test_at_one_of_its_speeds(digits, tmp_path, form):
    speeds = {"2x": {"token_merging": "1.5x", "shrink_to": None}}
    model = save_ours(tmp_path / "model", image_size=32, patch_size=4, speeds=speeds)
    record = export(
        str(model), tmp_path / "e", ExportOptions(form), str(digits), max_accuracy_drop=100, seconds=0.1, speed="2x"
    )
    assert record["setting"] == "2x" and max(row["relative"] for row in record["compared"]) < 1e-4
    exported, _ = load_classifier(str(tmp_path / "e"), trust_remote_code=True)
    assert exported.config.token_merging == "1.5x"
    exact, fast = (load_classifier(str(model), speed=name)[0] for name in (None, "2x"))
    images = torch.randn(3, exact.config.num_channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported(images).logits, fast(images).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(exact(images).logits, fast(images).logits, atol=1e-3)
    with pytest.raises(ValueError, match=r"speed='9x': this checkpoint has '2x'"):
        export(str(model), tmp_path / "f", ExportOptions(form), seconds=0.1, speed="9x")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_tells_no_paths_of_the_machine_that_wrote_it(model, tmp_path, form):
    export(str(model), tmp_path / "e", ExportOptions(form), seconds=0.05)
    places = [str(place).encode() for place in (Path(exporting.__file__).parents[2], sys.prefix, tmp_path)]
    for file in (tmp_path / "e").iterdir():
        assert not [path for path in places if path in file.read_bytes()], file.name


FEW = ("map", "rope")


@pytest.mark.parametrize(
    ("form", "name"),
    [("onnx", name) for name in ARCHITECTURES] + [(form, name) for form in FORMATS[1:] for name in FEW],
)
def test_every_architecture_with_merged_tokens(tmp_path, form, name):
    folder = save_ours(tmp_path / "m", **ARCHITECTURES[name], token_merging="1.2x", num_channels=3)
    record = export(str(folder), tmp_path / "e", ExportOptions(form), seconds=0.1)
    assert max(row["relative"] for row in record["compared"]) < 1e-4


@pytest.mark.parametrize("name", ["conv stem, computed", "sincos", "rope", "oblong patch"])
def test_any_size(tmp_path, name):
    """Positions are computed in the file; counts of merged tokens need a fixed size."""
    folder = save_ours(tmp_path / "m", **ARCHITECTURES[name], num_channels=3)
    record = export(str(folder), tmp_path / "e", ExportOptions(dynamic=("batch", "height", "width")), seconds=0.1)
    assert len(record["compared"]) == 12 and max(row["relative"] for row in record["compared"]) < 1e-4
    merging = save_ours(tmp_path / "merging", **ARCHITECTURES[name], token_merging=1)
    with pytest.raises(ValueError, match="token_merging and shrink_to make a graph of one size"):
        export(str(merging), tmp_path / "f", ExportOptions(dynamic=("height",)), seconds=0.1)


@pytest.mark.parametrize("form", FORMATS)
def test_it_takes_the_original_s_place(model, digits, tmp_path, form):
    export(str(model), tmp_path / "e", ExportOptions(form), seconds=0.1)
    results = []
    for source in (model, tmp_path / "e"):
        lines, metrics = tmp_path / "lines.jsonl", tmp_path / "metrics.json"
        trust = ["--trust_remote_code"] if form == "torch_export" else []
        assert predict(["--model", str(source), str(digits), "--output", str(lines), "--overwrite", *trust]) == 0
        assert evaluate(["--model", str(source), "--data_dir", str(digits), "--output", str(metrics), *trust]) == 0
        scores = [json.loads(line)["predictions"][0] for line in lines.read_text().splitlines()]
        results.append((scores, json.loads(metrics.read_text())["metrics"]["accuracy"]))
    assert [score["label"] for score in results[0][0]] == [score["label"] for score in results[1][0]]
    assert results[0][1] == results[1][1]
    write_digit(tmp_path / "a.png", 3)
    classifier, processor = load_exported(tmp_path / "e", trust_remote_code=True)
    own = pipeline("image-classification", model=str(model))
    theirs = pipeline("image-classification", model=classifier, image_processor=processor)
    expected, answer = own(str(tmp_path / "a.png")), theirs(str(tmp_path / "a.png"))
    assert [row["label"] for row in answer] == [row["label"] for row in expected]
    assert [row["score"] for row in answer] == pytest.approx([row["score"] for row in expected], abs=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_preprocessing_inside(model, digits, tmp_path, form):
    record = export(
        str(model),
        tmp_path / "e",
        ExportOptions(form, preprocessing=True),
        str(digits),
        max_accuracy_drop=100,
        seconds=0.1,
    )
    assert record["accuracy"]["n"] == 30 and abs(record["accuracy"]["difference"]) <= 0.1
    exported, left = load_exported(tmp_path / "e", trust_remote_code=True)
    original, processor = load_classifier(str(model))
    image = np.random.default_rng(0).integers(0, 255, (61, 47), np.uint8)
    with torch.no_grad():
        expected = original(processor(image, return_tensors="pt")["pixel_values"]).logits
        answer = exported(left(image, return_tensors="pt")["pixel_values"]).logits
    assert float((answer - expected).abs().max() / expected.abs().max()) < 0.02


@pytest.mark.parametrize(
    "wanted",
    [ExportOptions("onnx", "int8"), ExportOptions("onnx", "int8_calibrated"), ExportOptions("onnx", "int8_weights"),
     ExportOptions("onnx", "int4_weights"), ExportOptions("onnx", "float16"),
     ExportOptions("openvino", "float16"), ExportOptions("torch_export", "bfloat16"),
     ExportOptions("torch_export", "float16")],
    ids=lambda wanted: f"{wanted.format_name}-{wanted.dtype}",
)  # fmt: skip
def test_number_formats(model, digits, tmp_path, wanted):
    record = export(str(model), tmp_path / "e", wanted, str(digits), max_accuracy_drop=100, seconds=0.1)
    assert record["accuracy"]["n"] == 30 and record["speed"]["ratio"] > 0
    agreed = min(row["top1"] for row in record["compared"])
    assert agreed == 1 or wanted.dtype.startswith("int")


def test_rounded_weights_make_a_smaller_file(digits, tmp_path):
    model = save_ours(tmp_path / "model", hidden_size=256, intermediate_size=1024, num_attention_heads=4)
    sizes = {}
    for dtype in ("float32", "int8_weights", "int4_weights"):
        record = export(
            str(model), tmp_path / dtype, ExportOptions("onnx", dtype), str(digits), max_accuracy_drop=100, seconds=0.1
        )
        assert record["bytes"] == (tmp_path / dtype / "model.onnx").stat().st_size
        sizes[dtype] = record["bytes"] / record["original_bytes"]
        assert record["original"] == {"sha256": weights_digest(model)}
        assert digest_of(str(tmp_path / dtype)) == record["sha256"]
        assert record["compared"][0]["relative"] < {"float32": 1e-4, "int8_weights": 0.05, "int4_weights": 0.4}[dtype]
    assert sizes["float32"] > 1 > 0.4 > sizes["int8_weights"] > 1.4 * sizes["int4_weights"]


def test_nothing_is_written_where_the_answers_differ(model, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(exporting.TOLERANCE, "float32", -1)
    with pytest.raises(ExportError, match="differ from the original's by"):
        export(str(model), tmp_path / "e", ExportOptions("torch_export"), seconds=0.1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(exporting.TOLERANCE, "float32", 1e-4)
    flags = ["--model", str(model), "--output", str(tmp_path / "e"), "--format", "torch_export"]
    assert main([*flags, "--data_dir", str(digits), "--max_lost", "-1"]) == 1  # requires a gain of a point
    assert "points are lost" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert main([*flags, "--dtype", "int8"]) == 2 and "has float32, float16, bfloat16" in capsys.readouterr().err


def test_weights_beside_a_large_file_belong_to_it(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    before = file_digest(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    assert file_digest(tmp_path / "model.onnx") != before and file_bytes(tmp_path / "model.onnx") == len("graphweights")


def test_a_changed_file_is_refused(model, tmp_path):
    export(str(model), tmp_path / "e", ExportOptions("torch_export"), seconds=0.1)
    path = tmp_path / "e" / "model.pt2"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="changed or damaged"):
        load_exported(tmp_path / "e", trust_remote_code=True)


def test_a_changed_configuration_beside_it_is_refused_by_name(model, tmp_path):
    export(str(model), tmp_path / "e", ExportOptions("onnx"), seconds=0.1)
    for name in ("config.json", "preprocessor_config.json"):
        before = (tmp_path / "e" / name).read_text()
        for change in (before + " ", None):
            (tmp_path / "e" / name).write_text(change) if change else (tmp_path / "e" / name).unlink()
            with pytest.raises(ValueError, match=rf"/{name} is not what export\.json tells of"):
                load_exported(tmp_path / "e")
        (tmp_path / "e" / name).write_text(before)
    record = json.loads((tmp_path / "e" / "export.json").read_text())
    del record["beside"]  # as an earlier version wrote it
    (tmp_path / "e" / "export.json").write_text(json.dumps(record))
    load_exported(tmp_path / "e")
    for damage in ("{", "[]", json.dumps(record | {"format": "x"}), json.dumps(record | {"sha256": None})):
        (tmp_path / "e" / "export.json").write_text(damage)
        with pytest.raises(ValueError, match=r"export\.json is damaged"):
            load_exported(tmp_path / "e")


def test_a_file_that_torch_reads_by_pickle_is_opened_on_request_alone(model, tmp_path, capsys):
    export(str(model), tmp_path / "e", ExportOptions("torch_export"), seconds=0.1)
    assert predict(["--model", str(tmp_path / "e"), "x.png", "--output", str(tmp_path / "o.jsonl")]) == 2
    assert "by pickle, which can run code" in capsys.readouterr().err


def test_an_export_without_its_runtime_says_what_to_install(model, tmp_path, monkeypatch, capsys):
    export(str(model), tmp_path / "e", ExportOptions("onnx"), seconds=0.1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert predict(["--model", str(tmp_path / "e"), "x.png", "--output", str(tmp_path / "o.jsonl")]) == 2
    assert "needs onnxruntime: pip install 'vit-custom[export]'" in capsys.readouterr().err


def test_what_cannot_be_exported_says_why(model, digits, tmp_path, capsys):
    with pytest.raises(ValueError, match="only images can tell what rounding costs"):
        export(str(model), tmp_path / "e", ExportOptions("onnx", "int8"))
    cut = save_ours(tmp_path / "cut", image_size=(27, 32))
    with pytest.raises(ValueError, match="not whole patches"):
        export(str(cut), tmp_path / "e")
    tags = save_ours(tmp_path / "tags", problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="multi_label_classification model is not compared"):
        export(str(tags), tmp_path / "e", data=str(digits))
    assert not (tmp_path / "e").exists()
    assert (
        main(["--model", str(model), "--output", str(tmp_path)]) == 2 and "is there already" in capsys.readouterr().err
    )


def test_calibration_fills_a_fixed_batch(model, digits, tmp_path):
    wanted = ExportOptions("onnx", "int8_calibrated", dynamic=(), batch_size=2)
    assert (
        export(str(model), tmp_path / "e", wanted, str(digits), max_accuracy_drop=100, seconds=0.1)["accuracy"]["n"]
        == 30
    )
