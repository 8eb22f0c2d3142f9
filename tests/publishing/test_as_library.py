"""publish --as hf and timm: the library's own loaders take it in a fresh process, and it gives our model's answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_process import run_without_package
from hub_server import client_environment
from image_files import CHINA, FLOWER
from safetensors.torch import load_file, save_file
from saved_models import save_ours

from modeling_vit_custom import ViTCustomForImageClassification, ViTCustomImageProcessor
from modeling_vit_custom.cli import main
from modeling_vit_custom.common.claims import write_stamped
from modeling_vit_custom.publishing import publish as publish_module
from modeling_vit_custom.publishing.checks import check_folder
from modeling_vit_custom.publishing.forms import CUSTOM, HF, TIMM, form_of
from modeling_vit_custom.publishing.publish import Origin, prepare, send, snippet
from modeling_vit_custom.publishing.upload import PublishError
from modeling_vit_custom.tasks.hub import CLASSIFICATION

# the client sends a file the way that its own HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "ada/tiny"
NAMES = {0: "palace", 1: "flower", 2: "digit"}
PLAIN = {
    "num_channels": 3, "id2label": NAMES, "num_labels": 3, "stem": "patch", "image_size": 32, "patch_size": 8,
    "pooling": "cls", "use_cls_token": True, "layer_norm_eps": 1e-6,
}  # fmt: skip
# What a stranger runs: arguments are the repository or folder, its commit or "None", and an image.
LOADS = {
    "hf": """
from transformers import pipeline
where, revision, image = sys.argv[1:4]
answer = pipeline("image-classification", model=where, revision=None if revision == "None" else revision)(image)
print({each["label"]: each["score"] for each in answer})
""",
    "timm": """
