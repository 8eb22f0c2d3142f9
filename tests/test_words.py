"""The words of package, tests, scripts and guides: docstrings begin with a verb, and some words have plainer ones."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITH_VERBS = [
    path
    for folder in ("modeling_vit_custom", "scripts", "tests/support")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Two test files are still to be changed; this file holds the list itself.
EXCEPT = {"tests/test_words.py"}
PLAIN = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PLAIN += sorted((ROOT / "modeling_vit_custom").rglob("*.py"))
PLAIN += [path for path in sorted((ROOT / "scripts").rglob("*")) if path.suffix in (".py", ".sh", ".yaml")]
PLAIN += [
    path
    for path in sorted((ROOT / "tests").rglob("*.py"))
    if "golden" not in path.parts and path.relative_to(ROOT).as_posix() not in EXCEPT
]
# for: said or reported; again; fix; anyone who; also; most similar. In names too, as in `test_it_is_told`.
BANNED = re.compile(r"(?<![A-Za-z])(told|anew|mend|whoever|besides|likest)(?![A-Za-z])", re.IGNORECASE)
OF_ATTRIBUTES = {"property", "cached_property", "setter", "classproperty"}
VERBS = {
    "Accept", "Adapt", "Add", "Answer", "Apply", "Average", "Build", "Call", "Cast", "Change", "Check", "Choose",
    "Classify", "Compare", "Compile", "Complete", "Composite", "Compute", "Convert", "Copy", "Count", "Create",
    "Crop", "Cut", "Declare", "Decode", "Download", "Draw", "Encode", "End", "Escape", "Evaluate", "Export", "Fill",
    "Fine-tune", "Fit", "Flush", "Free", "Freeze", "Handle", "Hold", "Import", "Initialise", "Keep", "Kill", "Leave",
    "Let", "Load", "Lock", "Log", "Look", "Make", "Measure", "Merge", "Mount", "Move", "Open", "Parse", "Point",
    "Predict", "Print", "Publish", "Put", "Raise", "Read", "Register", "Remove", "Rename", "Render", "Repeat",
    "Replace", "Resample", "Reset", "Resize", "Restore", "Return", "Rotate", "Run", "Save", "Scale", "Score", "Send",
    "Serve", "Set", "Shorten", "Shrink", "Skip", "Sort", "Split", "Stage", "Start", "Suppress", "Switch", "Time",
    "Train", "Try", "Turn", "Update", "Upload", "Wait", "Warn", "Wrap", "Write", "Yield",
}  # fmt: skip


def first_words(tree: ast.Module) -> list[tuple[str, str]]:
    """Return (name, first word of the docstring) of each public function and method, properties left out."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        decorators = {getattr(one, "id", getattr(one, "attr", "")) for one in node.decorator_list}
        if not decorators & OF_ATTRIBUTES and (said := ast.get_docstring(node)):
            found.append((node.name, said.split()[0].strip(",.;:")))
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", WITH_VERBS, ids=name_of)
def test_a_docstring_begins_with_a_verb(path):
    source = path.read_text(encoding="utf-8")
    assert not [(name, word) for name, word in first_words(ast.parse(source)) if word not in VERBS]


@pytest.mark.parametrize("path", PLAIN, ids=name_of)
def test_plain_words_are_used(path):
    assert not [line for line in path.read_text(encoding="utf-8").splitlines() if BANNED.search(line)]
