"""verify on a repository of the loopback Hub: one commit, listed before it is downloaded, nothing from a cache."""

import shutil
from pathlib import Path

import pytest
from hub_server import point_client_at, running_hub
from huggingface_hub.utils import disable_progress_bars

from modeling_vit_custom.commands.verify import main
from modeling_vit_custom.publishing.upload import upload_folder

# the client sends a file in a way that its own HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "ada/tiny"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    disable_progress_bars()
    with running_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def folder(published, tmp_path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")


@pytest.fixture
def static_only(monkeypatch):
    """Leave out the fresh process, which the slow test starts."""
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])


def upload(folder: Path) -> str:
    return upload_folder(folder, REPO, message="Publish")


def downloads(hub) -> int:
    return sum(method == "GET" and "/resolve/" in path for method, path in hub.requests)


def test_main_is_resolved_to_a_commit_that_is_named(hub, published, capsys, static_only):
    sha = upload(published)
    capsys.readouterr()
    assert main([REPO]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{REPO} at commit {sha}"
    assert printed[1] == f"main is that commit now and may be another tomorrow: name it {REPO}@{sha}"
    assert printed[2].startswith("PASS  repository listing") and "FAIL" not in "".join(printed)
    assert all(sha in path for method, path in hub.requests if "/resolve/" in path)


def test_what_stays_beside_a_model_passes_too(hub, folder, capsys, static_only):
    upload(folder)
    hub.push(REPO, {"docs/notes.txt": b"mine", "figures.json": b'{"n": 1}'}, "by hand")
    (folder / "LICENSE").write_text("new")
    sha = upload(folder)
    capsys.readouterr()
    assert main([REPO, "--revision", sha]) == 0
    assert {"docs/notes.txt", "LICENSE", "figures.json"} <= set(hub.head(REPO).files)


def test_a_pinned_commit_stays_what_it_was(hub, folder, capsys, static_only):
    good = upload(folder)
    (folder / "README.md").write_text("# no front matter any more")
    bad = upload(folder)
    assert main([REPO, "--revision", good]) == 0
    assert "pin it" not in capsys.readouterr().out
    assert main([REPO, "--revision", bad]) == 1
    assert "FAIL  model card" in capsys.readouterr().out


def test_nothing_is_kept_and_nothing_comes_from_a_cache(hub, published, static_only, tmp_path):
    sha = upload(published)
    main([REPO, "--revision", sha])
    first, hub.requests[:] = downloads(hub), []
    main([REPO, "--revision", sha])
    assert downloads(hub) == first > 0
    assert not (tmp_path / "cache").exists()


def test_a_repository_with_a_pickle_is_not_downloaded(hub, folder, capsys):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 no tensors")
    sha = upload(folder)
    del hub.requests[:]
    assert main([REPO, "--revision", sha]) == 1
    assert "FAIL  repository listing" in capsys.readouterr().out
    assert downloads(hub) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["ada/none"], "Repository Not Found"), ([REPO, "--revision", "0" * 40], "Revision Not Found")],
)
def test_what_is_not_there_is_said(hub, published, capsys, arguments, message):
    upload(published)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and hub.url in error and len(error.splitlines()) == 1


@pytest.mark.slow
def test_from_the_hub_through_the_fresh_process(hub, published, capsys):
    assert main([REPO, "--revision", upload(published)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("19 of 19 checks passed\n") and "PASS  golden images, pipeline" in printed


@pytest.mark.slow
def test_golden_outputs_tell_a_repository_whose_labels_were_permuted(hub, folder, capsys):
    config = (folder / "config.json").read_text()
    swapped = config.replace("palace", "PALACE").replace("flower", "palace").replace("PALACE", "flower")
    (folder / "config.json").write_text(swapped)
    assert main([REPO, "--revision", upload(folder)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1 and failed[0].startswith("FAIL  golden images, pipeline")
