"""The folder is the boundary: what ships to the Hub imports only what every machine has, flat and acyclic."""

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
    "configuration": {"foreign", "interpolation", "labels", "speeds"},
    "attention": {"configuration", "layers", "position", "quantized"},
    "embeddings": {"configuration", "interpolation", "layers", "position", "quantized"},
    "pooling": {"attention", "configuration", "layers"},
    "pretrained": {"configuration", "foreign", "layers", "pipeline", "quantized", "speeds", "weight_files"},
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
        "quantized",
        "token_merging",
    },
    "image_limits": set(),
    "image_arrays": {"image_limits"},
    "image_download": {"image_limits"},
    "image_files": {"image_limits"},
    "image_decoding": {"image_arrays", "image_download", "image_files", "image_limits"},
    "image_resizing": set(),
    "image_processing_base": {"image_decoding", "image_limits", "image_resizing"},
    "image_processing": {"image_processing_base"},
    "pipeline": {"image_decoding", "image_limits"},
}
ROOT_MODULES = ("cli", "_startup", "_version")
# Each sub-package and those it may import; the root they may all import.
SUB_PACKAGES = {
    "audit": {"data", "inference", "pages"},
    "benchmarks": {"conversion", "data", "evaluation", "inference", "speed", "training"},
    "conversion": {"inference"},
    "data": set(),
    "evaluation": {"data", "inference", "pages"},
    "features": {"data", "inference"},
    "inference": {"data"},
    "pages": {"data", "inference"},
    "publishing": {"data", "evaluation", "inference", "serving", "speed"},
    "serving": {"data", "inference"},
    "speed": {"data", "evaluation", "inference"},
    "training": {"audit", "conversion", "data", "evaluation", "features", "inference", "pages", "publishing", "speed"},
}


def imports(path: Path) -> list[tuple[ast.stmt, str]]:
    """Every import statement of a file with the module it names; relative ones keep their dots."""
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
    assert sorted(everywhere) == sorted(relative), "a relative import inside a function or block"
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
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(SUB_PACKAGES)


def test_importing_the_package_loads_no_sub_package():
    for _, module in imports(PACKAGE / "__init__.py"):
        if module.startswith("."):
            assert module[1:] in {*SHIPPED, "_startup", "_version"}, module


@pytest.mark.parametrize("collecting", [True, False])
def test_importing_the_package_leaves_the_garbage_collector_as_it_was(collecting):
    code = f"import gc; {'' if collecting else 'gc.disable();'} import modeling_vit_custom; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(collecting)]


@pytest.mark.parametrize("name", SUB_PACKAGES)
def test_sub_packages_import_the_root_and_what_is_below_them(name):
    for path in (PACKAGE / name).glob("*.py"):
        for _, module in imports(path):
            own = module.removeprefix("..") if module.startswith("..") else None
            if own is None and module.startswith("modeling_vit_custom"):
                own = module.removeprefix("modeling_vit_custom").removeprefix(".")
            target = (own or "").partition(".")[0]
            if target in SUB_PACKAGES:
                assert target in SUB_PACKAGES[name], f"{path.name} imports {module}"


def test_scripts_import_the_package_and_never_one_another():
    scripts = {path.stem for path in (PACKAGE.parent / "scripts").glob("*.py")}
    for path in (PACKAGE.parent / "scripts").glob("*.py"):
        top = {module.partition(".")[0] for _, module in imports(path)}
        assert not top & scripts, path.name
        assert all(not module.startswith(".") for _, module in imports(path)), path.name


def test_files_stay_short():
    long = {path: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 450}
    assert not long
