"""README and docs/ tell the truth: Python runs, commands parse, trees and links exist, a figure has one place."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
import torch
import transformers
import yaml
from doc_pages import DOCS, PAGES, README, ROOT, blocks, commands, parse, place_for_pages, section
from docs_site import GENERATED, MARKER

from modeling_vit_custom import VARIANTS, ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.cli import COMMANDS, main

TREES = [
    re.findall(r"^```\n(modeling_vit_custom/.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
    for text in (README, DOCS["design.md"])
]
BANNED = run_path(str(Path(__file__).with_name("test_words.py")))["BANNED"]
TABLES = {name: re.findall(r"^\|.*\|$", text, re.MULTILINE) for name, text in PAGES.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return place_for_pages(tmp_path_factory.mktemp("place"))


# ---------- what runs


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * ("import train" in text or "choose_method" in text))
        for name, text in DOCS.items()
        if blocks(text, "python")
    ],
)
def test_the_python_of_a_page_runs(name, place, monkeypatch):
    """In order, as one program, in a folder with what the pages name; a training is slow."""
    monkeypatch.chdir(place)
    exec(compile("\n".join(blocks(DOCS[name], "python")), name, "exec"), {})


def test_building_a_model_prints_what_it_says(capsys):
    exec(compile(blocks(DOCS["model.md"], "python")[0], "model.md", "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == [
        "torch.Size([2, 10]) torch.Size([2, 3, 49, 49])",
        "torch.Size([2, 10])",
    ]


@pytest.mark.slow
def test_quick_start_learns_and_the_first_lines_serve_it(tmp_path):
    """The README's first command in full, from scratch to at least 97 %, then its first lines of Python."""
    quickstart = [sys.executable, ROOT / "scripts" / "quickstart.py", "--disable_tqdm", "true"]
    printed = subprocess.run(quickstart, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1])["accuracy"] >= 0.97
    (block,) = [block for block in blocks(README, "python") if "pipeline(" in block]
    served = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert served.stdout.split()[0] == "3"  # the digit of the file the README names


@pytest.mark.slow
def test_the_commands_of_fine_tuning_run_one_after_another(tmp_path, monkeypatch, capsys):
    """From the audit to the folder that would be published; `verify` needs the Hub, and `publish` has its checks."""
    monkeypatch.chdir(place_for_pages(tmp_path))
    Path("outputs/photos").rename("CHECKPOINT")
    words = commands(section(README, "## Fine-tune"))
    assert [command for command, *_ in words] == [
        "audit_data", "train", "evaluate", "predict", "export", "publish", "verify",
    ]  # fmt: skip
    for command, *flags in words[:-1]:
        assert main([command, *flags]) == 0, command
    (staged,) = re.findall(r"staged, not uploaded: (.*)", capsys.readouterr().out)
    assert "license: apache-2.0" in (Path(staged) / "model" / "README.md").read_text(encoding="utf-8")
    shutil.rmtree(staged)


INSTALLING = blocks(section(README, "## Install"), "bash")[0]


def test_the_lines_of_installing_are_those_that_ci_runs():
    """.ci/run cuts them out of the README and runs them, with what they bring, in an environment of its own."""
    (cut,) = re.findall(r"^lines=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert subprocess.run(["bash", "-c", cut], cwd=ROOT, capture_output=True, text=True).stdout == INSTALLING
    assert INSTALLING in blocks(DOCS["index.md"], "bash") and "pip install vit-custom" not in "".join(PAGES.values())


@pytest.mark.slow
def test_the_lines_of_installing_install(tmp_path):
    """In a new environment, without the libraries that other tests install: PIP_NO_DEPS."""
    subprocess.run(["git", "clone", "--quiet", ROOT, "checkout"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "venv", "env"], cwd=tmp_path, check=True)
    script = f"set -e; . ../env/bin/activate; export PIP_NO_DEPS=1\n{INSTALLING}"
    run = subprocess.run(["bash", "-c", script], cwd=tmp_path / "checkout", capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[-1].startswith("vit-custom "), run.stdout + run.stderr
    assert list((tmp_path / "env").glob("lib/*/site-packages/modeling_vit_custom/recipes/*.yaml"))


# ---------- what parses


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if commands(text)])
def test_every_command_of_a_page_parses(name):
    for words in commands(PAGES[name]):
        assert words[0] in COMMANDS or words == ["--version"], words
        if words[0] in COMMANDS:
            parse(words)


def test_the_readme_shows_the_commands_that_most_need():
    assert len(commands(README)) >= 6
    assert "make quickstart   # install; train" in README and "make test         # install" in README


