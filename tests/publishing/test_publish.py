"""publish, from an untidy folder to a fresh process that loads the repository, with the real client on loopback."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fresh_process import run_without_package
from hub_server import client_environment
from huggingface_hub import HfApi
from image_files import CHINA, FLOWER
from PIL import Image
from safetensors.torch import load_file, save_file
from saved_models import save_ours

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.cli import main
from modeling_vit_custom.publishing import publish as publish_module
from modeling_vit_custom.publishing import upload
from modeling_vit_custom.publishing.publish import Origin, draw_images, find_origin, images_in, prepare, publish, send
from modeling_vit_custom.publishing.upload import PublishError

# the client sends a file in a way that its own HTTP library deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "ada/tiny"
TOKEN = "hf" + "_" + "kQzXvWbNmLpRtYsD" + "fGhJkLqWeRtYuIoP"
MIT = Origin("mit")
CLASSIFY = """
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
repo, revision, image = sys.argv[1:4]
revision = None if revision == "None" else revision
model = AutoModelForImageClassification.from_pretrained(repo, revision=revision, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
with torch.no_grad():
    logits = model(**processor([image], return_tensors="pt")).logits[0]
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
best = pipeline(model=repo, revision=revision, trust_remote_code=True)(image, top_k=1)[0]["label"]
assert best == model.config.id2label[logits.argmax().item()], best
print(logits.tolist())
"""


@pytest.fixture
def model_dir(tmp_path) -> Path:
    return messy_folder(tmp_path / "run")


def messy_folder(folder: Path) -> Path:
    """Write what a training leaves, and files that people leave beside it."""
    save_ours(folder, num_channels=3)
    (folder / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    (folder / "notes.txt").write_text("to do: ask for permission to use these photographs\n")
    torch.save({"hub_token": TOKEN}, folder / "training_args.bin")
    (folder / "checkpoint-5").mkdir()
    torch.save({"state": {}}, folder / "checkpoint-5" / "optimizer.pt")
    run = {"model": {"model_name_or_path": "ada/base"}, "data": {"examples": 3}, "training": {"seed": 1}}
    (folder / "training_args.json").write_text(json.dumps(run))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return (a folder that `prepare` has staged and checked, the function that writes its card)."""
    root = tmp_path_factory.mktemp("prepared")
    model = messy_folder(root / "run")
    card = prepare(model, root / "staged", REPO, find_origin(model, "mit"), [CHINA, FLOWER])
    return root / "staged", card


@pytest.fixture
def staged(prepared, tmp_path):
    """Return a copy for one test, its repository and its card."""
    folder, card = prepared
    return shutil.copytree(folder, tmp_path / "staged"), REPO, card


def published(hub, kind="model") -> dict[str, bytes]:
    return {path: file.data for path, file in hub.head(REPO, kind=kind).files.items()}


def test_an_earlier_models_figures_stop_a_publication_and_replace_deletes_them(hub, staged, capsys):
    folder, repo, card = staged
    first = send(folder, repo, card)
    hub.push(repo, {"metrics.json": b"{}", "notes.txt": b"mine"}, "by hand")
    (folder / "LICENSE").write_text("new")
    with pytest.raises(PublishError, match=r"beside these: metrics.json \(says something of other weights\)"):
        send(folder, repo, card)
    assert hub.head(repo).title == "by hand"
    second = send(folder, repo, card, replace=True)
    assert second != first and not {"metrics.json", "notes.txt"} & set(published(hub))
    hub.push(repo, {"notes.txt": b"mine"}, "by hand")
    assert send(folder, repo, card) == second, "files that stay beside it must not cause a commit"
    assert hub.head(repo).title == "by hand" and "notes.txt" in published(hub)


def code_of(folder: Path) -> set[str]:
    modules = {path.name for path in folder.glob("*.py")}
    assert {"modeling_vit_custom.py", "configuration_vit_custom.py", "image_decoding_vit_custom.py"} <= modules
    return modules


def in_fresh_process(hub, folder: Path, revision: str | None, token: str | None = None) -> list[float]:
    """Return the logits of a photograph from a process that knows only the Hub's address."""
    setup = f"import os\nos.environ.update({client_environment(hub, token)!r})\n"
    return json.loads(run_without_package(setup + CLASSIFY, folder, REPO, revision, FLOWER).splitlines()[-1])


def expected_logits(folder: Path) -> torch.Tensor:
    from transformers import AutoImageProcessor

    model = ViTCustomForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoImageProcessor.from_pretrained(folder)([str(FLOWER)], return_tensors="pt")).logits[0]


