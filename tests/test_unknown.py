"""A model that answers "unknown": its number beside the labels, in every way of loading, and when it is left out."""

import json
import shutil

import pytest
import torch
from PIL import Image
from real_digits import write_digit
from saved_models import save_ours
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.conversion.export import export as convert
from modeling_vit_custom.features.unknown import give_unknown, limit_error, reject_in_split
from modeling_vit_custom.pretrained_vit_custom import ViTCustomPreTrainedModel
from modeling_vit_custom.publishing.facts import model_facts
from modeling_vit_custom.publishing.golden import check_golden, write_golden

OPTIONS = {"score": "mahalanobis", "level": 0.05, "images": [19], "promise": "reject", "asked": 0.05}


def calibrated(folder, share: float = 0.2, **fields):
    """Save a random classifier that was calibrated on 40 random images; return its folder."""
    save_ours(folder, num_channels=3, **fields)
    model = ViTCustomForImageClassification.from_pretrained(folder)
    images = torch.rand(80, 3, *model.config.image_hw)
    with torch.no_grad():
        vectors = model.pre_logits(model.eval()(images).pooler_output)
    give_unknown(model, reject_in_split(vectors[:40], torch.arange(40).numpy() % 10, vectors[40:], 10, share))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("models") / "m")


def noise(model) -> torch.Tensor:
    return 3 * torch.randn(4, 3, *model.config.image_hw)


@torch.no_grad()
def test_a_saved_model_gives_the_same_numbers_and_the_same_logits_as_without(folder):
    model = ViTCustomForImageClassification.from_pretrained(folder).eval()
    images = noise(model)
    output = model(images)
    again = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()(images)
    assert torch.equal(output.typicality, again.typicality) and torch.equal(output.unknown, output.typicality <= 0.2)
    assert output.unknown.any() and len(output.to_tuple()) == 1
    model.drop_unknown("a test")
    plain = model(images)
    assert torch.equal(plain.logits, output.logits) and "typicality" not in plain and "unknown" not in plain


def test_training_computes_nothing_of_it_and_half_precision_keeps_its_numbers(folder):
    model = ViTCustomForImageClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.classifier.weight.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in model.unknown.buffers()} == {torch.float32}
    assert "typicality" not in model.train()(noise(model).bfloat16())
    assert model.eval()(noise(model).bfloat16()).typicality.dtype == torch.float32


def test_other_labels_sizes_and_classes_leave_it_out(folder):
    load = ViTCustomForImageClassification.from_pretrained
    for changed in ({"num_labels": 3}, {"image_size": (24, 24)}, {"id2label": {0: "a", 1: "b"}}):
        model = load(folder, **changed)
        assert model.unknown is None and model.config.unknown is None
    plain = AutoModel.from_pretrained(folder)
    assert plain.config.unknown is None and "unknown" not in plain.config.to_dict()


def test_a_speed_leaves_it_out(tmp_path):
    fast = calibrated(tmp_path / "m", speeds={"2x": {"token_merging": "1.5x"}})
    load = ViTCustomForImageClassification.from_pretrained
    assert load(fast).unknown is not None
    assert load(fast, speed="2x").unknown is None and load(fast, speed="2x").config.unknown is None


def test_pipelines_say_it_beside_each_label(folder, tmp_path):
    classify = pipeline("image-classification", model=str(folder), trust_remote_code=True)
    path = str(write_digit(tmp_path / "digit.png", 3))
    model = ViTCustomForImageClassification.from_pretrained(folder).eval()
    for image in (path, Image.new("RGB", (40, 30), "red")):
        pixels = classify.image_processor(classify.image_processor.decode(image), return_tensors="pt")["pixel_values"]
        expected = bool(model(pixels).unknown)
        answers = classify(image, top_k=2)
        assert [answer.keys() for answer in answers] == [{"label", "score", "unknown"}] * 2
        assert {answer["unknown"] for answer in answers} == {expected}
    (best,), _ = classify([path, path], batch_size=2, top_k=1)
    assert best["unknown"] == classify(path)[0]["unknown"] and best["label"] == classify(path)[0]["label"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": "knn"}, "score"),
        ({"level": 1.5}, "level"),
        ({"level": "high"}, "level"),
        ({"images": []}, "images"),
        ({"images": [3, 0]}, "images"),
        ({"images": [10**9]}, "images"),
        ({"score": "probability", "images": [3, 3]}, "one fold"),
        ({"more": 1}, "its options are"),
    ],
)
def test_a_wrong_option_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViTCustomConfig(unknown={**OPTIONS, **wrong})


def test_a_file_without_the_numbers_that_the_configuration_promises_is_refused(folder, tmp_path):
    plain = save_ours(tmp_path / "m", num_channels=3)
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**config, "unknown": OPTIONS}))
    with pytest.raises(RuntimeError, match=r"Missing: unknown\.distances"):
        ViTCustomForImageClassification.from_pretrained(plain)


def test_no_other_class_has_the_attribute_in_its_way(tiny_config):
    assert "unknown" not in vars(ViTCustomPreTrainedModel), "a class attribute would hide the module"
    assert AutoModel.from_config(tiny_config).config.unknown is None


def test_a_probability_needs_no_numbers_beside_the_options(tmp_path):
    folder = save_ours(tmp_path / "m", num_channels=3)
    model = ViTCustomForImageClassification.from_pretrained(folder)
    outputs = torch.eye(10)[torch.arange(200) % 10] * 9
    found = limit_error(outputs.numpy(), torch.ones(200, dtype=torch.bool).numpy(), 0.1)
    give_unknown(model, found)
    model.save_pretrained(folder)
    again = ViTCustomForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        output = again(noise(again))
    assert torch.equal(output.typicality, output.logits.softmax(dim=1).amax(dim=1))
    assert not list(again.unknown.buffers())


def test_the_class_of_another_library_answers_every_image_and_the_report_says_so(folder, tmp_path):
    report = convert(str(folder), tmp_path / "hf", "hf")
    assert any('no place for "unknown"' in note for note in report["notes"])
    other = AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    model = ViTCustomForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        images = noise(model)
        torch.testing.assert_close(other(images).logits, model(images).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_golden_answers_hold_it_and_another_line_is_noticed(folder, tmp_path):
    published = shutil.copytree(folder, tmp_path / "m")
    write_golden(published, [write_digit(tmp_path / "digit.png", 3)])
    answers = json.loads((published / "golden.json").read_text())["pipeline"][0]
    assert len({answer["unknown"] for answer in answers}) == 1
    assert all(check.passed for check in check_golden(published))
    config = json.loads((published / "config.json").read_text())
    config["unknown"]["level"] = 0.0 if answers[0]["unknown"] else 0.999999
    (published / "config.json").write_text(json.dumps(config))
    failed = [check for check in check_golden(published) if not check.passed]
    assert [check.name for check in failed] == ["golden images, pipeline"] and "'unknown'" in failed[0].detail


@pytest.mark.parametrize("limit", [None, OPTIONS])
def test_a_card_says_when_the_model_answers_unknown(limit, tmp_path):
    folder = save_ours(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "unknown": limit}))
    (said,) = model_facts(folder)["limits"]
    assert ('says "unknown"' in said and "at most 5.0% of images of its classes" in said) == (limit is not None)
    assert ("gets one of these labels too" in said) == (limit is None)