import timm, torch
from PIL import Image
where, revision, image = sys.argv[1:4]
name = f"local-dir:{where}" if revision == "None" else f"hf_hub:{where}@{revision}"
model = timm.create_model(name, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.no_grad():
    scores = model(transform(Image.open(image).convert("RGB")).unsqueeze(0)).softmax(-1)[0].tolist()
print(dict(zip(model.pretrained_cfg["label_names"], scores)))
""",
}


def trained(folder: Path, **fields) -> Path:
    """A classifier with the records of a training."""
    save_ours(folder, **{**PLAIN, **fields})
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 0.05  # scores away from 0 and 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_stamped(folder / "metrics.json", {"validation": {"n": 4, "accuracy": 0.75}, "train": {"n": 9}})
    write_stamped(folder / "training_args.json", {"model": {"variant": "x"}, "training": {"seed": 1}})
    (folder / "LICENSE").write_text("do as you like\n")
    return folder


def our_scores(folder: Path, image: Path) -> dict[str, float]:
    model = ViTCustomForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**ViTCustomImageProcessor.from_pretrained(folder)([str(image)], return_tensors="pt")).logits
    return {model.config.id2label[i]: score for i, score in enumerate(logits.softmax(-1)[0].tolist())}


@pytest.fixture(scope="module", params=["hf", "timm"])
def staged(request, tmp_path_factory):
    """(library, folder of ours, what one `prepare` has staged, what writes its card)"""
    root = tmp_path_factory.mktemp(request.param)
    model = trained(root / "model")
    card = prepare(model, root / "staged", REPO, Origin("mit"), [CHINA], library=request.param)
    return request.param, model, root / "staged", card


def test_a_stranger_loads_it_without_trust_and_gets_our_answers(staged, tmp_path):
    library, model, folder, _ = staged
    printed = run_without_package(LOADS[library], tmp_path / "fresh", folder, "None", folder / "examples" / "0.png")
    assert eval(printed) == pytest.approx(our_scores(model, folder / "examples" / "0.png"), abs=2e-4)
    assert not list(folder.glob("*.py")) and "auto_map" not in (folder / "config.json").read_text()


def test_the_card_says_what_it_is_and_that_no_code_is_needed(staged):
    library, _, folder, _ = staged
    card = (folder / "README.md").read_text()
    code = card.split("```python")[1].split("```")[0]
    assert "trust_remote_code" not in card and "no remote code is" in card and "measured before that" in card
    named = {"hf": "`ViTForImageClassification` of transformers", "timm": "`vit_base_patch16_224` of timm"}[library]
    assert named in card and f"library_name: {'transformers' if library == 'hf' else 'timm'}\n" in card
    compile(code, "card", "exec")
    assert ("timm.create_model" in code) == (library == "timm") and "75.0%" in card
    assert "vit_custom" not in card.split("---")[1] and "Python files" not in card


def test_records_name_both_weights(staged):
    _, model, folder, _ = staged
    before = json.loads((model / "metrics.json").read_text())
    for name in ("metrics.json", "training_args.json", "conversion.json"):
        record = json.loads((folder / name).read_text())
        assert record["before_conversion"] == before["weights"] != record["weights"]
    assert json.loads((folder / "metrics.json").read_text())["validation"] == before["validation"]
    report = json.loads((folder / "conversion.json").read_text())
    assert report["check"]["from_pixels"]["passed"] and report["check"]["from_pixels"]["grey_levels"] <= 2.01
    assert (folder / "LICENSE").is_file()


def test_timm_s_settings_are_there(staged):
    library, _, folder, _ = staged
    if library != "timm":
        pytest.skip("of timm")
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "vit_base_patch16_224" and config["num_classes"] == 3
    assert config["label_names"] == [*NAMES.values()]
    assert {"mean", "std", "crop_pct", "crop_mode", "interpolation"} <= config["pretrained_cfg"].keys()


# ---------- what a repository must not hold


def edit(name: str, **changes):
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


def hide_code(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[max(weights)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def more_prepared(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["file"] = "/etc/passwd"
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES = {
    "code": (("hf", "timm"), hide_code, "no code", "evil.py: code"),
    "a processor that names code": (
        ("hf",), edit("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"}), "no code", "auto_map",
    ),
    "a kernel of the Hub": (
        ("hf",), edit("config.json", attn_implementation="evil/kernel"), "no code", "attn_implementation, which names",
    ),
    "an adapter, of another model": (
        ("hf",), lambda folder: (folder / "adapter_config.json").write_text("{}"), "configuration", "holds an adapter",
    ),
    "a class that is not written here": (
        ("hf",), edit("config.json", architectures=["ResNetForImageClassification"]), "configuration",
        "architectures is",
    ),
    "another class than the configuration's": (
        ("hf",), edit("config.json", architectures=["Dinov2ForImageClassification"]), "configuration", "model_type is",
    ),
    "more layers than weights": (
        ("hf",), edit("config.json", num_hidden_layers=4), "weights fit the model", "missing",
    ),
    "an image of another size": (
        ("hf",), edit("preprocessor_config.json", size={"height": 8, "width": 8}), "image processor", "32x32",
    ),
    "an address to load from": (("timm",), more_prepared, "configuration", "pretrained_cfg holds file"),
    "an architecture of a path": (
        ("timm",), edit("config.json", architecture="hf-hub:a/b"), "configuration", "plain name",
    ),
    "a tensor less": (("hf", "timm"), lose, "weights fit the model", "missing"),
    "not a number": (("hf", "timm"), poison, "finite weights", "NaN"),
    "labels twice": (("timm",), edit("config.json", label_names=["a", "a", "b"]), "labels", "several classes"),
    "another library's card": (
        ("hf", "timm"),
        lambda folder: (folder / "README.md").write_text(
            (folder / "README.md").read_text().replace("library_name: t", "library_name: x")
        ),
        "model card", "library_name is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_seen_before_anything_is_loaded(staged, tmp_path, damage, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.measure", lambda *_: pytest.fail("it was loaded"))
    library, _, folder, _ = staged
    libraries, harm, check, message = DAMAGES[damage]
    if library not in libraries:
        pytest.skip(f"of {libraries[0]}")
    copy = shutil.copytree(folder, tmp_path / "copy")
    harm(copy)
    failed = {each.name: each.detail for each in check_folder(copy) if not each.passed}
    assert message in failed[check]
    assert all(detail.startswith("not run: ") for name, detail in failed.items() if name not in (check, "records"))


# ---------- what is refused


@pytest.mark.parametrize(
    ("fields", "library", "message"),
    [
        ({"rope_theta": 100.0, "position_embedding": "none"}, "hf", "vit has no place for .*rope_theta=100.0"),
        ({"stem": "conv"}, "timm", "has no place for stem='conv' .only 'patch'"),
        ({"num_channels": 1}, "hf", "num_channels=1 .only 3.: pipelines and servers of transformers"),
    ],
)
def test_what_the_library_cannot_say_is_named_before_anything_is_staged(tmp_path, fields, library, message):
    with pytest.raises(PublishError, match=message):
        prepare(trained(tmp_path / "m", **fields), tmp_path / "staged", REPO, Origin("mit"), library=library)
    assert not (tmp_path / "staged").exists()


def test_what_is_not_the_model_is_not_converted(tmp_path, capsys):
    folder = trained(tmp_path / "m")
    with open(folder / "modeling_vit_custom.py", "a") as file:
        file.write("\nx = 1\n")
    with pytest.raises(PublishError, match=r"modeling_vit_custom\.py: not the code of vit-custom"):
        prepare(folder, tmp_path / "a", REPO, Origin("mit"), library="hf")
    folder = trained(tmp_path / "n")
    write_stamped(folder / "metrics.json", {"validation": {"n": 4, "accuracy": 0.75}})
    poisoned = json.loads((folder / "metrics.json").read_text()) | {"weights": {"sha256": "0" * 64}}
    (folder / "metrics.json").write_text(json.dumps(poisoned))
    with pytest.raises(PublishError, match=r"metrics\.json is of weights with SHA-256 000000000000"):
        prepare(folder, tmp_path / "b", REPO, Origin("mit"), library="hf")
    command = ["publish", str(folder), REPO, "--license", "mit", "--dry_run", "--as"]
    assert main([*command, "hf", "--space"]) == 2
    assert "--space shows a model with its own code" in capsys.readouterr().err


def test_pixels_that_differ_are_refused_with_their_difference(tmp_path, monkeypatch):
    """As a library would whose resizing is another: here, images turned upside down before ours sees them."""
    folder = trained(tmp_path / "m")
    call = ViTCustomImageProcessor.__call__
    flipped = lambda self, images, **how: call(self, [np.asarray(image)[::-1].copy() for image in images], **how)  # noqa: E731
    monkeypatch.setattr(ViTCustomImageProcessor, "__call__", flipped)
    with pytest.raises(PublishError, match=r"makes other pixels .*: off by up to \d+ of 255 grey levels"):
        prepare(folder, tmp_path / "staged", REPO, Origin("mit"), library="hf")


def test_a_folder_that_was_converted_is_published_from_its_source(staged, tmp_path):
    library, _, folder, _ = staged
    with pytest.raises(PublishError, match=f"give the folder of ours that it was made from, with --as {library}"):
        prepare(folder, tmp_path / "staged", REPO, Origin("mit"))


def test_answers_that_are_not_the_original_s_are_refused(tmp_path, monkeypatch):
    folder = trained(tmp_path / "m")

    def write(staged: Path, images, **_options) -> None:
        (staged / "examples").mkdir()
        shutil.copy(folder / "model.safetensors", staged / "unused")
        (staged / "unused").unlink()
        from PIL import Image

        Image.open(CHINA).resize((32, 32)).save(staged / "examples" / "0.png")
        rows = {"torchvision": [[0.0, 0.0, 9.0]], "pil": [[0.0, 0.0, 9.0]]}
        golden = {"format": 1, "tolerance": 1e-3, "images": ["examples/0.png"], "logits": rows}
        write_stamped(staged / "golden.json", golden | {"pipeline": [[{"label": "digit", "score": 1.0}]]})

    monkeypatch.setattr(publish_module, "write_golden", write)
    with pytest.raises(PublishError, match="same answers as the original"):
        prepare(folder, tmp_path / "staged", REPO, Origin("mit"), [CHINA], library="hf")


def test_the_form_is_read_off_the_configuration():
    assert form_of({"model_type": "vit"}) is HF and form_of({"architecture": "x"}) is TIMM
    assert form_of({"model_type": "vit_custom"}) is CUSTOM and form_of({}) is CUSTOM
    assert form_of({"model_type": "vit", "auto_map": {}}) is CUSTOM, "what names code is checked as code"
    assert "trust_remote_code" not in snippet(CLASSIFICATION, REPO, "0" * 40, "hf")
    assert f'timm.create_model("hf_hub:{REPO}@{"0" * 40}"' in snippet(CLASSIFICATION, REPO, "0" * 40, "timm")


@pytest.mark.slow
def test_from_the_hub_as_a_stranger_and_by_verify(hub, staged, tmp_path, capsys):
    library, model, folder, card = staged
    sha = send(shutil.copytree(folder, tmp_path / "staged"), REPO, card)
    setup = f"import os\nos.environ.update({client_environment(hub)!r})\n"
    printed = run_without_package(setup + LOADS[library], tmp_path / "fresh", REPO, sha, FLOWER)
    tolerance = 1e-3 if library == "hf" else 2e-2  # timm resizes by Pillow: up to one grey level apart
    assert eval(printed.splitlines()[-1]) == pytest.approx(our_scores(model, FLOWER), abs=tolerance)
    assert sha in hub.head(REPO).files["README.md"].data.decode()
    assert main(["verify", REPO, "--revision", sha]) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed and f"of {'transformers' if library == 'hf' else 'timm'} itself, without" in printed