def test_a_messy_folder_becomes_a_clean_repository_in_one_commit(hub, staged):
    sha = send(*staged)
    files = published(hub)
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "examples/0.png", "examples/1.png", "golden.json",
        "model.safetensors", "preprocessor_config.json", "training_args.json",
        *code_of(staged[0]),
    }  # fmt: skip
    assert not any(TOKEN.encode() in data or b"permission" in data for data in files.values())
    card, model, first = hub.head(REPO).history()
    assert model.sha == sha and first.title == "initial commit" and set(model.files) == set(files)
    assert [path for path in files if card.files[path] != model.files[path]] == ["README.md"]
    assert f'repo, revision = "{REPO}", "{sha}"' in files["README.md"].decode(), "the card must pin the model's commit"
    info = HfApi().model_info(REPO)
    assert (info.pipeline_tag, info.library_name) == ("image-classification", "transformers")
    assert info.card_data.license == "mit" and info.card_data.base_model == "ada/base"


def test_publishing_the_same_again_uploads_nothing(hub, staged, capsys):
    sha, head = send(*staged), hub.head(REPO).sha
    assert send(*staged) == sha and hub.head(REPO).sha == head
    assert "nothing to upload" in capsys.readouterr().out


def test_a_hub_that_stumbles_gets_the_model_once(hub, staged):
    for route in ("create_repo", "info", "validate", "commit"):  # requests that the client itself does not repeat
        hub.fail_next(route, 503, after_effect=True)
    sha = send(*staged)
    card, model, first = hub.head(REPO).history()
    assert model.sha == sha and first.title == "initial commit" and card.title == f"Card: pin {sha[:12]}"


def test_a_card_that_could_not_be_pinned_is_reported_and_pinned_later(hub, staged):
    hub.before_next("commit", lambda: hub.fail_next("validate", 403))
    with pytest.raises(
        PublishError, match=r"The model is published, as commit ([0-9a-f]{40}).*the same command goes on"
    ):
        send(*staged)
    model = hub.head(REPO)
    assert model.title != "initial commit" and model.parent.title == "initial commit"
    assert send(*staged) == model.sha
    assert hub.head(REPO).parent == model and model.sha in hub.head(REPO).files["README.md"].data.decode()


def test_the_space_shows_the_commit_that_was_published(hub, staged, capsys):
    sha = send(*staged, space=True)
    space = published(hub, "space")
    assert json.loads(space["model.json"]) == {"model": REPO, "revision": sha}
    assert {"app.py", "requirements.txt", "README.md"} <= set(space) and hub.repository(REPO, "space").sdk == "gradio"
    assert "HF_TOKEN" not in capsys.readouterr().out


def test_the_space_of_a_private_model_needs_a_secret_which_is_said(hub, staged, capsys):
    send(*staged, space=True, private=True)
    assert hub.repository(REPO, "space").private and "a secret HF_TOKEN" in capsys.readouterr().out


