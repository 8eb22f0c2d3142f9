"""Nothing hostile is loaded: false headers, missing weights, bad configurations, other people's code."""

import ast
import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from attack_behaviours import HOSTILE_KEYS
from attacks import ATTACKS, OURS, TODAY, WEIGHTS, attempt, fields, weights
from saved_models import save_ours, save_transformers_vit
from tiny import TINY

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomModel,
    pretrained_vit_custom,
)
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.pretrained_vit_custom import ViTCustomPreTrainedModel
from modeling_vit_custom.weight_files_vit_custom import WeightFileError, check_shapes, read_header

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Save a classifier of ours with its processor."""
    return save_ours(tmp_path_factory.mktemp("models") / "ours")


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """Return a copy that a test may spoil."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Return the list in which loading puts its warnings."""
    messages: list[str] = []
    monkeypatch.setattr(pretrained_vit_custom.logger, "warning", messages.append)
    return messages


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_hostile_files_are_refused_at_once_with_a_reason(attack, folder):
    error, seconds = attempt(attack, folder, OURS)
    assert error is not None, "the hostile file was accepted"
    assert re.search(attack.says, str(error))
    assert not isinstance(error, MemoryError) and seconds < 5, f"{seconds:.1f} s"


def test_the_files_are_sound_before_they_are_spoilt(sound, tmp_path):
    for folder, classes in ((sound, OURS), (save_transformers_vit(tmp_path / "today"), TODAY)):
        for cls in classes.values():
            cls.from_pretrained(folder)


# ---------- headers


def test_a_header_tells_names_types_and_shapes(sound):
    model = ViTCustomForImageClassification.from_pretrained(sound)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    header = read_header(sound / WEIGHTS)
    assert {name: shape for name, (_, shape) in header.items()} == expected
    assert {dtype for dtype, _ in header.values()} == {"F32"}
    check_shapes(sound / WEIGHTS, expected)
    for wrong, message in (
        ({**expected, "extra": (1,)}, "missing: extra"),
        ({name: shape for name, shape in expected.items() if name != "classifier.bias"}, "not of this model: classif"),
        ({**expected, "classifier.bias": (11,)}, r"classifier.bias stored \(10,\), needed \(11,\)"),
    ):
        with pytest.raises(WeightFileError, match=message):
            check_shapes(header, wrong)