def test_exit_codes_are_those_that_each_command_s_help_tells(capsys):
    """Those of the table, and the extra ones of the commands that the table gives them to."""
    text = DOCS["predict.md"].split("**Exit codes**")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() == {"0", "1", "2", "3", "130"}
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        (said,) = re.findall(r"[Ee]xit\s+codes:\s(.*)", capsys.readouterr().out, re.DOTALL)
        codes = set(re.findall(r"(?:^|,\s+)(\d+)\s", said))
        named = {code for code, row in rows.items() if f"`{command}" in row}
        assert codes == {"0", "2", "130"} | named, command


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)\b(?=`|   )", "\n".join(PAGES.values())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# ---------- what exists


@pytest.mark.parametrize("tree", TREES, ids=["README.md", "design.md"])
def test_the_tree_names_every_module_and_folder(tree):
    package = ROOT / "modeling_vit_custom"
    for path in package.glob("*_vit_custom.py"):
        assert path.name.removesuffix("vit_custom.py") in tree, path.name
    for path in [*package.glob("*/__init__.py"), package / "recipes" / "x"]:
        assert f"{path.parent.name}/" in tree, path.parent
    for prefix in re.findall(r"\b([a-z_]+_)(?= |$)", tree, re.MULTILINE):
        assert (package / f"{prefix}vit_custom.py").exists(), prefix
    for name in re.findall(r"^(?:  )?([\w./]+)(?: |$)", tree, re.MULTILINE):
        if name.endswith("/") or ("." in name and "_…" not in name):
            assert (ROOT / name).exists() or (package / name).exists(), name


def slug(heading: str) -> str:
    """The anchor of a heading, as mkdocs and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_to_what_exists(name):
    """mkdocs looks at those of docs/."""
    for place, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", (ROOT / name).read_text()):
        path = ROOT / place if place else ROOT / name
        assert path.exists(), place
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{place}#{anchor}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"\b\w+\.md\b", json.dumps(yaml.safe_load(text)["nav"]))
    assert sorted(named) == sorted(DOCS)
    for page in named:
        assert page == "training_arguments.md" or f"docs/{page}" in README or page in (
            "api.md", "flags.md", "config.md", "changes.md", "security.md", "design.md",
        )  # fmt: skip


def test_the_checkpoints_that_are_recommended_exist_and_convert():
    """By the lists that come with timm and transformers: nothing is downloaded."""
    timm = pytest.importorskip("timm")
    from modeling_vit_custom.conversion.survey import refusal

    table = section(README, "## Which checkpoint to start from")
    names = set(re.findall(r"timm:([\w.]+)", table))
    assert len(names) >= 3 and names <= set(timm.list_models(pretrained=True))
    assert {name: refusal(name.split(".")[0]) for name in names} == dict.fromkeys(names)
    known = {name.split(".")[0] for name in timm.list_models()}
    assert {name.split(".")[0] for text in PAGES.values() for name in re.findall(r"timm:(\w+_[\w.]+)", text)} <= known
    sources = Path(transformers.__file__).parent.glob("models/*/*ing_*.py")
    known_there = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    folders = re.findall(r"`((?:facebook|google)/[\w.-]+)`", table)
    assert len(folders) >= 2 and [name for name in folders if f'"{name}"' not in known_there] == []


def test_the_proofs_that_are_named_exist():
    for path in re.findall(r"[` ](tests/[\w/.]+)`", "\n".join([*PAGES.values(), (ROOT / "SECURITY.md").read_text()])):
        assert (ROOT / path).exists(), path


# ---------- figures


def test_a_figure_of_the_readme_is_one_of_the_benchmarks():
    """Row by row, word for word; and the table of tasks is that of its page."""
    for heading in ("## Results", "## Speed"):
        rows = re.findall(r"^\|.*\|$", section(README, heading), re.MULTILINE)
        assert len(rows) >= 6 and [row for row in rows if row not in TABLES["benchmarks.md"]] == []
    rows = re.findall(r"^\|.*\|$", section(README, "## What it does"), re.MULTILINE)
    assert [row for row in rows if row not in TABLES["tasks.md"]] == []


def test_parameter_counts_are_those_of_the_table():
    claimed = map(float, re.search(r"\(([\d.]+), ([\d.]+) and ([\d.]+) M parameters", DOCS["model.md"]).groups())
    for size, millions in zip(["nano", "micro", "mini"], claimed, strict=True):
        assert size in VARIANTS
        with torch.device("meta"):
            model = ViTCustomForImageClassification(ViTCustomConfig.from_variant(f"{size}/4", num_labels=10))
        assert round(model.num_parameters() / 1e6, 2) == millions


# ---------- how it reads


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180


@pytest.mark.parametrize("name", [name for name in PAGES if name != "training_arguments.md"])
def test_nothing_is_left_to_fill_in_and_words_are_plain(name):
    assert "@@" not in PAGES[name] and "TODO" not in PAGES[name]
    assert not [line for line in PAGES[name].splitlines() if BANNED.search(line)]


# ---------- what the site adds


def test_markers_are_known():
    named = {found for text in DOCS.values() for found in MARKER.findall(text)}
    assert named == GENERATED.keys()


def test_the_page_of_flags_has_every_flag_that_a_help_shows():
    page = GENERATED["flags"]()
    for command in ("train", "predict", "export", "publish"):
        part = page.split(f"## {command}\n")[1].split("\n## ")[0]
        assert f"vit-custom {command}" not in part and part.count("\n| `--") >= 10
        for words in (words for text in PAGES.values() for words in commands(text) if words[0] == command):
            for flag in (word for word in words if word.startswith("--")):
                assert f"`{flag}`" in part, flag
    assert "| `--weight_decay` |" in page and "==SUPPRESS==" not in page


def test_the_page_of_the_configuration_has_every_field():
    page = GENERATED["config"]()
    described = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert described == {name for name in ViTCustomConfig.__annotations__ if not name.startswith("_")}


def test_the_page_of_changes_has_every_entry():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## [")[1]
    shown = GENERATED["breaking"]().count("\n- ") + GENERATED["changelog"]().count("\n- ") + 1
    assert shown == text.count("\n- ")
