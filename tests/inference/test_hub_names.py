"""A model on the Hub by its commit, branch or tag, the same in every command; and the line that a terminal shows."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from real_digits import write_class_folder
from safetensors.torch import load_file
from saved_models import save_ours

from modeling_vit_custom import api
from modeling_vit_custom.cli import main
from modeling_vit_custom.common.claims import weights_digest
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.publishing.upload import upload_folder
from modeling_vit_custom.publishing.verify import VerifyError
from modeling_vit_custom.serving import server
from modeling_vit_custom.serving.demo_maps import maps_below
from modeling_vit_custom.speed import export as speed_export
from modeling_vit_custom.tasks import classification_demo
from modeling_vit_custom.training.runs.groups import training_groups

# the client sends a file in a way that its own HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "ada/tiny"


@pytest.fixture
def commits(hub, tmp_path):
    """Return (an earlier commit with tag "v1" and branch "old", the commit of main, the digests of both weights)."""
    shas, digests = [], []
    for seed in (0, 1):
        folder = save_ours(tmp_path / f"seed{seed}", seed)
        digests.append(weights_digest(folder))
        shas.append(upload_folder(folder, REPO, message=f"seed {seed}"))
        if seed == 0:
            HfApi().create_tag(REPO, tag="v1", revision=shas[0])
            HfApi().create_branch(REPO, branch="old", revision=shas[0])
    return *shas, digests


@pytest.fixture
def digits(tmp_path):
    return write_class_folder(tmp_path / "digits", {"0": 3, "1": 3})


@pytest.fixture
def terminal(monkeypatch):
    """Replace stderr by a real terminal; return a function that reads what it shows."""
    ours, theirs = os.openpty()
    shown = os.fdopen(theirs, "w")

    def read() -> str:
        shown.flush()
        os.set_blocking(ours, False)
        try:
            return os.read(ours, 100_000).decode().replace("\r\n", "\n")
        except BlockingIOError:
            return ""

    stands_in = SimpleNamespace(stderr=shown, argv=sys.argv)  # pytest replaces stderr in sys meanwhile
    monkeypatch.setattr("modeling_vit_custom.common.model_names.sys", stands_in)
    yield read
    shown.close()
    os.close(ours)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_predict_finds_the_same_model_by_every_name(commits, digits, tmp_path):
    old, new, _ = commits
    shown = {}
    names = (f"{REPO}@{old}", f"{REPO}@v1", f"{REPO}@old", REPO, f"{REPO}@main", f"{REPO}@{new}")
    for number, name in enumerate(names):
        assert main(["predict", str(digits), "--model", name, "--output", str(tmp_path / f"{number}.jsonl")]) == 0
        shown[name] = (tmp_path / f"{number}.jsonl").read_text()
    assert main(["predict", str(digits), "--model", REPO, "--revision", old, "--output", str(tmp_path / "r")]) == 0
    assert {shown[name] for name in names[:3]} == {(tmp_path / "r").read_text()}
    assert len({shown[name] for name in names[3:]}) == 1 and shown[REPO] != shown[names[0]]
    for output in ("0.jsonl", "r"):
        meta = json.loads((tmp_path / f"{output}.meta.json").read_text())
        assert (meta["model"], meta["revision"]) == (REPO, old)
    assert main(["predict", str(digits), "--model", f"{REPO}@v1", "--output", str(tmp_path / "r")]) == 0, "continues"


def test_evaluate_export_and_load_take_it_too(commits, digits, tmp_path, monkeypatch):
    old, _, digests = commits
    measured = api.evaluate(f"{REPO}@{old}", digits, tmp_path / "m.json")
    assert (measured.context["model"], measured.context["revision"]) == (REPO, old)
    assert json.loads((tmp_path / "m.json").read_text())["weights"]["sha256"] == digests[0]
    model, processor = api.load(f"{REPO}@old", device="cpu")
    expected = load_file(tmp_path / "seed0" / "model.safetensors")
    assert not model.training and torch.equal(model.state_dict()["classifier.weight"], expected["classifier.weight"])
    assert type(processor).__name__ == "ViTCustomImageProcessor"
    for part in ("compare", "demand_parity", "rates"):
        monkeypatch.setattr(speed_export, part, lambda *_: None)
    monkeypatch.setattr(speed_export, "build", lambda *_: (None, {}))
    for number, named in enumerate(({"model": f"{REPO}@{old}"}, {"model": REPO, "revision": old})):
        assert api.export(**named, output=tmp_path / f"e{number}")["original"]["sha256"] == digests[0]


def test_a_training_starts_from_it_and_keeps_both_parts(commits, digits, tmp_path, terminal):
    old, new, _ = commits
    out = tmp_path / "out"
    words = ["--train_dir", str(digits), "--output_dir", str(out), "--max_steps", "1", "--use_cpu", "true"]
    words += ["--report_to", "none", "--disable_tqdm", "true", "--augmentation", "light", "--audit", "off"]
    assert main(["train", "--model", f"{REPO}@v1", *words]) == 0
    record = json.loads((out / "training_args.json").read_text())["model"]
    assert (record["model_name_or_path"], record["model_revision"]) == (REPO, "v1")
    (shown,) = [line for line in terminal().splitlines() if line.startswith("model: ")]
    assert shown.startswith(
        f"model: {REPO}@{old} (v1 today); to repeat: vit-custom train --model_name_or_path {REPO}@{old} "
    )
    groups = training_groups({"model_name_or_path": f"{REPO}@{new}", "train_dir": "d", "output_dir": "o"})
    assert (groups[0].model_name_or_path, groups[0].model_revision) == (REPO, new)


def test_flags_win_over_a_recipe_s_model_and_its_revision(tmp_path):
    recipe = tmp_path / "r.yaml"
    for named in ("model_name_or_path: me/a@v1", "model_name_or_path: me/a\nmodel_revision: v1"):
        recipe.write_text(f"{named}\ntrain_dir: d\noutput_dir: o\n")
        for flags, found in (
            ({}, ("me/a", "v1")),
            ({"model_name_or_path": "me/b"}, ("me/b", "main")),
            ({"model_name_or_path": "me/a@v2"}, ("me/a", "v2")),
            ({"model_revision": "v3"}, ("me/a", "v3")),
        ):
            model = training_groups(flags, recipe)[0]
            assert (model.model_name_or_path, model.model_revision) == found
    with pytest.raises(UsageError, match="--revision main another"):
        training_groups({"model_name_or_path": "me/a@v2", "model_revision": "main", "train_dir": "d"})


# ---------- what a terminal shows


@pytest.mark.parametrize("revision", [None, "main", "v1"])
def test_a_terminal_shows_the_commit_and_the_command_that_repeats(commits, digits, tmp_path, terminal, revision):
    sha = commits[0] if revision == "v1" else commits[1]
    named = ["--model", REPO, *(["--revision", revision] if revision else [])]
    output = str(tmp_path / "it's here.jsonl")
    assert main(["predict", *named, str(digits), "--output", output]) == 0
    shown = terminal()
    (line,) = re.findall(r"^model: .*$", shown, re.MULTILINE)
    before, again = line.split("; to repeat: ")
    assert before == f"model: {REPO}@{sha} ({revision or 'main'} today)"
    program, *words = shlex.split(again)
    assert program == "vit-custom" and words == ["predict", "--model", f"{REPO}@{sha}", str(digits), "--output", output]
    assert main(words) == 0 and "model: " not in terminal(), "no line for a model that is named by its commit"


def test_no_commit_is_shown_for_a_folder_or_after_a_failure(commits, digits, tmp_path, capsys, terminal):
    assert main(["predict", "--model", str(tmp_path / "seed0"), str(digits), "--output", str(tmp_path / "a")]) == 0
    assert main(["predict", "--model", f"{REPO}@none", str(digits), "--output", str(tmp_path / "b")]) == 2
    assert "model: " not in terminal()


def test_no_commit_is_written_into_a_pipe(commits, digits, tmp_path, capsys):
    assert main(["predict", "--model", REPO, str(digits), "--output", str(tmp_path / "a")]) == 0
    written = capsys.readouterr()
    assert "model: " not in written.out + written.err


def test_without_a_network_the_cache_serves_and_tells(hub, commits, digits, tmp_path, monkeypatch, terminal):
    _, new, _ = commits
    assert main(["predict", "--model", REPO, str(digits), "--output", str(tmp_path / "a")]) == 0
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    terminal()
    assert main(["predict", "--model", REPO, str(digits), "--output", str(tmp_path / "b")]) == 0
    assert f"model: {REPO}@{new} (main today)" in terminal() and len(hub.requests) == asked


def test_telling_asks_the_hub_for_nothing(hub, commits, digits, tmp_path, monkeypatch, terminal):
    """The line costs no requests: there are as many with it as without it."""
    asked = []
    for number, shown in enumerate((True, True, False)):  # the first run fills the cache
        if not shown:
            monkeypatch.setattr("modeling_vit_custom.common.model_names.sys", sys)
        hub.requests.clear()
        assert main(["predict", "--model", REPO, str(digits), "--output", str(tmp_path / str(number))]) == 0
        asked.append(sorted(hub.requests))
        assert ("model: " in terminal()) is shown
    assert asked[1] == asked[2]


def test_serve_tells_before_it_answers(commits, terminal, monkeypatch, capsys):
    class Stopped:
        def run(self, sockets: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(server, "http_server", lambda service: Stopped())
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["serve", "--model", f"{REPO}@v1", "--port", "0"]) == 0, "Ctrl-C ends it with exit code 0"
    assert f"vit-custom serve --model {REPO}@{commits[0]} --port 0" in terminal()
    assert f"serving {REPO} on" in capsys.readouterr().out


# ---------- code


def test_where_code_is_to_run_the_commit_that_was_meant_is_said(commits, tmp_path, monkeypatch, capsys):
    old, new, _ = commits
    for name, sha, meant in ((REPO, new, "main"), (f"{REPO}@v1", old, "v1")):
        said = rf"--model {REPO}@COMMIT, or --revision COMMIT, .*{meant} is {sha} now"
        with pytest.raises(ValueError, match=said):
            api.load(name, trust_remote_code=True)
        with pytest.raises(VerifyError, match=said):
            api.verify(name, trust_remote_code=True)
        assert main(["demo", "--model", name]) == 2 and re.search(said, capsys.readouterr().err)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=rf"`hf models info {REPO}` shows it as sha"):
        api.load(REPO, trust_remote_code=True)


def test_the_demo_is_given_model_and_commit(commits, monkeypatch):
    shown = []
    monkeypatch.setattr(classification_demo, "Classifier", lambda *named: named)
    monkeypatch.setattr(classification_demo, "launch", lambda *given: shown.append(given))
    assert main(["demo", "--model", f"{REPO}@{commits[0]}", "--port", "1"]) == 0
    assert main(["demo", "--model", REPO, "--revision", commits[0], "--port", "1"]) == 0
    assert shown == [((REPO, commits[0]), None, 1, maps_below)] * 2


def test_verify_takes_the_commit_in_the_name(commits, monkeypatch, capsys):
    monkeypatch.setattr("modeling_vit_custom.publishing.checks.fresh_checks", lambda _: [])
    for named in (["--model", f"{REPO}@{commits[0]}"], [f"{REPO}@{commits[0]}"], [REPO, "--revision", commits[0]]):
        assert main(["verify", *named]) == 1, "a plain checkpoint must fail, it is not published"
        assert capsys.readouterr().out.startswith(f"{REPO} at commit {commits[0]}\nPASS  repository listing")


@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "serve", "demo", "verify", "convert", "train"])
def test_two_revisions_are_a_sentence_and_exit_code_2(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    more = {
        "predict": ["x.png"], "evaluate": ["--data_dir", "d"], "export": ["--output", "o"],
        "convert": ["--output", "o"], "train": ["--train_dir", "d", "--output_dir", "o"],
    }.get(command, [])  # fmt: skip
    for named, said in (
        (["--model", "me/x@v1", "--revision", "v2"], "me/x@v1 names revision v1, and --revision v2 another"),
        (["--model", "me/x@"], "names no revision after the @"),
        (["--model", "@v1"], "names no model before the @"),
    ):
        assert main([command, *named, *more]) == 2
        assert f"{command}: " in (shown := capsys.readouterr().err) and said in shown
