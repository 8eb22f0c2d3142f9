"""Staging copies the listed files, names the others with the reason, and refuses damaged or inconsistent folders."""

import json
from pathlib import Path

import pytest
from real_digits import digit_image
from saved_models import save_ours

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.publishing.staging import StagingError, plan_staging, stage

CODE = {path.name for path in (Path(__file__).parents[2] / "modeling_vit_custom").glob("*_vit_custom.py")}


@pytest.fixture
def trained(tmp_path) -> Path:
    """Save a model, and write what a training and a user leave beside it."""
    folder = save_ours(tmp_path / "trained")
    (folder / "metrics.json").write_text('{"test": {"accuracy": 0.5}}')
    (folder / "LICENSE").write_text("Apache-2.0")
    (folder / "examples").mkdir()
    digit_image(3).save(folder / "examples" / "0.png")
    return folder


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


LITTER = {
    "training_args.bin": "not safetensors",
    "pytorch_model.bin": "not safetensors",
    "weights.pt": "not safetensors",
    "optimizer.pt": "not safetensors",
    "data.pkl": "not safetensors",
    ".env": "hidden",
    ".git/config": "hidden",
    "checkpoint-10/model.safetensors": "state of the training",
    "runs/events": "state of the training",
    "report.html": "may show private images",
    "trainer_state.json": "state of the training",
    "notes.txt": "not among the files",
    "adapter.safetensors": "not the weights",
    "helper.py": "no entry of auto_map",
    "examples/holiday.jpg": "not among the files",
    "examples/.0.png": "hidden",
}


def test_only_the_list_is_copied_and_the_rest_is_named_with_its_reason(trained, tmp_path):
    before = {path.name for path in trained.iterdir()}
    for name in LITTER:
        (trained / name).parent.mkdir(exist_ok=True)
        (trained / name).write_bytes(b"x")
    (trained / "link.txt").symlink_to("/etc/hostname")
    said: list[str] = []
    names = stage(trained, tmp_path / "staged", said.append)
    there = {path.relative_to(tmp_path / "staged").as_posix() for path in (tmp_path / "staged").rglob("*.*")}
    assert set(names) == there | {"LICENSE"}
    assert set(names) == before - {"examples"} | {"examples/0.png", ".gitattributes"}
    assert "filter=lfs" in (tmp_path / "staged" / ".gitattributes").read_text()
    for name, reason in (LITTER | {"link.txt": "a link"}).items():
        top = name if name.startswith("examples/") else name.split("/")[0] + "/" * ("/" in name)
        assert any(line.startswith(f"left out: {top} ({reason}") for line in said), (name, said)
    assert len(said) == len(LITTER) + 1
    for name in set(names) - {".gitattributes"}:
        assert (tmp_path / "staged" / name).read_bytes() == (trained / name).read_bytes()


def test_only_reachable_code_is_staged_and_a_changed_module_is_reported(trained, tmp_path):
    with open(trained / "pooling_vit_custom.py", "a") as file:
        file.write("\nfrom .my_pooling import x\n")
    (trained / "my_pooling.py").write_text("x = 1")
    said: list[str] = []
    names = stage(trained, tmp_path / "staged", said.append)
    assert {name for name in names if name.endswith(".py")} <= CODE | {"my_pooling.py"}
    assert "my_pooling.py" in names
    assert any("customised code: pooling_vit_custom.py differs" in line for line in said)
    assert any("customised code: my_pooling.py is no module of" in line for line in said)


def test_shards_go_with_their_index_and_older_weights_stay(tmp_path):
    """save_pretrained keeps the single file of an earlier save, and from_pretrained prefers it to the newer shards."""
    folder = save_ours(tmp_path / "sharded")
    ViTCustomForImageClassification.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    with pytest.raises(StagingError, match=r"are both there: .* may be an older model"):
        plan_staging(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model-00009-of-00009.safetensors").write_bytes(b"old")
    plan = plan_staging(folder)
    shards = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(shards) > 1
    assert {name for name in plan.copied if "safetensors" in name} == shards | {"model.safetensors.index.json"}
    assert plan.left_out == {"model-00009-of-00009.safetensors": "not the weights that would be loaded"}


def link_to_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "elsewhere")
    (folder / "model.safetensors").symlink_to(folder / "elsewhere")


REFUSED = {
    "no such folder": (lambda f: f.rename(f.parent / "gone"), "is not a folder"),
    "weights are a link": (link_to_weights, "model.safetensors is a link"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "there is no model.safetensors"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
    "module missing": (lambda f: (f / "layers_vit_custom.py").unlink(), "needs layers_vit_custom.py"),
    "NaN": (lambda f: (f / "metrics.json").write_text('{"loss": NaN}'), "metrics.json.*NaN"),
    "a key twice": (lambda f: (f / "metrics.json").write_text('{"n": 1, "n": 2}'), "metrics.json.*'n' occurs 2 times"),
    "other code": (
        lambda f: edit(f / "config.json", auto_map={"AutoModel": "someone/else--modeling_vit_custom.ViTCustomModel"}),
        "newest code of another repository",
    ),
    "index elsewhere": (
        lambda f: [
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}'),
        ],
        "no safetensors file of its folder",
    ),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_refused_before_anything_is_copied(trained, tmp_path, damage):
    harm, message = REFUSED[damage]
    harm(trained)
    with pytest.raises(StagingError, match=message):
        stage(trained, tmp_path / "staged", print)
    assert not (tmp_path / "staged").exists()


def test_the_staging_folder_must_be_empty(trained, tmp_path):
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "old").write_text("")
    with pytest.raises(StagingError, match="must be a new or an empty folder"):
        stage(trained, tmp_path / "staged")
