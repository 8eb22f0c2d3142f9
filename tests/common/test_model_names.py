"""The name of a model: REPO@REVISION means the same as --revision; a name that exists on disk is not split."""

import pytest

from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.model_names import _pinned, commit_of, named_model

SHA = "0123456789" * 4


@pytest.mark.parametrize(
    ("text", "revision", "found"),
    [
        ("me/photos", None, ("me/photos", None)),
        ("me/photos", "v1", ("me/photos", "v1")),
        (f"me/photos@{SHA}", None, ("me/photos", SHA)),
        (f"me/photos@{SHA}", SHA, ("me/photos", SHA)),
        ("photos@main", None, ("photos", "main")),
        ("me/photos@refs/pr/1", None, ("me/photos", "refs/pr/1")),
        ("me/photos@a@b", None, ("me/photos", "a@b")),
        ("./me@v1", None, ("./me@v1", None)),  # no Hub id can have this form: it is a path, whether it exists or not
        ("/data/me@v1", None, ("/data/me@v1", None)),
        ("~/me@v1", None, ("~/me@v1", None)),
        ("a/b/c@v1", None, ("a/b/c@v1", None)),
        ("timm:vit_small_patch16_224", None, ("timm:vit_small_patch16_224", None)),
        ("timm:hf-hub:me/vit@v1", None, ("timm:hf-hub:me/vit@v1", None)),
        ("timm:hf-hub:me/vit", "v1", ("timm:hf-hub:me/vit@v1", None)),
        ("timm:hf_hub:me/vit@v1", "v1", ("timm:hf_hub:me/vit@v1", None)),
    ],
)
def test_a_name_has_two_parts_where_it_is_no_path(text, revision, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_model(text, revision) == found
    assert named_model(*found) == found, "a second parse must change nothing"


@pytest.mark.parametrize(
    ("text", "revision", "message"),
    [
        ("", None, "name is empty"),
        ("me/photos", "", "--revision is empty"),
        ("me/photos@", None, "names no revision after the @: write REPO@REVISION"),
        ("@v1", None, "names no model before the @"),
        ("@", "v1", "names no model before the @"),
        ("me/photos@v1", "v2", "me/photos@v1 names revision v1, and --revision v2 another: give one of them"),
        ("timm:hf-hub:me/vit@v1", "v2", "--revision v2 another"),
    ],
)
def test_an_empty_part_and_two_revisions_are_refused(text, revision, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        named_model(text, revision)


@pytest.mark.parametrize("name", ["me@v1", "me/photos@v1", "@v1", "x@"])
def test_what_lies_on_the_disk_is_taken_by_its_whole_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    assert named_model(name) == (name, None) and named_model(name, "v2") == (name, "v2")
    assert commit_of(name) is None


def test_the_commit_is_that_of_the_cache_and_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--me--photos"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(SHA)
    (cached / "snapshots" / SHA).mkdir(parents=True)
    (cached / "snapshots" / SHA / "config.json").write_text("{}")
    assert {commit_of("me/photos", revision) for revision in (None, "main", SHA)} == {SHA}
    for name, revision in (("me/photos", "v1"), ("me/others", None), ("no id:", None), ("-x/-y", None)):
        assert commit_of(name, revision) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "me/x", "--revision", "v1", "a.png"], ["--model", "me/x@S", "a.png"]),
        (["a.png", "--model=me/x@v1", "--top_k", "3"], ["a.png", "--model=me/x@S", "--top_k", "3"]),
        (
            ["--model_revision=v1", "--model_name_or_path", "me/x", "--hub_model_id", "me/x"],
            ["--model_name_or_path", "me/x@S", "--hub_model_id", "me/x"],
        ),
        (["--recipe", "mine.yaml"], ["--recipe", "mine.yaml", "--model", "me/x@S"]),
    ],
)
def test_the_command_that_repeats_differs_in_its_model_alone(words, expected):
    assert _pinned(words, "me/x@S") == expected
