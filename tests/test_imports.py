"""The folder is the boundary: published modules import only what every machine has, flat and without cycles."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "modeling_vit_custom"
SHIPPED = {path.stem: path for path in sorted(PACKAGE.glob("*_vit_custom.py"))}
OUTSIDE = {"torch", "transformers", "huggingface_hub", "safetensors"}
IMAGE_LIBRARIES = {"numpy", "PIL", "torchvision"}

# transformers finds the files to ship with this expression, in comments and docstrings too
TRANSFORMERS_SCAN = re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE)

# Each module and the siblings it may import.
ALLOWED = {
    "interpolation": set(),
    "layers": set(),
    "position": set(),
    "loss": set(),
    "weight_files": set(),
    "labels": set(),
    "foreign": set(),
    "quantized": set(),
    "speeds": {"labels"},
    "unknown": {"labels"},
    "variants": set(),
    "auto_classes": set(),
    "heads": {"labels"},
    "configuration": {"auto_classes", "foreign", "heads", "interpolation", "labels", "speeds", "unknown", "variants"},
    "attention": {"configuration", "layers", "position", "quantized", "token_merging"},
    "embeddings": {"configuration", "interpolation", "layers", "position", "quantized"},
    "pooling": {"attention", "configuration", "layers", "token_merging"},
    "pretrained": {
        "configuration",
        "foreign",
        "heads",
        "interpolation",
        "layers",
        "pipeline",
        "quantized",
        "speeds",
        "weight_files",
    },
    "token_merging": {"position", "speeds"},
    "modeling": {
        "attention",
        "configuration",
        "embeddings",
        "interpolation",
        "layers",
        "loss",
        "pooling",
        "position",
        "pretrained",
        "token_merging",
        "unknown",
    },
    "masked_images": {
        "configuration",
        "embeddings",
        "heads",
        "interpolation",
        "loss",
        "modeling",
        "pretrained",
        "quantized",
    },
    "segmentation": {
        "configuration",
        "heads",
        "interpolation",
        "labels",
        "layers",
        "loss",
        "modeling",
        "pretrained",
        "token_merging",
    },
    "image_limits": set(),
    "image_arrays": {"image_limits"},
    "image_bands": {"image_limits"},
    "image_download": {"image_limits"},
    "image_files": {"image_arrays", "image_bands", "image_limits"},
    "image_decoding": {"image_arrays", "image_download", "image_files", "image_limits"},
    "image_masks": {"image_arrays", "image_bands", "image_files", "image_limits"},
    "image_resizing": set(),
    "image_processing_base": {"image_decoding", "image_limits", "image_resizing"},
    "image_processing": {"image_processing_base"},
    "image_segmentation": {
        "heads",
        "image_decoding",
        "image_limits",
        "image_masks",
        "image_processing",
        "image_processing_base",
        "image_resizing",
    },
    "pipeline": {"image_decoding", "image_limits"},
}
ROOT_MODULES = ("cli", "_startup", "_version")
# Each room and the rooms it imports, from the bottom to the top: a room imports only rooms above it in this table. All
# may import the root. A room inside a room has both names.
ROOMS = {
    "common": set(),
    "reporting": {"common"},
    "data": {"common"},
    "tasks": {"data", "reporting"},
    "engines": {"common", "tasks"},
    "inference": {"common", "data", "engines", "tasks"},
    "evaluation": {"common", "data", "inference", "reporting", "tasks"},
    "features": {"common", "data", "inference", "reporting", "tasks"},
    "explanation/measures": set(),
    "explanation/pictures": {"common"},
    "explanation/methods": {"common", "engines", "explanation/measures", "tasks"},
    "explanation": {
        "common", "data", "explanation/measures", "explanation/methods", "explanation/pictures", "inference",
        "reporting", "tasks",
    },
    "explanation/shortcuts": {
        "common", "data", "explanation", "explanation/measures", "explanation/pictures", "inference", "reporting",
        "tasks",
    },
    "explanation/mistakes": {
        "common", "data", "evaluation", "explanation", "explanation/methods", "explanation/pictures", "features",
        "inference", "reporting", "tasks",
    },
    "audit": {"common", "data", "features", "reporting", "tasks"},
    "conversion": {"common", "inference"},
    "speed": {"common", "data", "engines", "evaluation", "inference", "reporting", "tasks"},
    "serving": {
        "common", "explanation", "explanation/methods", "explanation/pictures", "inference", "reporting", "tasks",
    },
    "publishing": {"common", "conversion", "data", "features", "inference", "reporting", "speed", "tasks"},
    "training/objectives": {"common", "conversion", "data", "inference", "tasks"},
    "training/inputs": {"data"},
    "training/optimization": {"common"},
    "training/checkpointing": {"common", "data"},
    "training/arguments": {
        "audit", "common", "features", "publishing", "tasks", "training/inputs", "training/objectives",
    },
    "training/initialization": {"common", "conversion", "data", "inference", "tasks"},
    "training/trainer": {
        "common", "data", "publishing", "reporting", "tasks", "training/arguments", "training/checkpointing",
        "training/initialization", "training/inputs", "training/objectives", "training/optimization",
    },
    "training/search": {
        "common", "data", "evaluation", "features", "reporting", "tasks", "training/arguments", "training/inputs",
        "training/trainer",
    },
    "training/runs": {
        "audit", "common", "conversion", "data", "evaluation", "explanation/mistakes", "features", "inference",
        "publishing", "reporting", "tasks", "training/arguments", "training/checkpointing", "training/initialization",
        "training/inputs", "training/objectives", "training/optimization", "training/search", "training/trainer",
    },
    "benchmarks": {
        "common", "conversion", "data", "engines", "explanation", "inference", "reporting", "training/arguments",
        "training/initialization", "training/runs", "training/trainer",
    },
    "api": {
        "audit", "common", "conversion", "data", "engines", "evaluation", "explanation", "explanation/methods",
        "explanation/mistakes", "explanation/shortcuts", "features", "inference", "publishing", "reporting", "speed",
        "tasks", "training/initialization", "training/runs",
    },
    "commands": {
        "api", "audit", "benchmarks", "common", "conversion", "data", "engines", "explanation", "explanation/methods",
        "explanation/shortcuts", "features", "inference", "publishing", "reporting", "serving", "speed", "tasks",
        "training/arguments", "training/runs",
    },
}  # fmt: skip
FLAGS = {"ModelArguments", "DataArguments", "ViTTrainingArguments", "PretrainingArguments"}
TAKES_FLAGS = ("training/arguments", "training/trainer", "training/search", "training/runs", "benchmarks", "commands")


def imports(path: Path) -> list[tuple[ast.stmt, str]]:
    """Return every import statement of a file with the module it names; relative ones keep their dots."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node, "." * node.level + name) for name in named]
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_modules_import_allowed_siblings_at_top_level_only(name):
    text = SHIPPED[name].read_text()
    top_level = ast.parse(text).body
    relative = [node.module for node in top_level if isinstance(node, ast.ImportFrom) and node.level]
    assert all(node.level == 1 for node in top_level if isinstance(node, ast.ImportFrom) and node.level)
    everywhere = [module[1:] for _, module in imports(SHIPPED[name]) if module.startswith(".")]
    assert sorted(everywhere) == sorted(relative), "there is a relative import inside a function or block"
    assert sorted(TRANSFORMERS_SCAN.findall(text)) == sorted(relative), "what transformers would ship differs"
    assert set(relative) <= {f"{sibling}_vit_custom" for sibling in ALLOWED[name.removesuffix("_vit_custom")]}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_modules_need_nothing_that_a_plain_machine_lacks(name):
    allowed = OUTSIDE | set(sys.stdlib_module_names) | (IMAGE_LIBRARIES if name.startswith("image_") else set())
    top = {module.partition(".")[0] for _, module in imports(SHIPPED[name]) if not module.startswith(".")}
    assert top <= allowed, f"not on every machine: {sorted(top - allowed)}"


