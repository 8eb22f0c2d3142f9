"""Converted models as published: the card shows what conversion.json says, and encoders pass every check."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from card_pages import HOSTILE, Page
from foreign_checkpoints import save_encoder, save_vit
from fresh_process import run_without_package
from hub_server import client_environment, point_client_at, running_hub
from huggingface_hub import ModelCard
from huggingface_hub.utils import disable_progress_bars
from image_files import CHINA, FLOWER
from PIL import Image
from transformers import AutoImageProcessor, Dinov2Model

from modeling_vit_custom.cli import main
from modeling_vit_custom.common.model_files import CONVERSION as REPORT
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.publishing.card import write_card
from modeling_vit_custom.publishing.checks import check_folder
from modeling_vit_custom.publishing.golden import GoldenError, compare_golden, read_golden, write_golden
from modeling_vit_custom.publishing.publish import Origin, find_origin, publish
from modeling_vit_custom.publishing.staging import stage
from modeling_vit_custom.publishing.upload import PublishError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return (transformers' DINOv2 without a head, its conversion, the staged folder with golden outputs and card)."""
    root = tmp_path_factory.mktemp("encoder")
    source = save_encoder(root / "dinov2-tiny")
    convert(str(source), root / "ours", {}, check=True)
    stage(root / "ours", root / "staged", lambda text: None)
    write_golden(root / "staged", [CHINA, FLOWER])
    write_card(root / "staged", "ada/encoder", metrics=None, run=None, license="mit")
    return source, root / "ours", root / "staged"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Convert a classifier with the comparison of --check; return its folder."""
    root = tmp_path_factory.mktemp("classifier")
    convert(str(save_vit(root / "vit", ["cat", "dog"])), root / "ours", {}, check=True)
    return root / "ours"


def edited(folder: Path, copy: Path, name: str = REPORT, **changes) -> Path:
    shutil.copytree(folder, copy)
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | changes))
    return copy


def card_of(folder: Path, **run) -> str:
    return write_card(folder, "ada/model", metrics=None, run=run or None).read_text()


# ---------- encoders


def test_golden_outputs_of_an_encoder_are_the_sources_features(encoder):
    source, _, staged = encoder
    golden = read_golden(staged)
    assert set(golden) == {"format", "tolerance", "images", "pooler_output", "versions", "weights"}
    images = [Image.open(staged / name) for name in golden["images"]]
    pixels = AutoImageProcessor.from_pretrained(source)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(source)(pixels).pooler_output
    torch.testing.assert_close(torch.tensor(golden["pooler_output"]["torchvision"]), expected, rtol=1e-3, atol=1e-3)


def test_the_card_of_an_encoder_says_what_it_is(encoder):
    _, _, staged = encoder
    data = ModelCard.load(staged / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-feature-extraction")
    text = (staged / "README.md").read_text()
    assert "that turns colour images of 8 × 8 pixels into vectors of 16 numbers." in text and "It names nothing" in text
    assert "The labels" not in text and "best label" not in text and "Nothing was measured." in text


@pytest.mark.slow
def test_the_snippet_of_an_encoder_runs(encoder, tmp_path):
    staged = encoder[2]
    snippet = (staged / "README.md").read_text().split("```python\n")[1].split("```")[0]
    local = "hf_hub_download = lambda repo, name, revision: f'{repo}/{name}'\n"
    code = snippet.replace('"ada/encoder"', repr(str(staged))).replace(
        "from huggingface_hub import hf_hub_download\n", local
    )
    printed = eval(run_without_package(code, tmp_path / "fresh"))
    expected = read_golden(staged)["pooler_output"]["torchvision"][0]
    assert printed[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def measured(golden: dict, **changes) -> dict:
    """Return the report of a fresh process on a sound encoder."""
    rows = golden["pooler_output"]
    return {"load": {}, "outputs": rows, "pipeline": [[row] for row in rows["torchvision"]], "versions": {}} | changes


def test_features_that_differ_are_seen(encoder):
    golden = read_golden(encoder[2])
    assert all(check.passed for check in compare_golden(golden, measured(golden)))
    other = [[[value * 1.01 for value in row]] for row in golden["pooler_output"]["torchvision"]]
    failed = [check.name for check in compare_golden(golden, measured(golden, pipeline=other)) if not check.passed]
    assert failed == ["golden images, pipeline"]
    tokens = [[row, row] for row in golden["pooler_output"]["torchvision"]]  # as without pool=True
    failed = [check for check in compare_golden(golden, measured(golden, pipeline=tokens)) if not check.passed]
    assert len(failed) == 1 and "numbers of shape [2, 32], expected [2, 16]" in failed[0].detail


def test_golden_outputs_of_another_task_prove_nothing(encoder, tmp_path):
    folder = edited(encoder[2], tmp_path / "copy", "golden.json", logits={"pil": [[1.0]], "torchvision": [[1.0]]})
    with pytest.raises(GoldenError, match="logits are of another task than image-feature-extraction"):
        read_golden(folder)


@pytest.mark.parametrize(
    ("name", "changes", "check", "message"),
    [
        ("config.json", {"architectures": ["ViTCustomForImageClassification"]}, "auto_map", "publish the encoder"),
        ("config.json", {"auto_map": {"AutoConfig": "configuration_vit_custom.ViTCustomConfig"}}, "auto_map",
         "auto_map has no AutoModel,"),
    ],
)  # fmt: skip
def test_damage_to_an_encoder_fails_its_check_and_no_other(encoder, tmp_path, name, changes, check, message):
    folder = edited(encoder[2], tmp_path / "copy", name, **changes)
    failed = {
        each.name: each.detail for each in check_folder(folder) if not each.passed and "not run" not in each.detail
    }
    assert list(failed) == [check] and message in failed[check]


def test_a_card_that_calls_an_encoder_a_classifier_is_refused(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    folder = Path(shutil.copytree(encoder[2], tmp_path / "copy"))
    checks = {each.name: each for each in check_folder(folder)}
    assert all(each.passed for each in checks.values())
    assert checks["labels"].detail == "none: an encoder" and checks["configuration"].detail.startswith("0 labels")
    card = folder / "README.md"
    card.write_text(
        card.read_text().replace("pipeline_tag: image-feature-extraction", "pipeline_tag: image-classification")
    )
    (failed,) = [each for each in check_folder(folder) if not each.passed and "not run" not in each.detail]
    assert failed.name == "model card" and "needs 'image-feature-extraction'" in failed.detail


def test_an_encoder_has_no_demo_and_is_asked_for_no_labels(encoder, capsys):
    _, ours, _ = encoder
    with pytest.raises(PublishError, match="is an encoder: the demo shows labels, leave out --space"):
        publish(ours, "ada/encoder", Origin("mit"), space=True)
    for command in ("evaluate --data_dir .", "predict .", "serve --port 0", "demo --port 0"):
        name, *flags = command.split()
        assert main([name, "--model", str(ours), *flags]) != 0
        assert "has no labels (num_labels=0); give a model with a classifier" in capsys.readouterr().err, name


LOAD = """
import torch
from transformers import AutoImageProcessor, AutoModel
repo, revision, image = sys.argv[1:]
model = AutoModel.from_pretrained(repo, revision=revision, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
with torch.no_grad():
    print(model(**processor([image], return_tensors="pt")).pooler_output[0].tolist())
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # by the client's HTTP library
def test_an_encoder_is_published_verified_and_loaded_from_the_hub(encoder, tmp_path, monkeypatch, capsys):
    _, ours, staged = encoder
    disable_progress_bars()
    with running_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path)
        assert main(["publish", str(ours), "ada/encoder", "--license", "mit", "--examples", str(CHINA)]) == 0
        assert 'extract = pipeline("image-feature-extraction", model="ada/encoder"' in capsys.readouterr().out
        commit = hub.head("ada/encoder").parent
        assert json.loads(commit.files[REPORT].data) == json.loads((ours / REPORT).read_text())
        assert main(["verify", "ada/encoder", "--revision", commit.sha]) == 0
        setup = f"import os\nos.environ.update({client_environment(hub)!r})\n"
        printed = run_without_package(
            setup + LOAD, tmp_path / "fresh", "ada/encoder", commit.sha, staged / "examples/0.png"
        )
    expected = read_golden(staged)["pooler_output"]["torchvision"][0]
    assert json.loads(printed) == pytest.approx(expected, rel=1e-4, abs=1e-5)


