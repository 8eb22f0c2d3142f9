"""Each check fails for exactly the damage it is made for, and names what it found."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modeling_vit_custom.common.claims import write_stamped
from modeling_vit_custom.publishing.checks import check_folder, fresh_checks

# Assembled here, so that no scanner takes this file for a leak.
TOKEN = "hf_" + "aB3dE5gH7j" * 3 + "kLmN"


@pytest.fixture
def folder(published, tmp_path) -> Path:
    """Return a copy that a test may damage."""
    return shutil.copytree(published, tmp_path / "copy")


def failed(folder: Path, **options) -> dict[str, str]:
    """Return {check: detail} of the checks that failed themselves, not for another check."""
    checks = check_folder(folder, **options)
    return {each.name: each.detail for each in checks if not each.passed and not each.detail.startswith("not run: '")}


# ---------- damages


def tensors(change, name="model.safetensors", metadata=None, of_them=True):
    """Return a function that changes the weights. of_them: the golden outputs then name the changed weights."""

    def harm(folder: Path) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name, metadata={"format": "pt"} if metadata is None else metadata)
        if of_them:
            write_stamped(folder / "golden.json", json.loads((folder / "golden.json").read_text()))

    return harm


def fields(name: str, **changes):
    """Return a function that sets fields of a JSON file; a callable gets the old value."""

    def harm(folder: Path) -> None:
        table = json.loads((folder / name).read_text())
        for key, value in changes.items():
            table[key] = value(table.get(key)) if callable(value) else value
        (folder / name).write_text(json.dumps(table))

    return harm


def entry(file: str, key: str, value):
    return fields(file, auto_map=lambda old: old | {key: value})


def write(name: str, content: str | bytes):
    def harm(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return harm


def append(name: str, content: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + content)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-400])


def link(folder: Path) -> None:
    (folder / "LICENSE").symlink_to("/etc/hostname")


BIAS = "classifier.bias"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
DAMAGES = {
    # what: (damage, the only check that fails, a part of its message)
    "no processor": (remove(PROCESSOR), "files", PROCESSOR),
    "no weights": (remove("model.safetensors"), "files", "no model.safetensors"),
    "link": (link, "files", "LICENSE: a link"),
    "metrics with NaN": (write("metrics.json", '{"loss": NaN}'), "files", "metrics.json"),
    "pickle by name": (write("extra.pkl", b"x"), "safetensors only", "extra.pkl"),
    "pickle in a folder": (write("examples/weights.bin", b"x"), "safetensors only", "examples/weights.bin"),
    "pickle by content": (write("notes.txt", b"\x80\x04\x95"), "safetensors only", "notes.txt is a pickle"),
    "zip by content": (write("notes.json5", b"PK\x03\x04"), "safetensors only", "notes.json5 is a zip"),
    "other model type": (fields(CONFIG, model_type="vit"), "configuration", "model_type is 'vit'"),
    "impossible field": (fields(CONFIG, num_attention_heads=5), "configuration", "num_attention_heads=5"),
    "gap in the ids": (fields(CONFIG, id2label={"0": "a", "2": "b"}, label2id=None), "configuration", "without gaps"),
    "markup in a label": (
        fields(CONFIG, id2label={"0": "<b>", "1": "b", "2": "c"}, label2id=None), "configuration", "id2label[0]",
    ),
    "code of another repository": (
        entry(CONFIG, "AutoModel", "a/b--modeling_vit_custom.ViTCustomModel"), "auto_map", "another repository",
    ),
    "code by a path": (
        entry(CONFIG, "AutoModel", "code/modeling_vit_custom.ViTCustomModel"), "auto_map", "code/modeling_vit_custom",
    ),
    "no such class": (
        entry(CONFIG, "AutoModel", "modeling_vit_custom.ViTModel"), "auto_map", "defines no class ViTModel",
    ),
    "no AutoConfig": (
        fields(CONFIG, auto_map=lambda old: {k: v for k, v in old.items() if k != "AutoConfig"}),
        "auto_map", "auto_map has no AutoConfig",
    ),
    "no classifier": (fields(CONFIG, architectures=["ViTCustomModel"]), "auto_map", "publish the classifier"),
    "processor without code": (fields(PROCESSOR, auto_map={}), "auto_map", "no AutoImageProcessor"),
    "missing module": (remove("layers_vit_custom.py"), "auto_map", "layers_vit_custom.py"),
    "pipeline without its models": (
        fields(CONFIG, custom_pipelines={"image-classification": {"impl": "modeling_vit_custom.ViTCustomModel"}}),
        "auto_map", "custom_pipelines['image-classification'] must hold impl and pt",
    ),
    "pipeline without its module": (
        fields(CONFIG, custom_pipelines={"image-classification": {"impl": "gone.Pipeline", "pt": ["AutoModel"]}}),
        "auto_map", "gone.py",
    ),
    "truncated weights": (truncate, "weight files", "model.safetensors"),
    "no pt format": (tensors(lambda state: None, metadata={"a": "b"}), "weight files", "format=None"),
    "renamed tensor": (
        tensors(lambda state: state.update(bias=state.pop(BIAS))), "weights fit the model", BIAS,
    ),
    "missing tensor": (tensors(lambda state: state.pop(BIAS)), "weights fit the model", f"missing: {BIAS}"),
    "extra tensor": (
        tensors(lambda state: state.update(more=torch.zeros(1))), "weights fit the model", "not of this model: more",
    ),
    "other shape": (
        tensors(lambda state: state.update({BIAS: torch.zeros(4)})), "weights fit the model", f"{BIAS} stored (4,)",
    ),
    "other type": (
        tensors(lambda state: state.update({BIAS: torch.zeros(3, dtype=torch.int32)})),
        "weights fit the model", f"{BIAS}: I32",
    ),
    "NaN": (tensors(lambda state: state[BIAS][1].fill_(torch.nan)), "finite weights", BIAS),
    "infinity": (tensors(lambda state: state[BIAS][1].fill_(torch.inf)), "finite weights", BIAS),
    "two classes of one name": (
        fields(CONFIG, id2label={"0": "a", "1": "a", "2": "b"}, label2id={"a": 1, "b": 2}), "labels", "a to several",
    ),
    "other input size": (
        fields(PROCESSOR, size={"height": 32, "width": 32}), "image processor", "'height': 32, 'width': 32",
    ),
    "any input size": (fields(PROCESSOR, do_resize=False), "image processor", "do_resize=False gives any size"),
    "other channels": (
        fields(PROCESSOR, num_channels=1, image_mean=[0.5], image_std=[0.5]), "image processor", "num_channels is 1",
    ),
    "division by zero": (fields(PROCESSOR, image_std=[0, 1, 1]), "image processor", "image_std"),
    "card without front matter": (write("README.md", "# A model"), "model card", "library_name is None"),
    "card with broken YAML": (write("README.md", "---\na: [\n---\n"), "model card", "front matter cannot be read"),
    "card for another library": (
        lambda folder: write("README.md", (folder / "README.md").read_text().replace("transformers", "timm"))(folder),
        "model card", "library_name is 'timm'",
    ),
    "card without a licence": (
        lambda folder: write("README.md", (folder / "README.md").read_text().replace("license", "x"))(folder),
        "model card", "no license",
    ),
    "token in the card": (append("README.md", f"login({TOKEN!r})"), "secrets", "README.md:7: Hugging Face token"),
    "token in the weights": (
        tensors(lambda state: None, metadata={"format": "pt", "note": TOKEN}), "secrets", "model.safetensors",
    ),
    "other weights": (
        tensors(lambda state: state[BIAS].add_(1), of_them=False), "records", "golden.json is of weights with SHA-256",
    ),
    "figures of other weights": (
        write("metrics.json", json.dumps({"weights": {"sha256": "0" * 64}})), "records", "metrics.json is of weights",
    ),
    "a run that has not ended": (write("training_args.json", '{"weights": null}'), "records", "has not ended"),
    "a stamp that is none": (write("metrics.json", '{"weights": {"sha256": 1}}'), "records", "must be null or hold"),
    "a card of other weights": (
        append("README.md", f"the weights with SHA-256 `{'0' * 64}`."), "records", "README.md is of weights",
    ),
    "home in the run": (write("training_args.json", '{"dir": "/home/ada/x"}'), "secrets", "training_args.json:1"),
    "changed code": (append("pooling_vit_custom.py", "\nx = 1\n"), "code", "pooling_vit_custom.py differ"),
    "more code": (write("handler.py", "x = 1"), "code", "handler.py differ"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_fails_its_check_and_no_other(folder, what):
    harm, name, message = DAMAGES[what]
    harm(folder)
    found = failed(folder)
    assert list(found) == [name], found
    assert message in found[name]
    assert TOKEN not in found[name]


def test_what_is_said_of_a_good_folder(published, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    checks = check_folder(published)
    assert [each for each in checks if not each.passed] == []
    with safe_open(published / "model.safetensors", framework="pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    details = {each.name: each.detail for each in checks}
    assert details["weights fit the model"].startswith(f"{count:,} parameters")
    assert details["configuration"] == "3 labels, 24x32 px, 3 channels"
    assert details["code"].startswith("identical to vit-custom ")


def test_nothing_that_failed_leads_to_code_being_run(folder, monkeypatch):
    """The fresh process starts neither after a failed check nor for code that differs from ours."""
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.measure", lambda *_: pytest.fail("code was run"))
    append("pooling_vit_custom.py", "\nx = 1\n")(folder)
    assert "Read them, then pass --trust_remote_code" in failed(folder)["code"]
    append("README.md", TOKEN)(folder)
    last = check_folder(folder, trust_remote_code=True)[-1]
    assert not last.passed and last.detail == "not run: 'secrets' has failed"


def test_what_is_said_cannot_steer_a_terminal(folder):
    (folder / "\x1b[2Jgone.pkl").write_text("")
    line = str(next(each for each in check_folder(folder) if not each.passed))
    assert line.startswith("FAIL  safetensors only") and "gone.pkl" in line and line.isprintable()


UNSAID = "WARNING: these name no weights:"


def test_records_of_earlier_versions_pass_and_are_said(folder, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    said = {each.name: each for each in check_folder(folder)}["records"]
    assert said.passed and said.detail.startswith("WARNING: these name no weights: README.md (")
    write("metrics.json", '{"test": {"n": 3}}')(folder)
    remove("README.md")(folder)
    fields(CONFIG, speeds={"2x": {"token_merging": None, "shrink_to": None}})(folder)
    said = {each.name: each for each in check_folder(folder)}["records"]
    assert said.passed and said.detail.startswith("WARNING: these name no weights: metrics.json, speeds")


def test_placeholder_labels_are_said(folder, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    names = {str(i): f"LABEL_{i}" for i in range(3)}
    fields(CONFIG, id2label=names, label2id={name: int(i) for i, name in names.items()})(folder)
    labels = next(each for each in check_folder(folder) if each.name == "labels")
    assert labels.passed and labels.detail.startswith("WARNING: LABEL_0, LABEL_1, LABEL_2")


@pytest.mark.slow
def test_the_fresh_process_sees_by_itself_what_static_checks_see_first(folder):
    """If the static check missed the fault, strict loading would still find it."""
    tensors(lambda state: state.update(bias=state.pop(BIAS)))(folder)
    found = {each.name: each.detail for each in fresh_checks(folder) if not each.passed}
    assert BIAS in found["strict load in a fresh process"]
    assert set(found) - {"strict load in a fresh process"} == {
        f"golden images, {part}" for part in ("torchvision backend", "pil backend", "pipeline")
    }


@pytest.mark.slow
def test_customised_code_is_run_when_trusted_and_its_outputs_are_compared(folder):
    """The changed module swaps red and blue, which only the golden images can show."""
    append(
        "image_processing_base_vit_custom.py",
        "\ndef swapped(self, *args, _made=BaseViTCustomImageProcessor._preprocess_image_like_inputs, **kwargs):\n"
        "    features = _made(self, *args, **kwargs)\n"
        "    features['pixel_values'] = features['pixel_values'].flip(1)\n"
        "    return features\n"
        "BaseViTCustomImageProcessor._preprocess_image_like_inputs = swapped\n",
    )(folder)
    found = failed(folder, trust_remote_code=True)
    assert set(found) == {f"golden images, {part}" for part in ("torchvision backend", "pil backend", "pipeline")}
