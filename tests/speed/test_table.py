"""The speed table: paired differences, the Pareto front, and what is stored and shown."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from real_digits import write_class_folder
from saved_models import save_ours, save_transformers_vit

from modeling_vit_custom import ViTCustomForImageClassification, ViTCustomImageProcessor
from modeling_vit_custom.commands.speed_table import main
from modeling_vit_custom.common.claims import ClaimError, check_claims
from modeling_vit_custom.speed import table as speed_table
from modeling_vit_custom.speed.options import Option, options
from modeling_vit_custom.speed.section import section, table
from modeling_vit_custom.speed.table import named_speeds, paired_difference, pareto_front, store


def rows(*pairs):
    return [
        {"name": f"{ratio}", "ratio": ratio, "accuracy": right, "format": "float32", "images_per_second": 10 * ratio}
        for ratio, right in pairs
    ]


def test_paired_differences():
    """Agresti and Min by hand: n = 1000; 30 images only one gets right, 10 only the other."""
    right, other = np.zeros((2, 1000), dtype=bool)
    right[:30], other[30:40], right[500:], other[500:] = True, True, True, True
    mean, low, high = paired_difference(right, other)
    centre, half = 20 / 1002, 1.96 * math.sqrt(30.5 + 10.5 - 20**2 / 1002) / 1002
    assert mean == pytest.approx(0.02) and (low, high) == pytest.approx((centre - half, centre + half))
    same, low, high = paired_difference(right, right)
    assert same == 0 and low < -0.001 and high > 0.001, "equal answers here do not prove equal answers on other images"


def test_the_front_is_what_none_beats():
    found = pareto_front(rows((1.0, 0.9), (1.5, 0.91), (2.0, 0.8), (1.9, 0.8), (3.0, 0.7), (2.5, 0.6)))
    assert [row["ratio"] for row in found] == [1.5, 2.0, 3.0]
    speeds = named_speeds(rows((1.0, 0.9), (1.6, 0.89), (2.1, 0.8), (2.6, 0.85)))
    assert {name: row["ratio"] for name, row in speeds.items()} == {"1.5x": 1.6, "2.5x": 2.6}
    half = {"name": "bfloat16", "ratio": 3.0, "accuracy": 0.95, "format": "bfloat16", "images_per_second": 30.0}
    assert list(named_speeds([*rows((1.0, 0.9), (1.6, 0.89)), half])) == ["1.5x"], "a format is not a speed"


def test_the_table_shows_what_is_stored_and_names_one_of_them():
    made = rows((1.0, 0.9), (2.0, 0.8))
    half = {"name": "bfloat16", "ratio": 3.0, "accuracy": 0.95, "format": "bfloat16", "images_per_second": 30.0}
    zeros = {"difference": 0.0, "low": 0.0, "high": 0.0, "n": 10}
    made = [row | zeros for row in (*made, half)]
    report = {"rows": made, "front": [row["name"] for row in pareto_front(made)], "speeds": named_speeds(made)}
    report |= {"device": "a CPU", "cpu_cores": 2, "batch_size": 8}
    assert report["front"] == ["bfloat16"] and "| `2x` | 2.0 |" in table(report), "though bfloat16 beats it"
    assert 'speed="2x"' in section(report)
    assert "speed=" not in section(report | {"speeds": {}})


def test_options_are_whole_patches_and_begin_with_the_exact_one(any_config):
    found, _ = options(any_config, ["1.1x"], [0.99, 0.75, 0.74, 0.5], ["bfloat16"])
    assert found[0] == Option() and str(found[0]) == "exact" and found[-1] == Option(format_name="bfloat16")
    p, q = any_config.patch_hw
    assert all(option.shrink_to[0] % p == option.shrink_to[1] % q == 0 for option in found if option.shrink_to)
    assert len(set(found)) == len(found)
    assert all(option.shrink_to is None or option.shrink_to != any_config.image_hw for option in found)
    found, impossible = options(any_config, ["1.1x", "30x"], [], [])
    assert [str(option) for option in found] == ["exact", "merging 1.1x"] and "at most" in impossible[0]
    with pytest.raises(ValueError, match="token_merging='fast'"):
        options(any_config, ["fast"], [], [])
    with pytest.raises(ValueError, match="--sizes 2"):
        options(any_config, [], [2.0], [])


def test_it_is_measured_stored_and_loaded(tmp_path, capsys):
    folder = save_ours(tmp_path / "model", image_size=32, patch_size=4)
    write_class_folder(tmp_path / "test", {str(digit): 4 for digit in range(10)})
    (folder / "README.md").write_text("# model\n\nwords\n")
    flags = ["--model", str(folder), "--data_dir", str(tmp_path / "test"), "--seconds", "0.05", "--batch_size", "16"]
    for _ in range(2):  # the second run finds what the first one stored
        assert main([*flags, "--token_merging", "2x", "--sizes", "0.5"]) == 0
    report = json.loads((folder / "speeds.json").read_text())
    assert [row["name"] for row in report["rows"]][:4] == ["exact", "merging 2x", "16x16 px", "merging 2x, 16x16 px"]
    assert all(row["n"] == 40 for row in report["rows"]) and report["rows"][0]["difference"] == 0
    assert table(report) in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert card.startswith("# model\n\nwords\n") and card.count("## Speeds") == 1 and table(report) in card
    assert (folder / "speeds.png").stat().st_size > 1000
    assert check_claims(folder, ["speeds.json"]) == (["speeds.json"], [])
    stored = json.loads((folder / "config.json").read_text())["speeds"] or {}
    assert set(stored) == set(report["speeds"])  # empty if the machine is busy and no setting was faster
    store(folder, report | {"speeds": {"2x": report["rows"][1]}})
    model = ViTCustomForImageClassification.from_pretrained(folder, speed="2x")
    assert model.config.token_merging == report["rows"][1]["token_merging"] == "2x"
    save_ours(folder, seed=1, image_size=32, patch_size=4)
    with pytest.raises(ClaimError, match=r"speeds\.json is of weights .* `vit-custom speed_table`"):
        check_claims(folder, ["speeds.json"])


def test_a_checkpoint_in_half_precision_is_compared_with_its_float32(tmp_path, monkeypatch):
    folder = save_ours(tmp_path / "model", image_size=32, patch_size=4)
    ViTCustomForImageClassification.from_pretrained(folder).bfloat16().save_pretrained(folder)
    write_class_folder(tmp_path / "test", {str(digit): 1 for digit in range(10)})
    seen = []
    monkeypatch.setattr(speed_table, "measure", lambda model, *others: seen.append(model.dtype) or rows((1.0, 0.9)))
    monkeypatch.setattr(speed_table, "store", lambda folder, report: None)
    monkeypatch.setattr("modeling_vit_custom.commands.speed_table.table", lambda report: "")
    assert main(["--model", str(folder), "--data_dir", str(tmp_path / "test")]) == 0
    assert seen == [torch.float32]


def test_images_of_several_sizes_cannot_be_measured(tmp_path, capsys):
    folder = save_ours(tmp_path / "model", image_size=32, patch_size=4)
    processor = ViTCustomImageProcessor.from_pretrained(folder)
    processor.do_resize = False
    processor.save_pretrained(folder)
    for digit in range(10):
        (tmp_path / "test" / str(digit)).mkdir(parents=True)
        Image.new("L", (32, 32 + 4 * digit)).save(tmp_path / "test" / str(digit) / "0.png")
    assert main(["--model", str(folder), "--data_dir", str(tmp_path / "test"), "--sizes", "--token_merging"]) == 2
    assert "images of several sizes" in capsys.readouterr().err


def test_what_cannot_be_measured(tmp_path, capsys):
    regression = save_ours(tmp_path / "regression", problem_type="regression")
    assert main(["--model", str(regression), "--data_dir", str(tmp_path)]) == 2
    assert "regression model" in capsys.readouterr().err
    assert main(["--model", "nowhere", "--data_dir", str(tmp_path)]) == 2
    theirs = save_transformers_vit(tmp_path / "theirs")
    assert main(["--model", str(theirs), "--data_dir", str(tmp_path)]) == 2
    assert "only this package's own models have speeds" in capsys.readouterr().err
    (regression / "export.json").write_text('{"format": "torch_export"}')
    assert main(["--model", str(regression), "--data_dir", str(tmp_path)]) == 2
    assert "dtype" not in capsys.readouterr().err, "--dtype was not given, so no error may name it"
