"""What is explained, of which images, and what comes with the maps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from saved_models import save_ours
from tiny import TINY

import modeling_vit_custom
from modeling_vit_custom import ViTCustomConfig, ViTCustomImageProcessor, api
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.images import viewable
from modeling_vit_custom.explanation.measures.perturbed import PerturbedImage
from modeling_vit_custom.explanation.methods.maps import pixel_map
from modeling_vit_custom.explanation.methods.table import METHODS

NAMES = {0: "cat", 1: "dog", 2: "fox", 3: "owl", 4: "rest"}


def model_of(random_model, **fields):
    return random_model(ViTCustomConfig(**{**TINY, "id2label": NAMES, **fields}))


def quick(model, images, *args, **kwargs):
    return explain(model, images, *args, check=False, confirm=0, **kwargs)


# ---------- what is explained


def test_the_answer_is_explained_unless_a_class_is_named(random_model, pixel_values):
    model = model_of(random_model)
    logits = model(pixel_values).logits.detach()
    best = logits.max(1).indices.tolist()
    found = quick(model, pixel_values)
    assert found.target == best and found.label == [NAMES[i] for i in best] and found.rows == [0, 1, 2]
    torch.testing.assert_close(found.logit, logits.max(1).values)
    torch.testing.assert_close(found.probability, logits.softmax(1).max(1).values)
    by_id = quick(model, pixel_values, 2)
    assert torch.equal(quick(model, pixel_values, "fox").grid, by_id.grid) and by_id.label == ["fox"] * 3
    assert torch.equal(quick(model, pixel_values, np.int64(2)).grid, by_id.grid)
    torch.testing.assert_close(by_id.logit, logits[:, 2])
    mixed = quick(model, pixel_values, ["cat", 2, "owl"])
    assert mixed.target == [0, 2, 3] and torch.allclose(mixed.grid[1], by_id.grid[1])
    assert torch.equal(quick(model, pixel_values, torch.tensor([0, 2, 3])).grid, mixed.grid)
    by_function = quick(model, pixel_values, lambda outputs: outputs.logits[:, 2])
    assert torch.equal(by_function.grid, by_id.grid) and by_function.label == ["target"] * 3


@pytest.mark.parametrize(
    "target,message",
    [
        ("dgo", "target='dgo' is none of the model's 5 classes: dog"),
        (5, "target=5: the model has the outputs 0 to 4"),
        (-1, "target=-1: the model has"),
        (True, "target=True: the model has"),
        (1.5, "target is a float: give a class by id or name, a list of these, or a function"),
        ([1, 2], "target has 2 entries for 3 images"),
        (lambda outputs: outputs.logits, r"target returned \(3, 5\): return a tensor of \(3,\)"),
        (lambda outputs: 1.0, "target returned float"),
    ],
)
def test_what_the_model_does_not_know_is_refused(random_model, pixel_values, target, message):
    with pytest.raises(ValueError, match=message):
        quick(model_of(random_model), pixel_values, target)


def test_contrast_explains_the_difference_of_two_logits(random_model, pixel_values):
    model = model_of(random_model, id2label={**NAMES, 4: "yak"})
    logits = model(pixel_values).logits.detach()
    found = explain(model, pixel_values, 1, contrast="owl", confirm=0)
    torch.testing.assert_close(found.logit, logits[:, 1] - logits[:, 3])
    torch.testing.assert_close(found.probability, logits.softmax(1)[:, 1])
    assert found.completeness.max() < 1e-4 and found.contrast == "owl" and found.signed
    assert torch.equal(found.ranking, found.grid)
    odds = (logits[:, 1] - logits[:, 3]).sigmoid()  # faithfulness watches the one class among the two
    assert [one["before"] for one in found.faithfulness] == pytest.approx(odds.tolist(), abs=1e-5)
    rest = quick(model, pixel_values, 1, contrast="rest")
    assert rest.drawn(0).title.startswith("dog rather than all others, p ")
    others = logits[:, [0, 2, 3, 4]].mean(1)
    torch.testing.assert_close(rest.logit, logits[:, 1] - others)
    class_of_that_name = quick(model_of(random_model), pixel_values, 1, contrast="rest")
    assert class_of_that_name.contrast == "rest" and not torch.allclose(class_of_that_name.logit, rest.logit)
    for contrast, message in ((1, "contrast=1 is what is explained"), ("emu", "contrast='emu' is none")):
        with pytest.raises(ValueError, match=message):
            quick(model, pixel_values, 1, contrast=contrast)
    with pytest.raises(ValueError, match="method='rollout' depends on no class; leave contrast out"):
        quick(model, pixel_values, 1, "rollout", contrast=2)
    with pytest.raises(ValueError, match="let it return the difference"):
        quick(model, pixel_values, lambda outputs: outputs.logits[:, 0], contrast=1)


def test_every_label_above_its_threshold_has_a_map(random_model, pixel_values):
    model = model_of(random_model, problem_type="multi_label_classification")
    logits = model(pixel_values).logits.detach()
    found = quick(model, pixel_values, batch_size=2)
    above = [(i, k) for i in range(3) for k in logits[i].argsort(descending=True).tolist() if logits[i, k] > 0]
    above += [(i, int(logits[i].max(0).indices)) for i in range(3) if (logits[i] <= 0).all()]
    assert sorted(zip(found.rows, found.target, strict=True)) == sorted(above) and len(found) > 3
    for row, (image, label) in enumerate(zip(found.rows, found.target, strict=True)):
        assert found.probability[row] == pytest.approx(float(logits[image, label].sigmoid()), abs=1e-6)
    one = quick(model, pixel_values, found.label[0])
    torch.testing.assert_close(one.grid[found.rows[0]], found.grid[0], rtol=1e-3, atol=1e-6)


def test_numbers_are_explained_with_both_signs(random_model, pixel_values):
    model = model_of(random_model, problem_type="regression", num_labels=2, id2label={0: "age", 1: "size"})
    found = explain(model, pixel_values, confirm=0)
    assert found.label == ["age", "size"] * 3 and found.signed and found.probability.isnan().all()
    torch.testing.assert_close(found.logit, model(pixel_values).logits.detach().flatten())
    assert found.completeness.max() < 1e-4 and "age, score" in found.drawn(0).title
    torch.testing.assert_close(found.map[0], pixel_map(found.grid[:1], (24, 32), (24, 32))[0])


# ---------- images


def test_images_files_and_pixel_values_are_the_same(random_model, tmp_path):
    model = model_of(random_model)
    processor = ViTCustomImageProcessor(size={"height": 24, "width": 32})
    photos = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)) for i in range(2)]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for photo, path in zip(photos, paths, strict=True):
        photo.save(path)
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    wanted = quick(model, pixels, 1, processor=processor)
    for images in (photos, paths, list(map(str, paths))):
        found = quick(model, images, 1, processor=processor)
        assert torch.equal(found.grid, wanted.grid) and np.array_equal(found.photos, wanted.photos)
    assert len(quick(model, photos[0], 1, processor=processor)) == len(
        quick(model, str(paths[0]), 1, processor=processor)
    )
    resized = np.asarray(photos[0].resize((32, 24), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(wanted.photos[0].astype(int) - resized).max() <= 12  # the model's view, its normalisation undone
    for images, message in (
        (photos, "images holds .*Image: give the model's processor"),
        ([], "images is empty"),
        (torch.zeros(3, 24, 32), "give the processor's pixel_values"),
        (torch.zeros(1, 3, 24, 32, dtype=torch.uint8), "give the processor's pixel_values"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(model, images, 1)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        quick(model, [tmp_path / "text.png"], processor=processor)


def test_a_saved_folder_is_loaded_with_its_processor(tmp_path):
    folder = save_ours(tmp_path / "model")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    model, processor = api.load(folder)
    by_name = api.explain(folder, photo, check=False, confirm=0)
    assert torch.equal(by_name.grid, quick(model, photo, processor=processor).grid)


@pytest.mark.parametrize("channels,shown", [(1, 1), (2, 1), (3, 3), (5, 3)])
def test_images_of_any_number_of_channels_are_shown(channels, shown):
    photos = viewable(torch.randn(2, channels, 6, 5), None)
    assert photos.shape == (2, 6, 5, 3) and photos.dtype == np.uint8
    assert {photos.min(), photos.max()} <= {*range(256)}
    assert (photos[..., 0] == photos[..., 1]).all() == (shown == 1)


# ---------- what comes with the maps


def test_each_map_is_measured_on_its_image(random_model, pixel_values):
    model = model_of(random_model)
    found = explain(model, pixel_values, 1, confirm=4)
    for row in range(3):
        measured, probability = found.faithfulness[row], float(found.probability[row])
        assert measured["srg"] == pytest.approx(measured["insertion"] - measured["deletion"])
        assert measured["before"] == pytest.approx(probability, abs=1e-5)
        top = found.ranking[row].flatten().argsort(descending=True)[:4].tolist()
        assert list(found.confirmed[row]) == [(cell // 4, cell % 4) for cell in top]
        image = PerturbedImage(lambda x: model(x).logits[:, 1], pixel_values[row], (3, 4))
        for (row_of, column), lowers in found.confirmed[row].items():
            less = torch.where(torch.zeros(3, 24, 32).bool(), 0.0, pixel_values[row])
            area = (slice(None), slice(8 * row_of, 8 * row_of + 8), slice(8 * column, 8 * column + 8))
            less[area] = image.baseline[area]
            with torch.no_grad():
                assert lowers == bool(model(less[None]).logits[0, 1] < model(pixel_values[row : row + 1]).logits[0, 1])
    unmeasured = quick(model, pixel_values, 1)
    assert unmeasured.faithfulness is None and unmeasured.confirmed is None and unmeasured.completeness is None
    torch.testing.assert_close(unmeasured.grid, found.grid, rtol=1e-4, atol=1e-6)


def test_notes_say_what_one_must_know(random_model, pixel_values):
    model = model_of(random_model)
    with torch.no_grad():
        model.classifier.bias += 100
    assert "comes from no pixel" in explain(model, pixel_values, 1, confirm=0).remarks[0][0]
    with torch.no_grad():  # one patch that looks like no other gets a huge position
        model.vit.embeddings.position_embeddings[0, 5] *= 1000
    remarks = quick(model, pixel_values, 1).remarks
    assert any("single tokens have norms far above all others" in remark for row in remarks for remark in row)


def test_results_are_written(random_model, pixel_values, tmp_path):
    model = model_of(random_model)
    found = explain(model, pixel_values, 1, confirm=2)
    lines = [json.loads(line) for line in found.to_json().splitlines()]
    assert lines == found.records() and [line["image"] for line in lines] == [0, 1, 2]
    first = lines[0]
    assert first["label"] == "dog" and first["method"] == "libra" and first["caveat"] is None
    assert np.allclose(first["grid"], found.grid[0], rtol=1e-4)
    assert [cell["confirmed"] is None for cell in first["top_cells"]] == [False] * 2 + [True] * 6
    assert first["faithfulness"]["srg"] == found.faithfulness[0]["srg"]
    assert "Explanation: libra of 3 answers (dog, dog, dog), 3×4" in repr(found)
    paths = found.save(tmp_path / "maps")
    assert [path.name for path in paths] == ["0.png", "1.png", "2.png"]
    single = explain(model, pixel_values[:1], 1, "rollout", confirm=0)
    assert single.records()[0]["caveat"] == "not an explanation of the class"
    (path,) = single.save(tmp_path / "one.png")
    with Image.open(path) as written:
        assert written.size == single.image().size
    drawn = found.drawn(0)
    assert drawn.title.startswith("dog, p 0.") and drawn.lines[0] == "method libra"
    assert [cell for cell, lowers in found.confirmed[0].items() if not lowers] == list(drawn.unconfirmed)
    assert explain(model, pixel_values, method="pca").image(1).size == (32, 24)


def test_a_map_that_says_little_says_so(random_model, pixel_values):
    found = explain(model_of(random_model), pixel_values, 1, confirm=0)
    found.probability[:] = 0.9
    found.faithfulness[0] |= {"srg": 0.1, "srg_random": 0.0}
    found.faithfulness[1] |= {"srg": -0.1, "srg_random": 0.0}
    found.probability[2] = 0.3
    assert found.little(0) is None and "random ones" in found.little(1) and "not sure" in found.little(2)


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"method": "lime"}, "method='lime': give one of libra, place, chefer"),
        ({"batch_size": 0}, "batch_size=0: give 1 or more"),
        ({"confirm": -1}, "confirm=-1: give the number of cells"),
    ],
)
def test_impossible_wishes_are_refused(random_model, pixel_values, kwargs, message):
    with pytest.raises(ValueError, match=message):
        explain(model_of(random_model), pixel_values, 1, **kwargs)


def test_the_package_and_its_api_have_it():
    assert modeling_vit_custom.explain is explain is api.explain
    assert modeling_vit_custom.Explanation is api.Explanation
    with pytest.raises(AttributeError, match="has no attribute 'explains'"):
        modeling_vit_custom.explains  # noqa: B018
    assert all(method.words for method in METHODS.values())


def test_without_a_processor_each_image_is_stretched_from_its_lowest_value_to_its_highest(pixel_values):
    """Linearly, so that no part of it is lost to black or white."""
    shown = viewable(pixel_values[:2] * 3 + 1, None)
    for image, photo in zip(pixel_values[:2].permute(0, 2, 3, 1).numpy(), shown, strict=True):
        expected = (image - image.min()) / (image.max() - image.min()) * 255
        np.testing.assert_allclose(photo[..., : image.shape[2]], expected[..., :3], atol=0.51)