# ---------- the card of converted models


def test_the_card_shows_source_notes_and_every_figure_of_the_check(classifier, tmp_path):
    folder = edited(classifier, tmp_path / "copy", notes=["num_attention_heads=2: taken as heads of 8"])
    report = json.loads((folder / REPORT).read_text())
    text = card_of(folder)
    cells = Page(text).cells
    rows = dict(pairwise(cells))
    assert rows["source"] == "vit" and rows["family"] == "vit"
    assert rows["note"] == "num_attention_heads=2: taken as heads of 8" and "<code>conversion.json</code>" in text
    assert "The weights are those of vit, converted" in text and "The check passed" in text
    assert f"of {report['parameters'] / 1e6:.2g} million parameters" in text
    start = cells.index("random images, 8 × 8 pixels")
    first = report["check"]["from_tensors"][0]
    names = cells[cells.index("given") + 1 : start]
    shown = dict(zip(names, cells[start + 1 :], strict=False))
    for name, value in first.items():
        if isinstance(value, dict):
            for part, figure in value.items():
                assert shown[f"{name} {part}"] == f"{figure:.4g}"
        elif isinstance(value, float):
            assert shown[name] == f"{value:.4g}"
    assert "pictures, each prepared by its own library" in cells


def test_a_check_of_any_names_is_shown(classifier, tmp_path):
    """Figures may stand alone or in groups, and some in one row only."""
    check = {
        "passed": False, "reference": "timm 1.0", "tolerance": 1e-4, "notes": ["at one size only: it takes no other"],
        "from_tensors": [
            {"size": [8, 12], "logit": {"absolute": 1e-6, "relative": 2e-6}, "top1": 1.0, "passed": True},
            {"size": [8, 8], "feature": {"absolute": 3e-6}, "top1": 0.75, "passed": False},
        ],
        "from_pixels": {"size": [8, 8], "grey_levels": 1},
    }  # fmt: skip
    text = card_of(edited(classifier, tmp_path / "copy", check=check))
    cells = Page(text).cells
    start = cells.index("given")
    table = [cells[start + 6 * row : start + 6 * (row + 1)] for row in range(4)]
    assert table == [
        ["given", "logit absolute", "logit relative", "top1", "feature absolute", "grey levels"],
        ["random images, 12 × 8 pixels", "1e-06", "2e-06", "1", "", ""],
        ["random images, 8 × 8 pixels", "", "", "0.75", "3e-06", ""],
        ["pictures, each prepared by its own library", "", "", "", "", "1"],
    ]
    assert "**The check did not pass**, tolerance 0.0001" in text and "run by timm 1.0" in text
    assert "Note: at one size only&#58; it takes no other." in text


