"""An index is published on request alone; then it belongs to the weights beside it, and searches from there."""

import json
import shutil

import pytest
from real_digits import write_class_folder
from saved_models import save_ours

from modeling_vit_custom import api
from modeling_vit_custom.cli import main
from modeling_vit_custom.features.index_files import Index
from modeling_vit_custom.publishing.others import stale
from modeling_vit_custom.publishing.publish import Origin, prepare
from modeling_vit_custom.publishing.upload import PublishError

REPO, MIT = "ada/digits", Origin("mit")
FILES = {"image_index/index.json", "image_index/images.jsonl", "image_index/vectors.safetensors"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model, its index of twelve digits, and the two as they would be published."""
    place = tmp_path_factory.mktemp("published")
    save_ours(place / "model")
    write_class_folder(place / "private" / "digits", {"0": 4, "1": 4, "2": 4})
    api.index(place / "model", place / "private" / "digits", place / "index")
    prepare(place / "model", place / "staged", REPO, MIT, index=place / "index")
    return place


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_index_is_published_only_when_it_is_named(place, tmp_path):
    assert names_in(place / "staged") >= FILES
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copytree(place / "index", tmp_path / "model" / "image_index")
    prepare(tmp_path / "model", tmp_path / "staged", REPO, MIT)
    assert not any("image_index/" in name for name in names_in(tmp_path / "staged"))


def test_what_is_published_says_nothing_of_the_machine(place):
    own, public = Index(place / "index"), Index(place / "staged" / "image_index")
    assert (public.vectors[:] == own.vectors[:]).all()
    for mine, theirs in zip(own.records, public.records, strict=True):
        assert mine["path"] == str(place / "private" / "digits" / theirs["path"])
        assert {**mine, "path": ""} == {**theirs, "path": ""}
    for name in FILES - {"image_index/vectors.safetensors"}:
        assert str(place) not in (place / "staged" / name).read_text()
    assert public.record["model"]["name"] == REPO


def test_a_published_index_is_searched_with_the_model_beside_it(place, tmp_path):
    """Neither the Hub nor the folders that made it are needed: this one has another name."""
    moved = shutil.copytree(place / "staged", tmp_path / "downloaded")
    image = next((place / "private" / "digits" / "2").iterdir())
    (record,) = api.search(moved / "image_index", str(image), top_k=1).records
    assert record["neighbours"][0]["path"] == f"2/{image.name}"
    assert record["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-6)


def test_card_and_verification_know_the_index(place, tmp_path, capsys):
    card = (place / "staged" / "README.md").read_text()
    assert "<code>image&#95;index</code> | vectors, names and labels of images" in card
    assert api.verify(place / "staged")
    torn = shutil.copytree(place / "staged", tmp_path / "torn")
    lines = (torn / "image_index" / "images.jsonl").read_text()
    (torn / "image_index" / "images.jsonl").write_text(lines.replace('"label": "0"', '"label": "1"'))
    capsys.readouterr()
    assert not api.verify(torn)
    assert (
        "image_index/images.jsonl is not the one that image_index/index.json was written with"
        in capsys.readouterr().out
    )


def test_an_index_of_other_weights_is_refused(place, tmp_path):
    save_ours(tmp_path / "other", seed=7)
    with pytest.raises(PublishError, match="other weights or another configuration: their vectors"):
        prepare(tmp_path / "other", tmp_path / "staged", REPO, MIT, index=place / "index")
    staged = shutil.copytree(place / "staged", tmp_path / "mixed")
    record = json.loads((staged / "image_index" / "index.json").read_text())
    record["weights"] = {"sha256": "0" * 64}
    (staged / "image_index" / "index.json").write_text(json.dumps(record))
    assert not api.verify(staged)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--include_index", "nothing"], "nothing is no index, it holds no index.json"),
        (["--include_index", "INDEX", "--as", "hf"], "--include_index belongs to a model with its own code"),
    ],
)
def test_what_cannot_be_included_is_refused_by_name(place, flags, said, capsys):
    flags = [str(place / "index") if flag == "INDEX" else flag for flag in flags]
    command = ["publish", "--model", str(place / "model"), "--repo_id", REPO, "--license", "mit", "--dry_run"]
    assert main([*command, *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_index_that_the_branch_holds_may_not_stay_beside_other_weights():
    assert set(stale([*FILES, "notes.md"])) == FILES