def test_the_table_is_complete_and_acyclic():
    assert {f"{name}_vit_custom" for name in ALLOWED} == set(SHIPPED)
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {name for name, needs in ALLOWED.items() if name not in done and needs <= done}
        assert ready, f"a cycle among {sorted(set(ALLOWED) - done)}"
        done |= ready


def test_root_holds_only_what_ships_and_the_doors_to_the_rest():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*SHIPPED, "__init__", *ROOT_MODULES}
    inside = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")}
    assert inside - {".", "training"} == set(ROOMS)


def test_importing_the_package_loads_no_sub_package():
    for _, module in imports(PACKAGE / "__init__.py"):
        if module.startswith("."):
            assert module[1:] in {*SHIPPED, "_startup", "_version"}, module


@pytest.mark.parametrize("collecting", [True, False])
def test_importing_the_package_leaves_the_garbage_collector_as_it_was(collecting):
    code = f"import gc; {'' if collecting else 'gc.disable();'} import modeling_vit_custom; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(collecting)]


def room_of(module: str) -> str | None:
    """Return the room of a module, given by its dotted name in the package; None for the root's."""
    parts = module.split(".")
    return next((room for room in ("/".join(parts[:2]), parts[0]) if room in ROOMS), None)


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names, in the package, of the modules that a file imports, also inside functions."""
    here, found = path.relative_to(PACKAGE).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ())]
            for name in (".".join([*base, alias.name]) for alias in node.names):
                is_module = (PACKAGE / name.replace(".", "/")).with_suffix(".py").is_file()
                found.add(name if is_module else ".".join(base))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not [name for name in named if name and name.partition(".")[0] == PACKAGE.name], f"{path}: absolute"
    return found


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE and path.stem != "__init__"
}
IMPORTED = {name: imported_modules(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_says_and_only_rooms_below_it(room):
    found = {room_of(module) for name in MODULES if room_of(name) == room for module in IMPORTED[name]}
    assert found - {None, room} == ROOMS[room]
    below = list(ROOMS)[: list(ROOMS).index(room)]
    assert ROOMS[room] <= set(below)


def test_no_module_is_imported_by_what_it_imports_not_even_inside_a_function():
    done: set[str] = set()
    while len(done) < len(MODULES):
        ready = {name for name, needs in IMPORTED.items() if name not in done and needs & MODULES.keys() <= done}
        assert ready, f"a cycle among {sorted(MODULES.keys() - done)}"
        done |= ready


def test_only_commands_read_a_command_line():
    """Exceptions: the demo, which is a Space's app.py, and argparse.Namespace, which some checkpoints hold."""
    for name, path in MODULES.items():
        taken = {alias.name for node, module in imports(path) if module == "argparse" for alias in node.names}
        assert name.startswith(("commands.", "tasks.classification_demo")) or taken <= {"Namespace"}, name


