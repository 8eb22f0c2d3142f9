"""docs/notebooks: stored without outputs, named in the docs, plain; each runs from top to bottom and leaves nothing."""

import ast
import inspect
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from runpy import run_path

import nbformat
import pytest
import yaml
from command_parsers import parser_of
from doc_pages import DOCS, NOTEBOOKS, README, ROOT
from docs_site import notebook_page

from modeling_vit_custom.cli import COMMANDS

BANNED = run_path(str(Path(__file__).with_name("test_words.py")))["BANNED"]
MACHINE_PATHS = re.compile(r"[\"' ](?:/home|/root|/work|/tmp|/Users|[A-Z]:\\\\)")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str) -> list[str]:
    """Return the sources of a notebook's cells of a kind, markdown or code."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


# ---------- how they are stored


@each_notebook
def test_it_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5) and notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    ids = [cell.id for cell in notebook.cells]
    assert len({*ids}) == len(ids)


@each_notebook
def test_it_begins_with_what_it_shows_and_its_settings(path):
    title, code = cells_of(path, "markdown")[0].splitlines(), cells_of(path, "code")
    assert re.fullmatch(r"# [A-Z][a-z ]+", title[0]) and title[2].startswith("This notebook ")
    assert code[0].startswith("# Small numbers: ")
    assert {type(node) for node in ast.parse(code[0]).body} == {ast.Assign}
    assert code[-1] == "shutil.rmtree(work)" and any(".plot()" in text for text in code)
    assert max(len(text.splitlines()) for text in code) <= 25


@each_notebook
def test_words_are_plain_and_nothing_is_of_one_machine(path):
    text = "\n".join(cells_of(path, "markdown") + cells_of(path, "code"))
    assert not [line for line in text.splitlines() if BANNED.search(line)]
    assert MACHINE_PATHS.search(text) is None and "TODO" not in text
    for command in re.findall(r"`vit-custom (\w+)", text):
        assert command in COMMANDS


@each_notebook
def test_every_name_and_keyword_it_uses_exists(path):
    tree = ast.parse("\n".join(cells_of(path, "code")))
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("modeling_vit_custom"):
            functions |= {alias.name: getattr(import_module(node.module), alias.name) for alias in node.names}
    assert len(functions) >= 3
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            known = {*inspect.signature(functions[node.func.id]).parameters}
            if "flags" in known:
                known |= {action.dest for action in parser_of([node.func.id])._actions}
            assert {keyword.arg for keyword in node.keywords} <= known, node.func.id


def test_the_docs_lead_to_each():
    names = [f"notebooks/{path.name}" for path in NOTEBOOKS]
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1])
    (section,) = [entry["Notebooks"] for entry in navigation if "Notebooks" in entry]
    titles = {page: title for entry in section for title, page in entry.items()}
    assert sorted(titles) == names and len(names) == 6
    for path in NOTEBOOKS:
        assert cells_of(path, "markdown")[0].splitlines()[0] == f"# {titles[f'notebooks/{path.name}']}"
        assert f"](notebooks/{path.name})" in DOCS["index.md"]
    assert "](docs/notebooks)" in README


@each_notebook
def test_its_page_has_every_cell(path):
    page = notebook_page(path)
    assert page.startswith(cells_of(path, "markdown")[0]) and page.count("```python\n") == len(cells_of(path, "code"))
    assert all(f"```python\n{text}\n```" in page for text in cells_of(path, "code"))


# ---------- what they do


@pytest.mark.slow
@each_notebook
def test_it_runs_and_leaves_nothing(path, tmp_path, monkeypatch):
    """From top to bottom in an empty folder, without network, by the Python that runs the tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("a kernel under pytest-xdist may hang: `make test-slow` runs notebooks apart")
    from nbclient import NotebookClient

    folders = {name: tmp_path / name for name in ("home", "here", "temporary")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    for name in ("no_proxy", "NO_PROXY", "HF_HUB_OFFLINE", "VIT_CUSTOM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folders["home"]))  # where no other kernel is registered
    monkeypatch.setenv("TMPDIR", str(folders["temporary"]))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys\nprint(sys.executable)"))
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folders["here"])}}).execute()
    *outputs, last = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert os.path.samefile(last.text.strip(), sys.executable)
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert [line for line in said.splitlines() if "modeling_vit_custom" in line and "Warning" in line] == []
    assert any("image/png" in output.get("data", ()) for output in outputs)
    left = [one for name in ("here", "temporary") for one in folders[name].iterdir()]
    assert [one for one in left if not one.name.startswith("torchinductor_")] == []  # torch's own, of fresh processes
    assert not (folders["home"] / ".cache" / "vit_custom").exists()