@pytest.fixture
def cached(folder, tmp_path, monkeypatch) -> Path:
    """Put the model into the Hub's cache (snapshots/SHA/file -> ../../blobs/HASH) as me/vit; return its blobs."""
    repository = tmp_path / "cache" / "models--me--vit"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True), (repository / "refs").mkdir(), (repository / "blobs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        shutil.move(path, repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return repository / "blobs"


@pytest.mark.parametrize("revision", [COMMIT, "main", None])
def test_links_of_the_hubs_cache_stay_inside_and_headers_are_checked(cached, revision):
    model, processor = load_classifier("me/vit", revision=revision, device="cpu")
    assert model.config.num_labels == 10 and processor.num_channels == 1
    with open(cached / WEIGHTS, "ab") as file:
        file.write(b"more")
    with pytest.raises(WeightFileError, match="its tensors end at"):
        load_classifier("me/vit", revision=revision, device="cpu")


def test_an_adapter_on_the_hub_leads_to_no_other_repository(cached):
    """transformers alone would load the repository that the adapter names instead of the one that the user named."""
    (cached / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else", "peft_type": "LORA"}')
    snapshot = cached.parent / "snapshots" / COMMIT
    (snapshot / "adapter_config.json").symlink_to("../../blobs/adapter_config.json")
    with pytest.raises(ValueError, match=r"me/vit holds an adapter.*merge_and_unload"):
        load_classifier("me/vit", device="cpu")


def test_code_of_the_hub_runs_at_its_commit(cached):
    assert load_classifier("me/vit", trust_remote_code=True, revision=COMMIT, device="cpu")[0].config.num_labels == 10


# ---------- weights that are not in the file


def test_a_head_that_the_checkpoint_never_had_is_new_and_said(folder, tmp_path, said):
    ViTCustomForMaskedImageModeling.from_pretrained(folder).save_pretrained(tmp_path / "masked")
    assert said.pop() == (
        "NEWLY INITIALISED, train before use: decoder.projection.bias; decoder.projection.weight; "
        "vit.embeddings.mask_token."
    )
    ViTCustomForImageClassification.from_pretrained(tmp_path / "masked")
    assert said.pop() == "NEWLY INITIALISED, train before use: classifier.bias; classifier.weight."
    ViTCustomModel.from_pretrained(tmp_path / "masked").save_pretrained(tmp_path / "base")
    ViTCustomForImageClassification.from_pretrained(tmp_path / "base")
    assert "classifier.bias" in said.pop() and not said


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_integers_and_complex_numbers_are_not_cast_to_weights(folder, dtype):
    name = "vit.layers.0.mlp.fc1.weight"
    weights(lambda tensors: {**tensors, name: tensors[name].to(dtype), "steps": torch.tensor(3)})(folder)
    with pytest.raises(RuntimeError, match=f"no floating-point numbers: {name} [IC][0-9]+\\."):
        ViTCustomForImageClassification.from_pretrained(folder)


class TwoHeads(ViTCustomPreTrainedModel):
    """A user's own class on the encoder, with an argument of its own."""

    def __init__(self, config: ViTCustomConfig, outputs: int):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.left, self.right = torch.nn.Linear(32, outputs), torch.nn.Linear(32, outputs)
        self.post_init()


def test_heads_of_other_peoples_classes_are_new_and_said(folder, said):
    assert TwoHeads.from_pretrained(folder, 3).left.out_features == 3
    assert said.pop() == "NEWLY INITIALISED, train before use: left.bias; left.weight; right.bias; right.weight."
    weights(lambda tensors: {name: t for name, t in tensors.items() if "layers.2" not in name})(folder)
    with pytest.raises(RuntimeError, match=r"Missing: vit\.layers\.2"):
        TwoHeads.from_pretrained(folder, 3)


@pytest.mark.parametrize(
    ("asked", "new"),
    [
        ({"layer_scale_init_value": 0.1}, "vit.layers.0.layer_scale1.lambda1"),
        ({"pooling": "map"}, "vit.pooler.attention_pooling.query"),
        ({"num_register_tokens": 2}, "vit.embeddings.register_tokens"),
        ({"num_hidden_layers": 4}, "vit.layers.3.mlp.fc2.weight"),
    ],
)
def test_a_part_that_the_stored_configuration_lacks_is_new_and_said(folder, said, asked, new):
    ViTCustomForImageClassification.from_pretrained(folder, **asked)
    assert len(said) == 1 and new in said[0]


def test_layers_left_out_by_the_caller_are_not_foreign(folder, said):
    assert len(ViTCustomModel.from_pretrained(folder, num_hidden_layers=2).layers) == 2


def test_a_stored_part_that_is_missing_is_an_error_in_any_class(tmp_path):
    folder = save_ours(tmp_path / "scaled", layer_scale_init_value=0.1)
    weights(lambda tensors: {name: t for name, t in tensors.items() if "lambda1" not in name})(folder)
    for cls in (ViTCustomForImageClassification, ViTCustomModel, ViTCustomForMaskedImageModeling):
        with pytest.raises(RuntimeError, match=r"Missing: .*lambda1"):
            cls.from_pretrained(folder)


def test_what_does_not_fit_can_be_asked_for(folder, said):
    weights(lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})(folder)
    model = ViTCustomForImageClassification.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert said[0].startswith("NEWLY INITIALISED") and model.classifier.weight.isfinite().all()


def test_state_dicts_are_checked_as_files_are(sound):
    model = ViTCustomForImageClassification.from_pretrained(sound)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1" not in name}
    with pytest.raises(RuntimeError, match=r"Missing: vit\.layers\.1"):
        ViTCustomForImageClassification.from_pretrained(None, config=model.config, state_dict=weights)


def test_pickles_are_not_read_even_when_asked_for(folder):
    with pytest.raises(ValueError, match="use_safetensors=False"):
        ViTCustomForImageClassification.from_pretrained(folder, use_safetensors=False)


# ---------- configurations


def test_stored_keys_that_nobody_knows_are_left_out_and_named(folder, caplog, monkeypatch):
    hostile = HOSTILE_KEYS | {"extra_files": ["x"], "base_model_tp_plan": {"a": "b"}}
    fields("config.json", **hostile)(folder)
    monkeypatch.setattr(pretrained_vit_custom.logger.parent, "propagate", True)
    with caplog.at_level("WARNING"):
        config = ViTCustomConfig.from_pretrained(folder)
    assert f"left out: {sorted(hostile)}" in caplog.text
    assert not [name for name in hostile if getattr(config, name, None) == hostile[name]]
    assert ViTCustomForImageClassification.from_pretrained(folder).config._attn_implementation != "someone/kernel"


def test_what_transformers_and_the_caller_write_stays(folder):
    stored = json.loads((folder / "config.json").read_text())
    fields("config.json", custom_pipelines={"image-classification": {"impl": "pipeline_vit_custom.P"}})(folder)
    config = ViTCustomConfig.from_pretrained(folder, attn_implementation="eager")
    assert config._attn_implementation == "eager" and config.auto_map == stored["auto_map"]
    assert config.to_dict()["custom_pipelines"] == {"image-classification": {"impl": "pipeline_vit_custom.P"}}
    assert ViTCustomConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert ViTCustomConfig(**TINY, note="mine").note == "mine"


# ---------- other people's code


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper()])
def test_code_from_the_hub_runs_at_a_commit_only(revision):
    with pytest.raises(ValueError, match=r"all 40 digits.*hf models info someone/vit"):
        load_classifier("someone/vit", trust_remote_code=True, revision=revision)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_of_another_repository_is_refused(folder, file):
    name = "AutoModelForImageClassification" if file == "config.json" else "AutoImageProcessor"
    fields(file, auto_map={name: ["someone/else--evil.Model", None]})(folder)
    with pytest.raises(ValueError, match="code of another repository, someone/else"):
        load_classifier(str(folder), trust_remote_code=True)


