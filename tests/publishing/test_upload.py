"""The upload, by the real client to a Hub on loopback, makes one commit, whatever goes wrong on the way."""

import re
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from image_files import encode, photograph
from safetensors.torch import load_file, save_file

from modeling_vit_custom.publishing import upload
from modeling_vit_custom.publishing.upload import PublishError, commit_holding, upload_folder

# the client sends a file in a way that its own HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "ada/tiny"
CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# Tiny\n"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "staged"
    (folder / "examples").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "examples" / "0.txt").write_text("an example")
    save_file({"weight": torch.arange(50_000.0)}, folder / "model.safetensors")
    return folder


def publish(folder, **options) -> str:
    return upload_folder(folder, REPO, message="Publish", **options)


def content(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(hub, branch="main", kind="model") -> dict[str, bytes]:
    files = hub.head(REPO, branch, kind).files
    return {path: file.data for path, file in files.items() if path != ".gitattributes"}


def titles(hub, branch="main") -> list[str]:
    return [commit.title for commit in hub.head(REPO, branch).history()]


def posts(hub, route: str) -> int:
    return sum(method == "POST" and f"/{route}" in path for method, path in hub.requests)


def test_a_folder_becomes_one_commit_with_all_its_files(hub, folder):
    sha = publish(folder)
    assert re.fullmatch("[0-9a-f]{40}", sha) and sha == hub.head(REPO).sha
    assert titles(hub) == ["Publish", "initial commit"]
    assert published(hub) == content(folder)
    assert hub.head(REPO).files["model.safetensors"].lfs and not hub.head(REPO).files["config.json"].lfs
    assert not any(method == "PUT" for method, _ in hub.with_token), "the upload's address must not get the token"


def test_what_is_there_already_is_not_sent_again(hub, folder, capsys):
    sha = publish(folder)
    del hub.requests[:]
    assert publish(folder) == sha
    assert "nothing to upload" in capsys.readouterr().out
    assert posts(hub, "commit") == 0 and not any(method == "PUT" for method, _ in hub.requests)
    (folder / "config.json").write_text('{"changed": 1}')
    assert publish(folder) != sha
    assert not any(method == "PUT" for method, _ in hub.requests), "unchanged weights must not be sent"
    assert titles(hub) == ["Publish", "Publish", "initial commit"]


OTHERS = {
    "docs/notes.txt": b"mine",
    "banner.png": encode(photograph(), "PNG"),
    "figures.json": b'{"n": 1}',
    "LICENSE": b"of mine",
}


def test_other_files_stay_and_are_listed(hub, folder, capsys):
    publish(folder)
    hub.push(REPO, OTHERS, "by hand", "bob")
    (folder / "config.json").write_text('{"v": 2}')
    sha = publish(folder)
    assert published(hub) == content(folder) | OTHERS and hub.head(REPO).sha == sha
    said = "other files stay as they are: LICENSE, banner.png, docs/notes.txt, figures.json"
    assert said in capsys.readouterr().out
    assert publish(folder) == sha, "nothing is left to upload"
    assert commit_holding(folder, REPO, except_for="README.md") == sha
    assert commit_holding(folder, REPO, except_for="README.md", replace=True) is None, "it holds other files too"


def test_a_commit_that_landed_unheard_beside_other_files_is_not_made_twice(hub, folder):
    publish(folder)
    hub.push(REPO, OTHERS, "by hand", "bob")
    (folder / "config.json").write_text('{"v": 2}')
    hub.fail_next("commit", 503, after_effect=True)
    publish(folder)
    assert titles(hub) == ["Publish", "by hand", "Publish", "initial commit"]


STALE = {
    "pytorch_model.bin": "reading it can run code",
    "old/weights.PTH": "reading it can run code",
    "model-00001-of-00002.safetensors": "weights that are not these",
    "model.safetensors.index.json": "weights that are not these",
    "onnx/model.onnx": "weights that are not these",
    "adapter_config.json": "settings that a library may load",
    "processor_config.json": "settings that a library may load",
    "pooling_vit_custom.py": "code that these configurations do not name",
    "tools/helper.py": "code that these configurations do not name",
    "golden.json": "says something of other weights",
    "metrics.json": "says something of other weights",
    "speeds.png": "says something of other weights",
    "data.txt": "a zip archive",
    "secrets.txt": "Hugging Face token",
    "broken.json": "broken.json",
}
CONTENT = {"data.txt": b"PK\x03\x04", "secrets.txt": b"hf" + b"_" + b"aB3dE5gH7j" * 3, "broken.json": b'{"a": NaN}'}


@pytest.mark.parametrize("name", STALE)
def test_what_would_be_false_or_unsafe_there_is_named_and_stops_everything(hub, folder, capsys, name):
    publish(folder)
    (folder / "config.json").write_text('{"v": 2}')
    before = hub.push(REPO, {name: CONTENT.get(name, b"{}"), "notes.txt": b"mine"}, "by hand")
    with pytest.raises(PublishError) as caught:
        publish(folder)
    said = str(caught.value)
    assert f"{name} (" in said and STALE[name] in said and "Nothing is uploaded beside" in said and "--replace" in said
    assert "notes.txt (" not in said and "notes.txt" in said, "files that --replace would delete are listed"
    assert hub.head(REPO).sha == before


def test_with_replace_the_repository_equals_the_folder_and_what_is_deleted_is_said(hub, folder, capsys):
    before = publish(folder)
    hub.push(REPO, {"pytorch_model.bin": b"\0pickle", "old/notes.txt": b"old"}, "by hand")
    publish(folder, replace=True)
    assert published(hub) == content(folder)
    assert "deleting what is not published: old/notes.txt, pytorch_model.bin" in capsys.readouterr().out
    assert ".gitattributes" in hub.head(REPO).files
    assert before in [commit.sha for commit in hub.head(REPO).history()], "the history must stay"


def test_a_branch_is_made_and_the_others_stay(hub, folder):
    main = publish(folder)
    (folder / "config.json").write_text('{"v": 2}')
    sha = publish(folder, revision="v2/next")
    assert hub.head(REPO).sha == main and hub.head(REPO, "v2/next").sha == sha
    assert published(hub, "v2/next") == content(folder)


def test_private_is_for_a_new_repository_and_said_for_an_old_one(hub, folder, capsys):
    publish(folder, private=True)
    assert hub.repository(REPO).private and "is private" in capsys.readouterr().out
    publish(folder, private=False)
    assert hub.repository(REPO).private and "private and stays so" in capsys.readouterr().out
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info(REPO)
    assert HfApi().model_info(REPO).private


def test_another_app_in_the_space_of_that_name_stays(hub, folder):
    (folder / "app.py").write_text("theirs")
    publish(folder, repo_type="space")
    (folder / "app.py").write_text("ours")
    (folder / "model.json").write_text("{}")
    with pytest.raises(PublishError, match=r"the Space of that name is another app; --replace puts the demo there"):
        publish(folder, repo_type="space")
    assert hub.head(REPO, kind="space").files["app.py"].data == b"theirs"
    sha = publish(folder, repo_type="space", replace=True)
    assert publish(folder, repo_type="space") == sha, "our own demo must not count as another app"


def test_a_space_is_a_kind_of_its_own(hub, folder):
    sha = publish(folder, repo_type="space")
    assert hub.head(REPO, kind="space").sha == sha and hub.repository(REPO, "space").sdk == "gradio"
    assert ("model", REPO) not in hub.repositories


# Faults: each test checks how many commits there are at the end, and that the branch holds the folder


def test_a_commit_that_failed_is_sent_again(hub, folder, capsys):
    hub.fail_next("commit", 503)
    sha = publish(folder)
    assert titles(hub) == ["Publish", "initial commit"] and posts(hub, "commit/") == 2
    assert published(hub) == content(folder) and sha == hub.head(REPO).sha
    assert "not committed" in capsys.readouterr().out
    assert sum(method == "PUT" for method, _ in hub.requests) == 1, "the weights must be sent once"


@pytest.mark.parametrize("status", [503, None], ids=["503", "connection cut"])
def test_a_commit_that_landed_unheard_is_not_made_twice(hub, folder, capsys, status):
    hub.fail_next("commit", status, after_effect=True)
    sha = publish(folder)
    assert titles(hub) == ["Publish", "initial commit"] and posts(hub, "commit/") == 1
    assert sha == hub.head(REPO).sha
    assert "the commit had landed" in capsys.readouterr().out


def test_a_commit_that_landed_unheard_is_found_below_somebody_elses(hub, folder):
    hub.fail_next("commit", 503, after_effect=True)
    hub.before_next("commits", lambda: hub.push(REPO, {"notes.txt": b"hello"}, "Add notes", "bob"))
    sha = publish(folder)
    assert titles(hub) == ["Add notes", "Publish", "initial commit"]
    assert sha == hub.head(REPO).parent.sha


def test_a_hub_that_stays_down_is_asked_a_bounded_number_of_times(hub, folder):
    hub.fail_next("commit", 503, times=99)
    with pytest.raises(PublishError, match=r"unavailable: try again later.*503"):
        publish(folder)
    assert posts(hub, "commit/") == 1 + len(upload.PAUSES)
    assert titles(hub) == ["initial commit"]


def test_a_failed_upload_of_the_weights_is_repeated(hub, folder):
    hub.fail_next("put", 503)
    publish(folder)
    assert published(hub) == content(folder) and titles(hub) == ["Publish", "initial commit"]
    assert sum(method == "PUT" for method, _ in hub.requests) == 2


@pytest.mark.parametrize("route", ["create_repo", "info", "tree", "preupload", "lfs", "validate"])
def test_every_other_request_may_fail_once(hub, folder, route):
    hub.fail_next(route, 503)
    publish(folder)
    assert published(hub) == content(folder) and titles(hub) == ["Publish", "initial commit"]


def test_somebody_elses_commit_meanwhile_is_not_written_over(hub, folder):
    publish(folder)
    (folder / "config.json").write_text('{"v": 2}')
    hub.before_next("commit", lambda: hub.push(REPO, {"config.json": b'{"theirs": 1}'}, "Fix the labels", "bob"))
    with pytest.raises(PublishError, match=r"bob has committed 'Fix the labels' \([0-9a-f]{40}\) to main meanwhile"):
        publish(folder)
    assert hub.head(REPO).files["config.json"].data == b'{"theirs": 1}'
    publish(folder)
    assert published(hub) == content(folder)


def test_somebody_elses_commit_between_two_attempts_is_not_written_over(hub, folder):
    hub.fail_next("commit", 503)
    hub.before_next("commits", lambda: hub.push(REPO, {"notes.txt": b"hello"}, "Add notes", "bob"))
    with pytest.raises(PublishError, match="bob has committed 'Add notes'"):
        publish(folder)
    assert titles(hub) == ["Add notes", "initial commit"]


def test_a_file_that_the_repository_ignores_is_missed(hub, folder):
    publish(folder)
    hub.push(REPO, {".gitignore": b"config.json\n"}, "ignore")
    (folder / "config.json").write_text('{"v": 2}')
    with pytest.raises(PublishError, match=r"does not hold what was sent \(config.json\).*gitignore"):
        publish(folder)


# Permissions


@pytest.mark.parametrize(
    ("token", "repo", "says"),
    [
        ("hf" + "_nobody", REPO, "401|does not know you.*hf auth login"),
        ("read", REPO, "may not write there"),
        ("write", "bob/tiny", "may not write there"),
        (None, REPO, "does not know you"),
    ],
)
def test_without_the_right_the_way_to_it_is_said_and_the_token_is_not(hub, folder, monkeypatch, token, repo, says):
    token = {"read": hub.read_token, "write": hub.token}.get(token, token)
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(PublishError, match=says) as caught:
        upload_folder(folder, repo, message="Publish")
    assert not token or token not in str(caught.value)
    assert not hub.repositories


def test_refusals_of_the_content_are_reported(hub, folder):
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(PublishError, match="README"):
        publish(folder)
    with pytest.raises(PublishError, match="Repo id must"):
        upload_folder(folder, "no such/name!", message="Publish")
    assert titles(hub) == ["initial commit"]


def test_offline_is_said_before_anything_is_asked(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="unset HF_HUB_OFFLINE"):
        publish(folder)
    assert not hub.requests


def test_the_commit_that_holds_a_folder_is_found_whatever_its_card(hub, folder):
    assert commit_holding(folder, REPO, except_for="README.md") is None
    sha = publish(folder)
    assert commit_holding(folder, REPO, except_for="README.md") == sha
    (folder / "README.md").write_text(CARD + sha)
    publish(folder)
    assert commit_holding(folder, REPO, except_for="README.md") == sha
    (folder / "config.json").write_text('{"v": 2}')
    assert commit_holding(folder, REPO, except_for="README.md") is None
    assert commit_holding(folder, REPO, revision="no-such-branch", except_for="README.md") is None


# The Hub itself, as its client sees it


def test_a_revision_pins_content(hub, folder, tmp_path):
    sha = publish(folder)
    hub.push(REPO, {"config.json": b'{"evil": true}'}, "harmless")
    at = {"repo_id": REPO, "filename": "config.json"}
    assert Path(hf_hub_download(**at, revision=sha)).read_text() == "{}"
    assert Path(hf_hub_download(**at)).read_text() == '{"evil": true}'
    HfApi().create_tag(REPO, tag="v1", revision=sha)
    assert Path(hf_hub_download(**at, revision="v1")).read_text() == "{}"


def test_a_download_that_is_cut_off_is_completed(hub, folder):
    sha = publish(folder)
    hub.cut_next("download", after=100_000)
    path = hf_hub_download(REPO, "model.safetensors", revision=sha)
    assert load_file(path)["weight"].equal(torch.arange(50_000.0))
    assert sum(method == "GET" and path.endswith("model.safetensors") for method, path in hub.requests) == 2


def test_a_slow_hub_is_waited_for(hub, folder):
    hub.before_next("commit", lambda: time.sleep(0.5))
    publish(folder)
    assert titles(hub) == ["Publish", "initial commit"]


def test_what_is_not_there_is_not_found(hub, folder):
    publish(folder)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "nothing.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="nowhere")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("ada/nothing", "config.json")
    assert HfApi().whoami()["name"] == "ada"


def test_a_snapshot_is_the_folder(hub, folder, tmp_path):
    sha = publish(folder)
    snapshot_download(REPO, revision=sha, local_dir=tmp_path / "copy")
    copy = {name: data for name, data in content(tmp_path / "copy").items() if not name.startswith((".cache", ".git"))}
    assert copy == content(folder)
