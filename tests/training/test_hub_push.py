"""--push_to_hub of a training, by the real client on loopback: each published state is complete."""

import re

import pytest
from real_digits import write_class_folder
from tiny_training import command, tiny_train

from modeling_vit_custom.commands.train import main
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.publishing.checks import check_folder
from modeling_vit_custom.publishing.upload import Repository

# the client sends a file in a way that its own HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "ada/digits"


@pytest.fixture
def flags(tmp_path) -> list[str]:
    images = write_class_folder(tmp_path / "digits", {"3": 12, "8": 12})
    push = ["--push_to_hub", "true", "--hub_model_id", REPO, "--hub_license", "mit"]
    return ["--train_dir", str(images), "--num_train_epochs", "2", *push]


def history(hub) -> list:
    """Return the commits that a training made, oldest first."""
    return hub.head(REPO).history()[-2::-1]


def assert_proven(commit, folder):
    """Check that a commit passes every check: code, strict load and golden outputs in a fresh process."""
    for name, file in commit.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    checks = check_folder(folder)
    assert all(check.passed for check in checks) and len(checks) > 15, list(map(str, checks))


def test_who_may_not_publish_learns_it_before_the_training(hub, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    with pytest.raises(UsageError, match=r"--push_to_hub: ada/digits: this token may not write there"):
        tiny_train(tmp_path / "run", *flags)
    assert main(command(tmp_path / "run2", *flags)) == 2
    assert not list(tmp_path.glob("run*/checkpoint-*")) and not hub.repositories


@pytest.mark.parametrize(
    ("name", "strategy", "remedy"),
    [
        ("pytorch_model.bin", "end", r"code\). Remove them there, or name another repository or --hub_revision"),
        ("speeds.json", "end", "says something of other weights"),
        ("metrics.json", "every_save", r"Remove them there, give --hub_strategy end, or name another"),
    ],
)
def test_what_an_earlier_model_left_is_named_before_the_training(hub, flags, tmp_path, name, strategy, remedy):
    Repository(REPO, "model").open(private=False)
    hub.push(REPO, {name: b"{}"}, "by hand")
    with pytest.raises(UsageError, match=rf"--push_to_hub: {REPO} holds .*{re.escape(name)} \(.*{remedy}"):
        tiny_train(tmp_path / "run", *flags, "--hub_strategy", strategy)
    assert not list(tmp_path.glob("run*/checkpoint-*")) and len(hub.head(REPO).history()) == 2


@pytest.mark.slow
def test_a_branch_is_published_to(hub, flags, tmp_path):
    tiny_train(tmp_path / "run", *flags, "--hub_revision", "trial", "--hub_private_repo", "false")
    assert "model.safetensors" in hub.head(REPO, "trial").files and not hub.repository(REPO).private
    assert "model.safetensors" not in hub.head(REPO).files


@pytest.mark.slow
def test_checkpoints_and_the_finished_model_are_published_complete_and_a_failure_on_the_way_stops_nothing(
    hub, flags, tmp_path, caplog
):
    hub.fail_next("preupload", 403)
    more = ["--hub_strategy", "every_save", "--hub_always_push", "true", "--hub_private_repo", "true"]
    tiny_train(tmp_path / "run", *flags, *more)
    assert "NOT PUSHED: Training in progress, step 3. The training goes on" in caplog.text
    checkpoint, model, card = history(hub)
    assert checkpoint.title == "Training in progress, step 6" and hub.repository(REPO).private
    assert_proven(checkpoint, tmp_path / "copy")
    assert {"metrics.json", "training_args.json", "confusion_matrix.png", "golden.json"} <= set(model.files)
    for commit in (checkpoint, model):
        assert not [name for name in commit.files if "checkpoint" in name or name.endswith((".bin", ".pt", ".pth"))]
    text = card.files["README.md"].data.decode()
    assert model.sha in text and "accuracy" in text.lower() and "license: mit" in text


@pytest.mark.slow
def test_a_failed_push_at_the_end_keeps_the_model_and_says_how_to_continue(hub, flags, tmp_path, capsys):
    from modeling_vit_custom.cli import main as vit_custom

    hub.fail_next("commit", 503, times=3)
    assert main(command(tmp_path / "run", *flags)) == 1
    error = capsys.readouterr().err
    again = f"vit-custom publish --model {tmp_path / 'run'} --repo_id {REPO} --license mit"
    assert "is not published" in error and again in error and history(hub) == []
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert vit_custom(again.split()[1:]) == 0
    assert "metrics.json" in hub.head(REPO).files