def test_code_is_never_run_unasked(folder, tmp_path):
    proof = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Config: pass\n")
    fields("config.json", model_type="unheard_of", auto_map={"AutoConfig": "evil.Config"})(folder)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_classifier(str(folder))
    assert not proof.exists()


def test_other_libraries_models_are_read_from_safetensors_only(tmp_path):
    folder = save_transformers_vit(tmp_path / "vit")
    model, _ = load_classifier(str(folder), device="cpu")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_classifier(str(folder))


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match="leave the revision out"):
        load_classifier(str(folder), revision="main")


# ---------- our own code

# Calls that run or unpack the content of a file.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "extractall", "extract", "unpack_archive", "os.system", "os.popen",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "np.load", "numpy.load", "torch.load",
}  # fmt: skip
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "zipfile"}
SAFE_BY = {"np.load": "allow_pickle=False", "torch.load": "weights_only=True"}
ALLOWED = {
    ("fresh_process.py", "__import__"),  # imports only this package's name, to check that it is absent
    # the errors that safe readers raise
    ("meta.py", "pickle"), ("teacher_loading.py", "pickle"), ("google.py", "zipfile"), ("stream.py", "tarfile"),
    ("meta.py", "zipfile"),  # checks that nothing in it is compressed
    ("checkpoints.py", "zipfile"),  # checks the checksums in a file of torch's
    ("sealed_rows.py", "npy.read_array(io.BytesIO(sums), allow_pickle=False)"),
}  # fmt: skip


def dangerous(path: Path) -> set[tuple[str, str]]:
    """Return (file, call or import) for each forbidden call and import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if SAFE_BY.get(name) in map(ast.unparse, node.keywords):
                continue
            if name in FORBIDDEN or (isinstance(node.func, ast.Attribute) and node.func.attr.startswith("extract")):
                found.add((path.name, name))
            if any(word.arg == "allow_pickle" or ast.unparse(word) == "shell=True" for word in node.keywords):
                found.add((path.name, ast.unparse(node)))
        names = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {(path.name, name) for name in names if name.partition(".")[0] in FORBIDDEN_MODULES}
    return found


def test_nothing_here_unpickles_unpacks_or_evaluates(tmp_path):
    files = [*(ROOT / "modeling_vit_custom").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    assert set().union(*map(dangerous, files)) == ALLOWED
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\nfrom zipfile import ZipFile\ntorch.load(x)\nz.extractall()\nrun(x, shell=True)")
    assert len(dangerous(bad)) == 5
    bad.write_text("np.load(x, allow_pickle=True)\ntorch.load(x, weights_only=False)\nnp.load(x)")
    assert len(dangerous(bad)) == 3