def test_without_a_licence_or_a_possible_name_no_work_begins(hub, model_dir, capsys):
    assert main(["publish", str(model_dir), REPO]) == 2
    assert "--license is missing" in capsys.readouterr().err
    assert main(["publish", str(model_dir), "tiny", "--license", "mit"]) == 2
    assert "NAMESPACE/tiny" in capsys.readouterr().err
    assert main(["publish", str(model_dir), REPO, "--license", "mit", "--revision", 40 * "a"]) == 2
    assert "is no branch" in capsys.readouterr().err
    (model_dir / "model.safetensors").unlink()
    assert main(["publish", str(model_dir), REPO, "--license", "mit"]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not hub.requests


@pytest.mark.parametrize("package", ["jinja2", "detect_secrets"])
def test_a_missing_package_is_named_with_its_extra_before_any_work(model_dir, tmp_path, monkeypatch, package):
    monkeypatch.setattr(upload, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(PublishError, match=rf"^{package} missing here: pip install 'vit-custom\[publish\]'"):
        prepare(model_dir, tmp_path / "staged", REPO, MIT)
    assert not (tmp_path / "staged").exists()


def test_the_command_can_say_what_is_missing():
    """The first imports need nothing of the extra `publish`."""
    code = (
        "import sys\n"
        "sys.modules.update(jinja2=None, markupsafe=None, detect_secrets=None)\n"
        "import modeling_vit_custom.publishing.publish\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_failed_dry_run_leaves_nothing_behind(model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (model_dir / "config.json").unlink()
    assert main(["publish", str(model_dir), REPO, "--license", "mit", "--dry_run"]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert not list((tmp_path / "temporary").iterdir())


def test_figures_of_another_form_are_named(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(publish_module, "write_golden", lambda *args, **kwargs: None)  # slow, and not tested here
    for content in ('{"test": {"accuracy": 0.5}}', '{"test": 5}', "[1]"):
        (model_dir / "metrics.json").write_text(content)
        with pytest.raises(PublishError, match=r"metrics\.json"):
            prepare(model_dir, tmp_path / "staged", REPO, MIT)
        shutil.rmtree(tmp_path / "staged", ignore_errors=True)


def test_records_of_other_weights_are_refused_before_anything_is_run(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(publish_module, "write_golden", lambda *args, **kwargs: pytest.fail("code was run"))
    for name in ("metrics.json", "training_args.json", "conversion.json", "speeds.json"):
        (model_dir / name).write_text(json.dumps({"weights": {"sha256": "0" * 64}}))
        with pytest.raises(PublishError, match=rf"{name} is of weights with SHA-256 000000000000…, those beside it"):
            prepare(model_dir, tmp_path / "staged", REPO, MIT)
        shutil.rmtree(tmp_path / "staged")
        (model_dir / name).unlink()


def test_foreign_code_is_not_run_unasked(hub, model_dir):
    with open(model_dir / "modeling_vit_custom.py", "a") as file:
        file.write(f"\nopen({str(model_dir / 'ran')!r}, 'w').close()\n")
    with pytest.raises(PublishError, match=r"modeling_vit_custom\.py: not this package's code.*--trust_remote_code"):
        publish(model_dir, REPO, MIT)
    assert not (model_dir / "ran").exists() and not hub.requests


def test_the_origin_is_what_was_given_else_what_the_folder_says(model_dir):
    assert find_origin(model_dir, "mit") == Origin("mit", [], "ada/base")
    (model_dir / "README.md").write_text("---\nlicense: gpl-3.0\nbase_model: bob/b\ndatasets: [bob/d]\n---\n")
    assert find_origin(model_dir) == Origin("gpl-3.0", ["bob/d"], "bob/b")
    assert find_origin(model_dir, "mit", ["ada/d"], "ada/b") == Origin("mit", ["ada/d"], "ada/b")
    (model_dir / "README.md").write_text("---\nlicense: mit\ndatasets: bob/d\n---\n")  # the Hub accepts this form too
    assert find_origin(model_dir).datasets == ["bob/d"]
    (model_dir / "README.md").write_text("---\nlicense: mit\nbase_model: [bob/b, bob/c]\n---\n")
    assert find_origin(model_dir, base_model="ada/b").base_model == "ada/b"
    with pytest.raises(PublishError, match=r"names 2 base models.*--base_model"):
        find_origin(model_dir)
    (model_dir / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(PublishError, match=r"README\.md or training_args\.json is damaged"):
        find_origin(model_dir, "mit")


def test_images_of_a_folder_are_its_first_five_by_name(tmp_path):
    assert images_in(tmp_path / "nothing") == []
    for name in ("6.png", "5.png", "4.png", "3.png", "2.png", "1.png", "0.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ["1.png", "2.png", "3.png", "4.png", "5.png"]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_drawn_images_are_the_same_each_time(tmp_path, channels, mode):
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        drawn.append(draw_images(folder, {"image_size": [20, 32], "num_channels": channels}))
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]
    assert len({path.read_bytes() for path in drawn[0]}) == 3
    for path in drawn[0]:
        with Image.open(path) as image:
            assert image.size == (48, 30) and image.mode == mode


@pytest.mark.slow
def test_the_command_shows_then_uploads_then_says_how_to_load_it(hub, model_dir, capsys):
    command = ["publish", str(model_dir), REPO, "--license", "mit"]
    assert main([*command, "--dry_run", "--space"]) == 0
    printed = capsys.readouterr().out
    folder = Path(re.search(r"staged, not uploaded: (\S+)", printed)[1])
    assert not hub.requests, "a dry run must contact nothing"
    assert all(name in printed for name in ("model/model.safetensors", "model/examples/2.png", "space/app.py"))
    assert all(f"left out: {name}" in printed for name in (".env", "training_args.bin", "notes.txt", "checkpoint-5/"))
    assert (folder / "model" / "golden.json").is_file() and not (folder / "model" / ".env").exists()
    shutil.rmtree(folder)
    assert main(command) == 0
    sha, printed = hub.head(REPO).parent.sha, capsys.readouterr().out
    assert f"{hub.url}/{REPO}/tree/{sha}" in printed and f'revision="{sha}"' in printed


@pytest.mark.slow
def test_a_failed_check_is_listed_and_nothing_goes_up(hub, model_dir, capsys):
    path = model_dir / "training_args.json"
    path.write_text(json.dumps({"model": {"model_name_or_path": TOKEN}}))
    assert main(["publish", str(model_dir), REPO, "--license", "mit"]) == 2
    captured = capsys.readouterr()
    assert "these checks failed" in captured.err and "training_args.json:1: Hugging Face token" in captured.err
    assert TOKEN not in captured.err + captured.out
    path.unlink()
    weights = load_file(model_dir / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    assert main(["publish", str(model_dir), REPO, "--license", "mit"]) == 2
    assert "NaN" in capsys.readouterr().err
    assert not hub.requests


@pytest.mark.slow
def test_published_then_loaded_by_a_fresh_process_then_verified(hub, staged, tmp_path, capsys):
    sha = send(*staged)
    hub.cut_next("download", after=50_000)  # cuts the weights: no other file is so long
    logits = in_fresh_process(hub, tmp_path / "fresh", sha)
    assert torch.allclose(torch.tensor(logits), expected_logits(staged[0]), atol=1e-5)
    assert sum(method == "GET" and path.endswith("model.safetensors") for method, path in hub.requests) == 2
    assert main(["verify", REPO, "--revision", sha]) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed and "golden images, pipeline" in printed


@pytest.mark.slow
def test_a_pinned_revision_runs_the_code_that_was_published_whatever_comes_later(hub, staged, tmp_path):
    sha = send(*staged, private=True)
    hub.push(REPO, {"modeling_vit_custom.py": b"raise SystemExit('EVIL code has run')"}, "harmless")
    logits = in_fresh_process(hub, tmp_path / "pinned", sha, hub.read_token)
    assert torch.allclose(torch.tensor(logits), expected_logits(staged[0]), atol=1e-5)
    with pytest.raises(RuntimeError, match="EVIL code has run"):
        in_fresh_process(hub, tmp_path / "unpinned", None, hub.read_token)
    with pytest.raises(RuntimeError, match="not a valid model identifier"):  # private: invisible without a token
        in_fresh_process(hub, tmp_path / "stranger", sha)


@pytest.mark.slow
def test_transformers_own_push_takes_the_code_along(hub, model_dir, tmp_path):
    from transformers import AutoImageProcessor

    ViTCustomForImageClassification.from_pretrained(model_dir).push_to_hub(REPO)
    AutoImageProcessor.from_pretrained(model_dir).push_to_hub(REPO)
    assert code_of(model_dir) <= set(published(hub))
    setup = f"import os\nos.environ.update({client_environment(hub)!r})\n"
    code = setup + CLASSIFY.replace("pipeline(model=repo", "pipeline('image-classification', model=repo")
    logits = run_without_package(code, tmp_path / "fresh", REPO, hub.head(REPO).sha, FLOWER)
    assert torch.allclose(torch.tensor(json.loads(logits)), expected_logits(model_dir), atol=1e-5)