def test_a_fine_tuned_model_says_what_from(classifier, tmp_path):
    folder = edited(classifier, tmp_path / "copy", source="timm:vit_small_patch16_224", check=None)
    run = {"model": {"model_name_or_path": "timm:vit_small_patch16_224", "source_config": "hidden_act=gelu"}}
    text = card_of(folder, **run)
    assert "Fine-tuned from timm&#58;vit&#95;small&#95;patch16&#95;224, whose weights were converted" in text
    cells = Page(text).cells
    rows = dict(pairwise(cells))
    assert rows["started from"] == "timm:vit_small_patch16_224" and rows["settings of the source"] == "hidden_act=gelu"
    assert "were not run side by side" in text
    shutil.copy(folder / REPORT, tmp_path)
    (folder / REPORT).unlink()
    assert "Converted from" not in card_of(folder, **run)


def test_text_of_a_source_comes_out_as_text(classifier, tmp_path):
    check = {
        "passed": True, "reference": HOSTILE[0], "notes": HOSTILE,
        "from_tensors": [{"size": [8, 8], HOSTILE[5]: {HOSTILE[0]: 1.0}}],
    }  # fmt: skip
    folder = edited(classifier, tmp_path / "copy", source=HOSTILE[2], family=HOSTILE[6], notes=HOSTILE, check=check)
    page = Page(card_of(folder))
    shown = {" ".join(text.split()) for text in HOSTILE}
    assert shown <= set(page.cells), sorted(shown - set(page.cells))
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "strong", "del", "s", "img"})
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["https://arxiv.org/abs/2010.11929"]


@pytest.mark.parametrize("changes", [{"notes": 5}, {"check": [1]}, {"check": {"from_tensors": [{"size": 3}]}}])
def test_a_report_of_another_form_is_named(classifier, tmp_path, changes):
    with pytest.raises(ValueError, match=r"conversion\.json is not as `convert` leaves it"):
        card_of(edited(classifier, tmp_path / "copy", **changes))


def test_the_report_is_staged_and_a_librarys_name_is_no_base_model(classifier, tmp_path):
    assert REPORT in stage(classifier, tmp_path / "staged", lambda text: None)
    folder = Path(shutil.copytree(classifier, tmp_path / "copy"))
    run = {"model": {"model_name_or_path": "timm:hf-hub:timm/vit_tiny_patch16_224"}}
    (folder / "training_args.json").write_text(json.dumps(run))
    assert find_origin(folder, "mit").base_model is None
