"""Python files of a published folder: which ones its configurations reach, and whether they are this package's.

transformers runs the module that an `auto_map` or `custom_pipelines` entry names, and every module that it imports
relatively, found by a regular expression. Nothing here runs any of them.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from ..common.json_files import read_json
from ..common.model_files import CONFIG, CONFIGS, PROCESSOR
from .forms import TIMM, form_of

SHIPPED = Path(__file__).parents[1]
VERSION = f"vit-custom {__version__}"
# As in transformers.dynamic_module_utils.get_relative_imports; it also matches in comments and docstrings.
_RELATIVE = re.compile(r"^\s*from\s+\.(\S+)\s+import|^\s*import\s+\.(\S+)\s*$", re.MULTILINE)
_REFERENCE = re.compile(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)")


def read_configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of config.json and preprocessor_config.json; {} for the latter where timm needs none.

    Raises ValueError for a damaged file, and OSError if one is missing.
    """
    config = read_json(folder / CONFIG)
    return config, {} if form_of(config) is TIMM else read_json(folder / PROCESSOR)


def references(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (location, `module.Class`) of every entry that names code in config.json and preprocessor_config.json.

    Raises ValueError for a table of another form.
    """
    for file, table in zip(CONFIGS, (config, processor), strict=True):
        for name, target in _table(file, table, "auto_map").items():
            where = f"{file} auto_map[{name!r}]"
            if isinstance(target, dict) and target:  # a class for each backend
                yield from ((f"{where}[{key!r}]", each) for key, each in target.items())
            else:
                yield where, target
    for task, entry in _table(CONFIG, config, "custom_pipelines").items():
        yield f"config.json custom_pipelines[{task!r}]", entry.get("impl") if isinstance(entry, dict) else entry


def _table(file: str, mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = mapping.get(name) or {}
    if not isinstance(table, dict):
        raise ValueError(f"{file}: {name} is {type(table).__name__}; it must be a table of names.")
    return table


def parse_reference(where: str, reference: Any) -> tuple[str, str]:
    """Split "module.Class" into (module, class).

    Raises ValueError for a path and for code of another repository.
    """
    if isinstance(reference, str) and "--" in reference:
        raise ValueError(
            f"{where} is {reference!r}: it runs the newest code of another repository, whatever revision is pinned. "
            "Save the model again, so that it names its own files."
        )
    if not isinstance(reference, str) or (match := _REFERENCE.fullmatch(reference)) is None:
        raise ValueError(f"{where} is {reference!r}: write module.Class, the module a file beside config.json.")
    return match[1], match[2]


def reached_modules(folder: Path, config: Mapping[str, Any], processor: Mapping[str, Any]) -> list[str]:
    """Return the sorted file names of all modules that loading the folder can run.

    Raises ValueError if an entry leads to no class in this folder, or an import to no file in it.
    """
    sources: dict[str, str] = {}
    named = [(where, *parse_reference(where, reference)) for where, reference in references(config, processor)]
    todo = [(module, where) for where, module, _ in named]
    while todo:
        module, where = todo.pop()
        if module in sources:
            continue
        sources[module] = _source(folder, module, where)
        for sibling in (plain or odd for plain, odd in _RELATIVE.findall(sources[module])):
            if not sibling.isidentifier():
                raise ValueError(f"{module}.py imports .{sibling}: a published folder is flat, import .module only.")
            todo.append((sibling, f"{module}.py"))
    classes = {module: _classes(module, sources[module]) for module in {module for _, module, _ in named}}
    for where, module, class_name in named:
        if class_name not in classes[module]:
            raise ValueError(f"{where} names {module}.{class_name}: {module}.py defines no class {class_name}.")
    return sorted(f"{module}.py" for module in sources)


def _source(folder: Path, module: str, where: str) -> str:
    path = folder / f"{module}.py"
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{where} needs {module}.py, which is not in the folder. Save the model again.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{module}.py is not UTF-8 text.") from error


def _classes(module: str, source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"{module}.py is not Python: {error}") from error
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def foreign_code(folder: Path) -> list[str]:
    """Return the .py files anywhere in `folder` that are not byte-identical to a module shipped with this package.

    A file in a subfolder always counts.
    """
    modules = [path for path in folder.rglob("*.py") if path.parent != folder or not is_shipped(path)]
    return sorted(path.relative_to(folder).as_posix() for path in modules)


def is_shipped(path: Path) -> bool:
    """Return whether a file is byte-identical to the module of its name that is shipped with this package."""
    ours = SHIPPED / path.name
    return path.name.endswith("_vit_custom.py") and ours.is_file() and ours.read_bytes() == path.read_bytes()
