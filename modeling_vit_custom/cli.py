"""`vit-custom COMMAND`: help, version and misspelt flags are answered without loading any library.

The console command runs this file without the package around it (see `vit_custom.py`), so it imports only the standard
library. The module of a command lies in `commands/` and is imported once its flags are checked.
"""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any

PACKAGE = "modeling_vit_custom"
FLAGS_FILE = Path(__file__).with_name("flags.json")  # the flags of each command's parser; a test keeps both equal
COMMANDS = {
    "convert": "read a ViT checkpoint of another library into this model, or write one",
    "audit_data": "look for what is wrong with images and labels before training",
    "pretrain": "learn from images without labels, to fine-tune by `train`",
    "train": "train or fine-tune an image classifier",
    "evaluate": "measure a saved classifier on labelled images",
    "predict": "classify image files, one JSON line each",
    "index": "keep the vectors of images, to search among them",
    "search": "find the images of an index that are most like others",
    "map": "draw images as points of a plane, near those like them, as one page",
    "explain": "show where in images the evidence for an answer lies, and find shortcuts of a model",
    "speed_table": "measure what speed settings gain and cost, and store them",
    "export": "write a classifier for another runtime",
    "publish": "check a saved classifier and upload it to the Hub",
    "verify": "prove what a saved classifier, or one on the Hub, holds and answers",
    "benchmark": "measure speed and accuracy against peers",
    "demo": "a page in the browser to try a saved classifier on",
    "serve": "answer images over HTTP, in batches",
    "quickstart": "MNIST digits: train, evaluate, and serve from a fresh process",
}
TRAINING = {
    "model": "model_name_or_path", "data": "train_dir", "output": "output_dir", "revision": "model_revision",
    "lr": "learning_rate", "epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size",
}  # fmt: skip
# Short aliases of long flags.
ALIASES = {
    "train": TRAINING,
    "pretrain": TRAINING,
    "quickstart": TRAINING | {"data": "data_root"},
    "audit_data": {"data": "train_dir", "output": "json"},
    "evaluate": {"data": "data_dir"},
    "predict": {"data": "data_dir"},
    "index": {"data": "data_dir"},
    "map": {"data": "data_dir"},
    "explain": {"data": "data_dir"},
    "export": {"data": "data_dir"},
    "speed_table": {"data": "data_dir"},
}
HELP = ("-h", "--help", "help")


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: vit-custom COMMAND [FLAGS]", "", *lines, "", "vit-custom COMMAND --help shows its flags."]
    )


def translated(command: str, words: Sequence[str]) -> list[str]:
    """Return the words with each flag under its full name: hyphens become underscores, aliases are looked up.

    Raises ValueError for an unknown flag and suggests the nearest.
    """
    known, aliases = json.loads(FLAGS_FILE.read_text(encoding="utf-8"))[command], ALIASES.get(command, {})
    found: list[str] = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            found.append(word)
            continue
        name = name.replace("-", "_")
        name = aliases.get(name, name)
        if name not in known:
            near = get_close_matches(name, [*known, *aliases], n=1, cutoff=0.5)
            hint = f"did you mean --{aliases.get(near[0], near[0])}?" if near else ""
            raise ValueError(f"no flag {word.partition('=')[0]}: {hint or f'vit-custom {command} --help shows them.'}")
        found.append(f"--{name}{equals}{value}")
    return found


@contextmanager
def heard() -> Iterator[None]:
    """Repeat a Ctrl-C that Python dropped, so that it stops the block a moment later.

    Python ignores every exception in a `__del__`, also the KeyboardInterrupt of a Ctrl-C that arrives there.
    """
    before = sys.unraisablehook

    def repeat(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            return before(dropped)
        again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names and return its exit code.

    0: done.   1: done, but the answer is no.   2: cannot be done as asked.   3: a training could not go on.
    130: stopped by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in HELP:
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"vit-custom {run_path(str(Path(__file__).with_name('_version.py')))['__version__']}")
        return 0
    name, *words = arguments
    command = name.replace("-", "_")
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        hint = f", did you mean {near[0]}?" if near else f"\n\n{usage()}"
        print(f"vit-custom: no command {name!r}{hint}", file=sys.stderr)
        return 2
    try:
        words = translated(command, words)
    except ValueError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    try:
        with heard():
            return import_module(f"{PACKAGE}.commands.{command}").main(words)
    except KeyboardInterrupt:
        print(f"{command}: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
