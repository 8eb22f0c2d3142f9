"""Files in a repository's branch that are not among the published ones.

They stay unless they would change or contradict the published model (other weights, code, settings or records), or
`verify` would reject them. The rejected files are listed with a reason each.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..common.json_files import read_json
from ..common.model_files import CONFIGS, EXPORT, INDEX, REPORT_PAGE, TRAINER_STATE
from .checks import magic_of
from .secrets import MAX_TEXT, scan_secrets
from .staging import OPTIONAL, is_pickle
from .verify import check_listing

PICKLED = "no safetensors: reading it can run code"
# Reasons why a file may not stay; the first pattern that matches its name counts.
STALE: tuple[tuple[Sequence[str], str], ...] = (
    (
        ("*.safetensors", "*.index.json", "*.onnx", "*.onnx_data", "*.onnx.data", "*.pt2", "*.gguf", "*.tflite"),
        "weights that are not these",
    ),
    (("*.py",), "code that these configurations do not name"),
    ((*CONFIGS, "*_config.json", "config*.json", "model_index.json"), "settings that a library may load"),
    (
        (
            *(name for name in OPTIONAL if not name.startswith(("examples/", "README", "LICENSE"))),
            REPORT_PAGE, EXPORT, TRAINER_STATE, "*_results.json", ".eval_results/*", f"{INDEX}/*",
        ),
        "says something of other weights",
    ),
)  # fmt: skip
Fetch = Callable[[Sequence[str], Path], None]


def stale(names: Iterable[str]) -> dict[str, str]:
    """Return {name: reason} for the files that may not stay, judged by their names alone."""
    found = {}
    for name in names:
        if is_pickle(name):
            found[name] = PICKLED
        elif reason := next((why for patterns, why in STALE if any(fnmatchcase(name, p) for p in patterns)), None):
            found[name] = reason
    return found


def reasons_to_go(others: Mapping[str, int], published: Mapping[str, int], fetch: Fetch) -> dict[str, str]:
    """Return {name: reason} for the files that may not stay beside the published ones; {} if all may.

    others, published: {name: size in bytes}.   fetch: writes the named files into a folder. It is called only if names
    and sizes raise no objection; the contents then pass through checks of `verify`.
    """
    found = stale(others) | {name: "no name of a file" for name in others if ".." in name.split("/")}
    if found:
        return found
    if large := [name for name, size in others.items() if size > MAX_TEXT]:
        return dict.fromkeys(large, "too large to be searched for secrets")
    if not (listing := check_listing({**others, **published})).passed:
        return dict.fromkeys(others, listing.detail)
    with tempfile.TemporaryDirectory() as folder:
        fetch(list(others), Path(folder))
        for name in others:
            path = Path(folder) / name
            if (kind := magic_of(path)) is not None:
                found[name] = kind
            elif path.suffix == ".json":
                try:
                    read_json(path)
                except ValueError as error:
                    found[name] = str(error)
        for finding in scan_secrets(Path(folder)):
            for name in others:  # skips findings in the Hub client's download notes
                if finding.startswith(f"{name}:"):
                    found.setdefault(name, finding.removeprefix(f"{name}:").strip())
    return found
