"""`pipeline("image-classification", …)` uses our decoder however it is called, and keeps transformers' features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_process import run_without_package
from image_files import encode, photograph, with_alpha
from PIL import Image
from saved_models import save_ours, save_transformers_vit
from torch.utils.data import Dataset, IterableDataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, ImageClassificationPipeline, pipeline

from modeling_vit_custom import ImageDecodingError, ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.auto_classes_vit_custom import CUSTOM_PIPELINES
from modeling_vit_custom.pipeline_vit_custom import ViTCustomImageClassificationPipeline

ROOT = Path(__file__).parent.parent
TASK = "image-classification"
ROUNDING = 1e-5  # of a score from 0 to 1: batches of other sizes sum in another order
PHOTO = photograph()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_ours(tmp_path_factory.mktemp("saved"), num_channels=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Write images that transformers' own pipeline changes: half transparent, grey with alpha, 16 bits, float."""
    folder = tmp_path_factory.mktemp("files")
    alpha = with_alpha(PHOTO)
    grey = np.asarray(PHOTO.convert("L"))
    contents = {
        "rgba.png": encode(alpha, "PNG"),
        "la.png": encode(alpha.convert("LA"), "PNG"),
        "deep.png": encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "float.tiff": encode(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


@pytest.fixture(scope="module")
def classify(saved):
    return pipeline(TASK, model=str(saved))


def scores(results) -> np.ndarray:
    """Return [images, 10]: the scores of `results` sorted by label."""
    return np.array([[score for _, score in sorted((r["label"], r["score"]) for r in one)] for one in results])


@pytest.fixture(scope="module")
def expected(saved, files) -> np.ndarray:
    model = AutoModelForImageClassification.from_pretrained(saved)
    processor = AutoImageProcessor.from_pretrained(saved)
    with torch.no_grad():
        return model(**processor(files, return_tensors="pt")).logits.softmax(-1).numpy()


# ---------- every way to call it


def test_importing_the_package_serves_a_folder_without_trust(classify, files, expected):
    assert type(classify) is ViTCustomImageClassificationPipeline
    np.testing.assert_allclose(scores(classify(files, top_k=10)), expected, atol=ROUNDING)


@pytest.mark.parametrize("given", ["model", "task and model", "trust"])
def test_model_objects_and_flags(given, saved, files, expected):
    model = AutoModelForImageClassification.from_pretrained(saved)
    processor = AutoImageProcessor.from_pretrained(saved)
    made = {
        "model": lambda: pipeline(TASK, model=model, image_processor=processor),
        "task and model": lambda: pipeline(task=TASK, model=model, config=model.config, image_processor=processor),
        "trust": lambda: pipeline(TASK, model=str(saved), trust_remote_code=True),
    }[given]()
    np.testing.assert_allclose(scores(made(files, top_k=10)), expected, atol=ROUNDING)


def test_other_models_keep_transformers_own_pipeline(tmp_path):
    folder = save_transformers_vit(tmp_path)
    classify = pipeline(TASK, model=str(folder))
    assert type(classify) is ImageClassificationPipeline
    assert len(classify(PHOTO)) == 5


FRESH = """
import os, shutil
from pathlib import Path
folder, image, again = sys.argv[1:4]
sha = "0123456789abcdef0123456789abcdef01234567"
repo = Path(os.environ["HF_HOME"], "hub", "models--someone--digits")
(repo / "refs").mkdir(parents=True)
(repo / "refs" / "main").write_text(sha)
shutil.copytree(folder, repo / "snapshots" / sha)
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
TASK = "image-classification"
trust = dict(trust_remote_code=True)
def show(classify):
    assert type(classify).__name__ == "ViTCustomImageClassificationPipeline", type(classify)
    assert type(classify).__module__.startswith("transformers_modules."), type(classify).__module__
    print([round(r["score"], 6) for r in sorted(classify(image, top_k=10), key=lambda r: r["label"])])
    return classify
folder_pipeline = show(pipeline(TASK, model=folder, **trust))
print(folder_pipeline.model.config, file=sys.stderr)  # `pipeline` writes classes into what it reads of the config
show(pipeline(model=folder, **trust))
show(pipeline(TASK, model="someone/digits", **trust))
show(pipeline(TASK, model="someone/digits", revision=sha, **trust))
model = AutoModelForImageClassification.from_pretrained(folder, **trust)
processor = AutoImageProcessor.from_pretrained(folder, **trust)
show(pipeline(TASK, model=model, image_processor=processor))
folder_pipeline.save_pretrained(again)
show(pipeline(TASK, model=again, **trust))
model = AutoModelForImageClassification.from_pretrained(again, **trust)  # nothing but the model was loaded
model.save_pretrained(again + "2")
processor.save_pretrained(again + "2")
show(pipeline(TASK, model=again + "2", **trust))
"""


def test_a_process_without_the_package_uses_our_decoder_on_every_way(saved, files, expected, tmp_path):
    """The ways: folder, task left out, Hub id, pinned revision, model object, and after two saves."""
    printed = run_without_package(FRESH, tmp_path / "fresh", saved, files[0], tmp_path / "again")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert len(lines) == 7
    np.testing.assert_allclose(lines, np.tile(expected[0], (7, 1)), atol=ROUNDING)
    for folder in (saved, tmp_path / "again", tmp_path / "again2"):
        stored = json.loads((folder / "config.json").read_text())
        assert stored["custom_pipelines"] == CUSTOM_PIPELINES
        module, name = stored["custom_pipelines"][TASK]["impl"].split(".")
        assert f"class {name}(" in (folder / f"{module}.py").read_text()


FROM_CHECKOUT = """
from transformers import AutoModelForImageClassification, pipeline
checkout, image, processor = sys.argv[1:4]
model = AutoModelForImageClassification.from_pretrained(checkout, trust_remote_code=True)
classify = pipeline("image-classification", model=checkout, image_processor=processor, trust_remote_code=True)
print(type(classify).__name__, len(classify(image)))
"""


def test_the_checkout_itself_is_served(saved, files, tmp_path):
    """The config.json of the checkout names files in a sub-folder."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "modeling_vit_custom", checkout / "modeling_vit_custom", ignore=ignored)
    shutil.copy(saved / "model.safetensors", checkout)
    code = {key: json.loads((ROOT / "config.json").read_text())[key] for key in ("auto_map", "custom_pipelines")}
    (checkout / "config.json").write_text(json.dumps(json.loads((saved / "config.json").read_text()) | code))
    printed = run_without_package(FROM_CHECKOUT, tmp_path / "fresh", checkout, files[0], saved)
    assert printed.split() == ["ViTCustomImageClassificationPipeline", "5"]


def test_a_config_saved_alone_names_no_pipeline(tmp_path):
    ViTCustomConfig().save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


def test_feature_extraction_is_transformers_own(saved, files):
    features = pipeline("image-feature-extraction", model=str(saved))
    assert type(features).__name__ == "ImageFeatureExtractionPipeline"
    assert np.isfinite(features(files[0])).all()


# ---------- what it accepts


def test_every_source_of_one_image_gives_the_same_scores(classify, files):
    file = files[0]
    with Image.open(file) as image:
        array = np.asarray(image)
        sources = [file, Path(file), Path(file).read_bytes(), image, array, torch.tensor(array), array / 255]
        sources += [np.moveaxis(array, -1, 0), array.astype(np.uint16) * 257, {"bytes": None, "path": file}]
        results = scores([classify(source, top_k=10) for source in sources])
        together = scores(classify(sources, top_k=10))  # mixed uint8, uint16 and float
        batched = scores(classify(sources, top_k=10, batch_size=4))
    assert (results == results[0]).all()
    np.testing.assert_allclose(together, results, atol=ROUNDING)
    np.testing.assert_allclose(batched, results, atol=ROUNDING)


def test_a_four_dimensional_array_is_several_images(classify):
    batch = np.stack([np.asarray(PHOTO), np.asarray(PHOTO)[::-1], 255 - np.asarray(PHOTO)])
    one_by_one = scores([classify(image, top_k=10) for image in batch])
    assert np.abs(one_by_one[0] - one_by_one[2]).max() > 1e-3
    for given in (batch, torch.tensor(batch), list(batch), tuple(batch), batch.transpose(0, 3, 1, 2)):
        np.testing.assert_allclose(scores(classify(given, top_k=10)), one_by_one, atol=ROUNDING)


@pytest.mark.parametrize(
    "nothing", [[], (), None, np.zeros((0, 8, 8, 3), np.uint8)], ids=["[]", "()", "None", "0x8x8x3"]
)
def test_no_image_is_refused(classify, nothing):
    with pytest.raises(ValueError, match="inputs: there is no image"):
        classify(nothing)


REFUSED = {
    "NaN": (np.full((8, 9, 3), np.nan), "contains NaN or infinity"),
    "infinity": (np.full((8, 9, 3), np.inf), "contains NaN or infinity"),
    "float beyond [0, 1]": (np.full((8, 9, 3), 7.0), r"float values must be in \[0, 1\]"),
    "ambiguous": (np.zeros((3, 64, 3), np.uint8), "channels first or last"),
    "a list in a list": ([PHOTO, PHOTO], "list is not an image source"),
    "an address": ("https://example.org/cat.jpg", "only local files are read.*allow_urls=True"),
    "a missing file": ("nowhere.png", "nowhere.png.*there is no such file"),
}


@pytest.mark.parametrize("bad, reason", REFUSED.values(), ids=REFUSED)
def test_what_is_unclear_is_refused_by_position(classify, bad, reason):
    if not isinstance(bad, list):
        with pytest.raises(ImageDecodingError, match=reason):
            classify(bad)
    for batch_size in (1, 3):
        with pytest.raises(ImageDecodingError, match=rf"^image 1\b.*{reason}"):
            classify([PHOTO, bad, PHOTO], batch_size=batch_size)


def test_arguments_for_arrays(classify):
    array = np.asarray(PHOTO)
    assert classify(array[..., ::-1], channel_order="bgr") == classify(array)
    strip = np.ascontiguousarray(array[:3, :, :])
    assert len(classify(strip, input_data_format="channels_last")) == 5
    with pytest.raises(TypeError, match="no argument 'chanel_order'"):
        classify(array, chanel_order="bgr")


# ---------- errors


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_on_error(classify, files, batch_size, caplog):
    images = [files[0], b"nothing", PHOTO, "nowhere.png", files[1]]
    whole = classify([files[0], PHOTO, files[1]])
    reported = classify(images, on_error="report", batch_size=batch_size)
    assert len(reported) == 5 and not caplog.messages
    assert "image 1: not an image" in reported[1]["error"] and "image 3 (nowhere.png)" in reported[3]["error"]
    np.testing.assert_allclose(scores([reported[i] for i in (0, 2, 4)]), scores(whole), atol=ROUNDING)
    streamed = list(classify((image for image in images), on_error="report", batch_size=batch_size))
    assert [type(result) for result in streamed] == [list, dict, list, dict, list]
    assert classify(b"nothing", on_error="report")["error"].startswith("image given as bytes: not an image")


def test_on_error_skip_names_what_it_leaves_out(classify, files, caplog):
    images = [files[0], b"nothing", PHOTO]
    assert len(classify(images, on_error="skip")) == 2
    assert len(list(classify((image for image in images), on_error="skip"))) == 2
    assert caplog.text.count("LEFT OUT: image 1: not an image") == 2
    with pytest.raises(ValueError, match="on_error='ignore': give one of raise, skip, report"):
        classify(images, on_error="ignore")


def test_on_error_can_be_set_for_good(saved, files):
    classify = pipeline(TASK, model=str(saved), on_error="report", batch_size=2)
    assert "error" in classify([files[0], b"nothing", files[1]])[1]


def test_a_model_that_answers_nan_is_refused(saved, files):
    model = AutoModelForImageClassification.from_pretrained(saved)
    with torch.no_grad():
        model.classifier.bias[3] = float("nan")
    classify = pipeline(TASK, model=model, image_processor=AutoImageProcessor.from_pretrained(saved))
    with pytest.raises(ValueError, match=r"rgba\.png: the model's output is NaN or infinite"):
        classify(files[0])
    results = classify(files[:2], on_error="report")
    assert all("NaN" in result["error"] for result in results)


# ---------- as in transformers' pipeline


class Stored(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class Streamed(IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


@pytest.mark.parametrize(
    "kind, batch_size, num_workers",
    [
        *((kind, size, 0) for kind in ("list", "dataset", "iterable dataset", "generator") for size in (1, 3)),
        ("list", 3, 1),
        ("dataset", 3, 1),  # no generator: transformers' pipeline cannot send one to another process either
    ],
)
def test_collections_batches_and_workers(classify, files, kind, batch_size, num_workers):
    whole = scores(classify(files, top_k=10))
    given = {
        "list": files, "dataset": Stored(files), "iterable dataset": Streamed(files), "generator": iter_of(files),
    }[kind]  # fmt: skip
    results = list(classify(given, top_k=10, batch_size=batch_size, num_workers=num_workers))
    np.testing.assert_allclose(scores(results), whole, atol=ROUNDING)


def iter_of(images):
    yield from images


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"function_to_apply": "sigmoid"}, {"function_to_apply": "none"}])
@pytest.mark.parametrize(
    "problem_type, num_labels", [(None, 10), ("multi_label_classification", 10), ("regression", 1)]
)
def test_scores_are_those_of_transformers_pipeline(tmp_path, options, problem_type, num_labels):
    folder = save_ours(
        tmp_path, num_channels=3, problem_type=problem_type, num_labels=num_labels,
        id2label={i: f"label {i}" for i in range(num_labels)},
    )  # fmt: skip
    model = ViTCustomForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    stock = ImageClassificationPipeline(model=model, image_processor=processor, task=TASK)
    assert pipeline(TASK, model=model, image_processor=processor)(PHOTO, **options) == stock(PHOTO, **options)


def test_another_class_s_image_processor_gets_decoded_images(saved, files, tmp_path):
    from transformers import ViTImageProcessor

    model = ViTCustomForImageClassification.from_pretrained(saved)
    height, width = model.config.image_hw
    foreign = ViTImageProcessor(size={"height": height, "width": width})
    own = AutoImageProcessor.from_pretrained(saved)
    results = [pipeline(TASK, model=model, image_processor=each)(files, top_k=10) for each in (foreign, own)]
    np.testing.assert_allclose(scores(results[0]), scores(results[1]), atol=1e-5)
