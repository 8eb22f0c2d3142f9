"""What is saved is a flat, complete repository: it loads where this package is not installed."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from fresh_process import run_without_package
from model_classes import MODELS
from PIL import Image
from rounding import assert_close_but_for_rounding
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from tiny import TINY
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    pipeline,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomForSemanticSegmentation,
    ViTCustomImageProcessor,
    ViTCustomModel,
)
from modeling_vit_custom.auto_classes_vit_custom import AUTO_MAP

ROOT = Path(__file__).parent.parent

LOAD_EVERYTHING = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
folder, images, out = sys.argv[1:4]
pixel_values = load_file(images)["pixel_values"]
with torch.no_grad():
    classifier = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    resized = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True, image_size=(40, 16))
    assert type(classifier).__module__.startswith("transformers_modules."), type(classifier).__module__
    assert resized.config.image_size == (40, 16)
    save_file({"logits": classifier(pixel_values).logits, "pooled": base(pixel_values).pooler_output.contiguous()}, out)
for backend in ("torchvision", "pil"):
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, backend=backend)
    assert processor.backend == backend, processor.backend
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
print(classify(sys.argv[4], top_k=1)[0]["label"])
features = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
print(len(features(sys.argv[4])[0]))
if len(sys.argv) > 5:
    classifier.save_pretrained(sys.argv[5])
    processor.save_pretrained(sys.argv[5])
"""


@pytest.fixture
def classifier(random_model) -> ViTCustomForImageClassification:
    names = dict(enumerate(["ant", "bee", "cat", "dog", "eel"]))
    fields = {name: value for name, value in TINY.items() if name != "num_labels"}
    return random_model(ViTCustomConfig(**fields, id2label=names))


@pytest.fixture
def photograph(tmp_path) -> Path:
    path = tmp_path / "flower.jpg"
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    return path


def save_repository(folder: Path, model) -> Path:
    model.save_pretrained(folder)
    ViTCustomImageProcessor.for_model(model.config).save_pretrained(folder)
    return folder


def assert_complete(folder: Path):
    """Every auto_map value names a class in a file of this folder, flat; every relative import is satisfied."""
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            continue
        for target in json.loads((folder / name).read_text())["auto_map"].values():
            for reference in target.values() if isinstance(target, dict) else [target]:
                module, class_name = reference.split(".")
                assert f"class {class_name}(" in (folder / f"{module}.py").read_text()
    for path in folder.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith("from ."):
                assert (folder / f"{line.split()[1][1:]}.py").is_file(), (path.name, line)
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def assert_loads_anywhere(folder: Path, model, photograph: Path, tmp_path: Path, resave_to: Path | None = None):
    """A fresh process without the package loads every class, with the same numbers, and serves both pipelines."""
    pixel_values = torch.randn(2, 3, 24, 32)
    scratch = tmp_path / f"fresh-{folder.name}"
    scratch.mkdir()
    save_file({"pixel_values": pixel_values}, scratch / "images.safetensors")
    arguments = [folder, scratch / "images.safetensors", scratch / "out.safetensors", photograph]
    printed = run_without_package(LOAD_EVERYTHING, scratch, *arguments, *([resave_to] if resave_to else []))
    outputs = load_file(scratch / "out.safetensors")
    with torch.no_grad():
        # equal up to how the matrix library treats weights that lie differently aligned in memory
        expected = model(pixel_values).logits, model.vit(pixel_values).pooler_output
        assert_close_but_for_rounding((outputs["logits"], outputs["pooled"]), expected, model.config)
    classify = pipeline("image-classification", model=str(folder))
    assert printed.splitlines() == [classify(str(photograph), top_k=1)[0]["label"], "13"]


def test_saved_folder_loads_without_the_package_and_saves_on(tmp_path, classifier, photograph):
    saved = save_repository(tmp_path / "saved", classifier)
    assert_complete(saved)
    resaved = tmp_path / "resaved"
    assert_loads_anywhere(saved, classifier, photograph, tmp_path, resave_to=resaved)
    assert_complete(resaved)
    assert sorted(path.name for path in resaved.iterdir()) == sorted(path.name for path in saved.iterdir())
    assert (
        json.loads((resaved / "config.json").read_text())["auto_map"]
        == json.loads((saved / "config.json").read_text())["auto_map"]
    )
    assert_loads_anywhere(resaved, classifier, photograph, tmp_path)


