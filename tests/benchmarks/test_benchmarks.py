"""The benchmark trains real peers, and its figures mean what their names say."""

import json
import sys

import pytest
import torch
from real_digits import write_class_folder

from modeling_vit_custom.benchmarks import contenders, training
from modeling_vit_custom.benchmarks.cold_start import cold_starts
from modeling_vit_custom.benchmarks.contenders import CONTENDERS, TrainingBudget, our_model, timm_model
from modeling_vit_custom.benchmarks.inference import compare, table
from modeling_vit_custom.benchmarks.peers import Shape
from modeling_vit_custom.commands.benchmark import main
from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.engines.registry import ENGINES, Engine
from modeling_vit_custom.training.arguments.completion import complete_arguments


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    write_class_folder(root / "train", {"0": 70, "1": 70})
    write_class_folder(root / "test", {"0": 10, "1": 10}, first=80)
    return root


def test_the_models_are_of_one_size():
    ours, theirs = our_model(10), timm_model(10)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[1] - counts[0] == contenders.WIDTH, "timm adds a position to the class token, ours does not"
    image = torch.zeros(1, 1, 28, 28)
    assert ours(image).shape == theirs(image).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CONTENDERS)
def test_each_contender_learns_and_stops_in_time(digits, tmp_path, monkeypatch, name):
    monkeypatch.setattr(contenders, "PROBE", 3)
    monkeypatch.setattr(contenders, "BATCH", 32)  # four steps an epoch instead of one
    for seconds in (15.0, 60.0, 240.0):  # more time for a machine that makes too few steps to learn
        row = training.contend(name, TrainingBudget(digits, seconds, 0, 0, tmp_path / f"{seconds}"))
        assert row["seconds"] < seconds + 5
        if row["images_per_second"] * row["seconds"] >= 60 * contenders.BATCH:
            break
    assert row["accuracy"] >= 0.7 and row["contender"] == name
    assert row["images_per_second"] > 5 and row["cpu_seconds"] > 1 and row["memory_mb"] > 100


def test_ratios_are_to_the_peer_of_the_same_seed():
    rows = [
        {"contender": who, "seed": seed, "images_per_second": speed, "cpu_seconds": 1.0, "memory_mb": 100.0,
         "parameters": 5, "mflops": 1.0, "accuracy": right}
        for who, seed, speed, right in (
            ("ours", 0, 300.0, 0.9), ("timm, plain loop", 0, 100.0, 0.8),
            ("ours", 1, 400.0, 0.92), ("timm, plain loop", 1, 200.0, 0.8),
        )
    ]  # fmt: skip
    ours, peer = training.table(rows).splitlines()[2:]
    assert "| 350 ± 71 | 2.50 ± 0.71 |" in ours and "91.00 ± 1.41 %" in ours and "| 1.00 ± 0.00 |" in peer


def test_each_part_of_the_ablation_changes_the_recipe():
    plain = parse_args(["fashion_mnist", "--train_dir", "d"])
    for part, flags in contenders.PARTS.items():
        changed = parse_args(["fashion_mnist", "--train_dir", "d", *map(str, flags)])
        complete_arguments(*changed)
        name = flags[0].removeprefix("--")
        before, after = (
            [getattr(group, name) for group in groups if hasattr(group, name)] for groups in (plain, changed)
        )
        assert before != after, part


@pytest.mark.slow
def test_the_command(digits, tmp_path, capsys):
    flags = ["--data", str(digits), "--seconds", "3", "--seeds", "1", "--output", str(tmp_path / "b.json")]
    assert main(["training", *flags, "--contenders", "our recipe", "timm, plain loop"]) == 0
    assert "| our recipe |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 2
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_inference_is_timed_beside_the_peers(tmp_path, capsys):
    flags = ["inference", "--shapes", "nano/8@32", "--batches", "2", "--seconds", "0.1", "--cold"]
    assert main([*flags, "--engines", "eager", "onnx", "exact mode", "--output", str(tmp_path / "i.json")]) == 0
    report = json.loads((tmp_path / "i.json").read_text())
    assert len(report["rows"]) == 9 and len(report["cold"]) == 4
    assert all(row["share_of_products"] > 0 and row["p99_ms"] >= row["p50_ms"] for row in report["rows"])
    assert "| ours |" in capsys.readouterr().out


def test_what_is_not_installed_or_fails_has_a_row_that_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)

    def fails(*_):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setitem(ENGINES, "compiled", Engine(fails))
    rows = compare(Shape.of("nano/8@32"), 2, ["eager", "compiled"], ["ours", "timm"], 0.05)
    reasons = {(row["library"], row["engine"]): row.get("not_run") for row in rows}
    assert reasons["ours", "eager"] is None and reasons["ours", "compiled"] == "RuntimeError: no compiler here"
    assert "timm" in reasons["timm", "eager"] and "timm" in reasons["timm", "compiled"]
    assert table(rows).count("not run: ") == 3
    assert cold_starts(Shape.of("nano/8@32"), ["timm"]) == []


@pytest.mark.slow
def test_files_and_scaling(digits, tmp_path, capsys):
    assert main(["files", "--images", str(digits / "test"), "--shapes", "nano/8@32", "--batch_size", "4"]) == 0
    assert "ours, predict" in capsys.readouterr().out
    flags = ["--variant", "nano/8", "--sizes", "32", "64", "--libraries", "ours", "timm"]
    assert main(["scaling", *flags, "--output", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")]) == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["tokens"] for row in rows] == [17, 17, 65, 65] and (tmp_path / "s.png").stat().st_size > 1000
    theirs = [row for row in rows if row["library"] == "timm"]
    assert all(row["gflops"] == pytest.approx(row["formula_gflops"], rel=0.02) for row in theirs)


@pytest.mark.slow
def test_explain_times_each_method_beside_a_forward(tmp_path, capsys):
    flags = ["--shapes", "nano/8@32", "--methods", "libra", "--output", str(tmp_path / "e.json")]
    assert main(["explain", *flags]) == 0
    forward, libra = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert (forward["method"], libra["method"]) == ("forward", "libra") and libra["cpu_seconds"] > forward[
        "cpu_seconds"
    ]
    assert "| nano/8@32 | forward |" in capsys.readouterr().out