def test_other_rooms_take_values_and_no_dataclasses_of_flags():
    for name, path in MODULES.items():
        named = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert name.replace(".", "/").startswith(TAKES_FLAGS) or not named & FLAGS, name


def test_names_of_files_in_a_folder_stand_in_one_place():
    """Exceptions: four files that run without the package repeat the names that they need."""
    alone = {
        "publishing.fresh_check",
        "publishing.fresh_timm",
        "commands.serve_fresh",
        "tasks.classification_demo",
        "common.model_files",
    }
    names = {
        value.value
        for node in ast.parse(MODULES["common.model_files"].read_text()).body
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Dict)
        for value in ast.walk(node.value)
        if isinstance(value, ast.Constant)
    }
    assert {"config.json", "metrics.json", "search.npz"} < names
    for name in MODULES.keys() - alone:
        nodes = [*ast.walk(ast.parse(MODULES[name].read_text()))]
        pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
        written = {node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in pieces}
        assert not written & names, name


def test_scripts_import_the_package_and_never_one_another():
    scripts = {path.stem for path in (PACKAGE.parent / "scripts").glob("*.py")}
    for path in (PACKAGE.parent / "scripts").glob("*.py"):
        top = {module.partition(".")[0] for _, module in imports(path)}
        assert not top & scripts, path.name
        assert all(not module.startswith(".") for _, module in imports(path)), path.name


def test_files_stay_short():
    long = {path: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 450}
    assert not long
