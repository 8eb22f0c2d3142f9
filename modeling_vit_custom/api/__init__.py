"""The commands as functions: `NAME(flag=value)` does from Python what `vit-custom NAME --flag value` does; and `load`,
and `explain` with the class of its result, `Explanation`.

Names, defaults, refused values and written files are the same as those of the command. A path may be a `pathlib.Path`.
A command reports success or failure by its exit code; its function by its return value and exceptions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auditing import audit_data
    from .classifying import evaluate, predict
    from .converting import convert, export
    from .explaining import Explanation as Explanation
    from .explaining import explain, explain_files, find_shortcuts
    from .loading import load
    from .publishing import publish, verify
    from .searching import index, map_images, search
    from .training import pretrain, train

__all__ = [
    "audit_data", "convert", "evaluate", "explain", "explain_files", "export", "find_shortcuts", "index", "load",
    "map_images", "predict", "pretrain", "publish", "search", "train", "verify",
]  # fmt: skip

# Module of each function; imported on first use, because Trainer, plots and other libraries take seconds to import.
_MODULES = {
    "audit_data": "auditing",
    "convert": "converting",
    "evaluate": "classifying",
    "explain": "explaining",
    "explain_files": "explaining",
    "Explanation": "explaining",
    "export": "converting",
    "find_shortcuts": "explaining",
    "index": "searching",
    "load": "loading",
    "map_images": "searching",
    "predict": "classifying",
    "pretrain": "training",
    "publish": "publishing",
    "search": "searching",
    "train": "training",
    "verify": "publishing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