FROM_CHECKOUT = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
checkout, out = sys.argv[1:3]
config = AutoConfig.from_pretrained(checkout, trust_remote_code=True, hidden_size=32, num_hidden_layers=3,
                                    num_attention_heads=4, intermediate_size=48, image_size=(24, 32), patch_size=8,
                                    id2label=dict(enumerate(["ant", "bee", "cat", "dog", "eel"])))
assert type(AutoModel.from_config(config, trust_remote_code=True)).__name__ == "ViTCustomModel"
model = AutoModelForImageClassification.from_config(config, trust_remote_code=True)
model.save_pretrained(out)
"""


def test_checkout_is_loadable_and_what_it_saves_is_complete(tmp_path, photograph):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "config.json", checkout)
    shutil.copytree(
        ROOT / "modeling_vit_custom", checkout / "modeling_vit_custom", ignore=shutil.ignore_patterns("__pycache__")
    )
    saved = tmp_path / "from-checkout"
    run_without_package(FROM_CHECKOUT, tmp_path / "build", checkout, saved)
    assert_complete(saved)
    model = ViTCustomForImageClassification.from_pretrained(saved)
    ViTCustomImageProcessor.for_model(model.config).save_pretrained(saved)
    assert_loads_anywhere(saved, model, photograph, tmp_path)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_a_saved_folder_lists_its_own_class_and_the_encoder(tmp_path, tiny_config, cls):
    cls(tiny_config).save_pretrained(tmp_path)
    assert_complete(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig", "AutoModel", *(auto for auto, target in AUTO_MAP.items() if target.endswith(cls.__name__))}
    assert stored["auto_map"] == {auto: AUTO_MAP[auto] for auto in own}
    assert ("image-classification" in stored.get("custom_pipelines", {})) == (cls is ViTCustomForImageClassification)
    files = {path.stem for path in tmp_path.glob("*.py")}
    assert ("masked_images_vit_custom" in files) == (cls is ViTCustomForMaskedImageModeling)
    assert ("segmentation_vit_custom" in files) == (cls is ViTCustomForSemanticSegmentation)


OWN_HEAD = """
from modeling_vit_custom import ViTCustomForImageClassification

class WithTwoHeads(ViTCustomForImageClassification):
    pass

WithTwoHeads.register_for_auto_class("AutoModelForImageClassification")
"""


def test_a_users_own_subclass_is_listed_and_loaded(tmp_path, tiny_config, monkeypatch):
    (tmp_path / "own_head.py").write_text(OWN_HEAD)
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("own_head").WithTwoHeads(tiny_config).eval()
    model.save_pretrained(tmp_path / "saved")
    auto_map = json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForImageClassification"] == "own_head.WithTwoHeads"
    cls = get_class_from_dynamic_module("own_head.WithTwoHeads", tmp_path / "saved")
    pixels = torch.randn(1, 3, 24, 32)
    loaded = cls.from_pretrained(tmp_path / "saved")
    assert type(loaded).__name__ == "WithTwoHeads"
    assert_close_but_for_rounding((loaded(pixels).logits,), (model(pixels).logits,), model.config)


def test_saving_the_config_alone_into_a_model_folder_keeps_its_map(tmp_path, classifier):
    classifier.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    ViTCustomConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == before["auto_map"]


def test_a_hub_reference_in_auto_map_never_survives_a_save(tmp_path, classifier):
    """`repo--module.Class` would run another repository's newest code, whatever revision is pinned."""
    classifier.config.auto_map = {"AutoModel": "someone/else--modeling_vit_custom.ViTCustomModel"}
    classifier.save_pretrained(tmp_path)
    assert "--" not in (tmp_path / "config.json").read_text()


def test_importing_the_package_makes_the_trust_flag_needless(tmp_path, classifier):
    save_repository(tmp_path, classifier)
    assert type(AutoConfig.from_pretrained(tmp_path)) is ViTCustomConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is ViTCustomModel
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is ViTCustomForImageClassification
    assert type(AutoModelForMaskedImageModeling.from_pretrained(tmp_path)) is ViTCustomForMaskedImageModeling
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ViTCustomImageProcessor


def test_weights_are_sharded_and_read_back(tmp_path, classifier):
    classifier.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
