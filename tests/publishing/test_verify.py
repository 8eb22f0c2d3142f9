"""The command verify on folders: its exit codes, and when it runs code."""

import shutil
from pathlib import Path

import pytest

from modeling_vit_custom.commands.verify import main
from modeling_vit_custom.publishing.verify import MAX_BYTES, MAX_FILES, check_listing


@pytest.fixture
def folder(published, tmp_path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.measure", lambda *_: pytest.fail("code was run"))


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


CHECKS = [
    "files", "safetensors only", "configuration", "auto_map", "weight files", "weights fit the model",
    "finite weights", "labels", "image processor", "model card", "records", "secrets", "code",
    "strict load in a fresh process", "classes in a fresh process", "golden images, torchvision backend",
    "golden images, pil backend", "golden images, pipeline",
]  # fmt: skip


def test_a_published_folder_passes_every_check(published, capsys):
    """This is the default suite's only test of the whole command, with its fresh process."""
    assert main([str(published)]) == 0
    *checks, count = lines(capsys)
    for line, name in zip(checks, CHECKS, strict=True):
        assert line.startswith(f"PASS  {name}  ")
    assert count == f"{len(CHECKS)} of {len(CHECKS)} checks passed"


def test_a_damaged_folder_fails_by_name_and_is_not_run(folder, capsys, nothing_runs):
    (folder / "extra.bin").write_bytes(b"x")
    assert main([str(folder)]) == 1
    printed = lines(capsys)
    assert sum(line.startswith("FAIL  safetensors only") and "extra.bin" in line for line in printed) == 1
    assert any(
        line.startswith("FAIL  fresh process") and "not run: 'safetensors only' has failed" in line for line in printed
    )
    assert printed[-1].endswith(" checks passed") and not printed[-1].startswith("0 ")


def test_changed_code_is_not_run_unless_trusted(folder, capsys, nothing_runs):
    (folder / "pooling_vit_custom.py").write_text((folder / "pooling_vit_custom.py").read_text() + "\nx = 1\n")
    assert main([str(folder)]) == 1
    assert any(line.startswith("FAIL  code") and "pooling_vit_custom.py differ" in line for line in lines(capsys))
    with pytest.raises(pytest.fail.Exception, match="code was run"):
        main([str(folder), "--trust_remote_code"])


def test_a_folder_without_golden_outputs_has_not_passed(folder, capsys, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    (folder / "golden.json").unlink()
    assert main([str(folder)]) == 1
    assert any(line.startswith("FAIL  golden images") and "there is no golden.json" in line for line in lines(capsys))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/folder"], "is no folder"),
        (["./here"], "is no folder"),
        (["a/b/c"], "is no folder"),
        (["{folder}", "--revision", "main"], "is a folder and has no --revision main"),
        (["ada/model", "--trust_remote_code"], "name its commit, all 40 digits"),
        (["ada/model", "--trust_remote_code", "--revision", "main"], "name its commit, all 40 digits"),
        (["ada/model"], "offline mode is enabled"),
        (["a b"], "a b is no folder here, and as a Hub id it cannot be had from"),
    ],
)
def test_what_cannot_be_verified_is_said_in_one_line(tmp_path, capsys, arguments, message):
    assert main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("verify: ") and message in error and len(error.splitlines()) == 1


def test_a_listing_is_judged_before_anything_is_downloaded():
    sizes = {"config.json": 1_000, "model.safetensors": 5_000_000}
    assert check_listing(sizes).passed and "2 files, 5.0 MB" in check_listing(sizes).detail
    for more, message in (
        ({"pytorch_model.bin": 10}, "pytorch_model.bin: no safetensors"),
        ({"old/weights.PTH": 10}, "old/weights.PTH: no safetensors"),
        ({"huge.safetensors": MAX_BYTES}, "are not downloaded"),
        ({f"{i}.txt": 1 for i in range(MAX_FILES)}, "are not downloaded"),
    ):
        check = check_listing(sizes | more)
        assert not check.passed and message in check.detail
