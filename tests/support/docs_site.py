"""What mkdocs writes into the site of docs/ when it is built: flags, configuration, changes, security, notebooks.

A line `<!-- generated: NAME -->` of a page is replaced by what `GENERATED[NAME]` returns. A notebook becomes a page and
can be downloaded there. mkdocs.yml names this file.
"""

import argparse
import html
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
for place in (str(ROOT), str(Path(__file__).parent)):  # mkdocs has neither, and keeps this path only while it reads
    if place not in sys.path:
        sys.path.insert(0, place)

from command_parsers import commands, parser_of  # noqa: E402

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page; mkdocs calls this for each."""
    return MARKER.sub(lambda found: GENERATED[found[1]](), markdown)


# ---------- notebooks


def on_files(files: Any, config: Any) -> Any:
    """Put a page in the place of each notebook, at the same path, so that links to the file lead to the page."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page: Any = File.generated(config, file.src_uri, content=notebook_page(Path(file.abs_src_path)))
        page.is_documentation_page = lambda: True
        files.remove(file)
        files.append(page)
    return files


def on_post_build(config: Any) -> None:
    """Copy the notebooks themselves into the site."""
    for path in Path(config.docs_dir).glob("notebooks/*.ipynb"):
        shutil.copy(path, Path(config.site_dir) / "notebooks" / path.name)


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its texts, its code as blocks, below the first text a link to the file."""
    parts = []
    for one in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(one["source"])
        parts.append(text if one["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.insert(1, f'<a href="../{path.name}" download>Download this notebook</a>')
    return "\n\n".join(parts) + "\n"


# ---------- tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(text: str) -> str:
    """Return text as it is to be read in a cell: no markup, no line ends."""
    return re.sub(r"([|*_`\[\]\\])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


# ---------- flags


def flags() -> str:
    """Return the flags of every command, a heading a command, a table a group of them."""
    parts = []
    for command in commands():
        if command != ["benchmark"]:
            parser = parser_of(command, "--help_all" if command[0] in ("train", "pretrain") else "--help")
            parts.append(f"## {' '.join(command)}\n\n{flags_of(parser)}")
    return "\n\n".join(parts)


def flags_of(parser: argparse.ArgumentParser) -> str:
    """Return the tables of a parser's flags, with a heading each where there are several."""
    groups = [(group.title, [row for action in group._group_actions if (row := flag_row(action))])
              for group in parser._action_groups]  # fmt: skip
    parts = [cell(parser.description)] if parser.description else []
    filled = [(title, rows) for title, rows in groups if rows]
    for title, rows in filled:
        parts += [f"**{title}**"] * (len(filled) > 1) + [table(("flag", "default", "what it does"), rows)]
    return "\n\n".join(parts)


def flag_row(action: argparse.Action) -> tuple[str, str, str] | None:
    """Return flag, default and meaning; None for a flag that no help shows."""
    if action.help == argparse.SUPPRESS or action.dest in ("help", "help_all"):
        return None
    names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
    shown = ", ".join(f"`{name}`" for name in names) or f"`{action.metavar or action.dest}`"
    choices = "" if not action.choices else " One of " + ", ".join(f"`{choice}`" for choice in action.choices) + "."
    # argparse formats a help text by the attributes of its action
    said = (action.help or "").replace("%%", "\0") % {**vars(action), "prog": "vit-custom"}
    said = said.replace("\0", "%")
    stop = "." if choices and said and not said.endswith(".") else ""
    return shown, default_of(action.default), cell(said) + stop + choices


def default_of(value: Any) -> str:
    if value in (None, "", argparse.SUPPRESS, []) or value is False:
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, list | tuple) else getattr(value, 'value', value)}`"


# ---------- configuration


def config() -> str:
    """Return a table of the fields of ViTCustomConfig, from its docstring."""
    from modeling_vit_custom import ViTCustomConfig

    described = re.search(r"\nArgs:\n(.*?)\n\n", inspect.cleandoc(ViTCustomConfig.__doc__ or "") + "\n\n", re.DOTALL)
    assert described is not None, "the docstring of ViTCustomConfig has no section Args"
    fields = re.findall(r"^    (\w+) \((.*?)\): (.*?)(?=^    \w|\Z)", described[1], re.DOTALL | re.MULTILINE)
    rows = []
    for name, kind, text in fields:
        kind, _, default = " ".join(kind.split()).partition(", defaults to ")
        optional = kind.endswith(", *optional*")
        default = f"`{default.strip('`')}`" if default else "`None`" if optional else ""
        rows.append((f"`{name}`", kind.removesuffix(", *optional*"), default, " ".join(text.split())))
    return table(("field", "type", "default", "what it is"), rows)


# ---------- texts that stand elsewhere in the repository


def unreleased() -> dict[str, list[str]]:
    """Return the entries of the newest section of CHANGELOG.md by their heading."""
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## [")[1]
    sections = re.findall(r"^### (.*)\n((?:.*\n?)*?)(?=^### |\Z)", newest, re.MULTILINE)
    return {title: re.findall(r"^- (.*(?:\n  .*)*)", text, re.MULTILINE) for title, text in sections}


def breaking() -> str:
    """Return the changes that are called Breaking."""
    return "\n".join(f"- {entry}" for entries in unreleased().values() for entry in entries if "*Breaking*" in entry)


def changelog() -> str:
    """Return all other changes, by their headings."""
    parts = []
    for title, entries in unreleased().items():
        parts += [f"### {title}", "\n".join(f"- {entry}" for entry in entries if "*Breaking*" not in entry)]
    return "\n\n".join(parts)


def security() -> str:
    """Return SECURITY.md without its title."""
    return (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("\n")[2]


GENERATED = {
    "flags": flags,
    "config": config,
    "breaking": breaking,
    "changelog": changelog,
    "security": security,
}
