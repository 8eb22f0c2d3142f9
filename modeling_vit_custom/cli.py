"""`vit-custom <command>`: each is the `main` of a module of `commands/`, loaded when it is asked for."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "convert": "read a ViT checkpoint of another library into this model, or write one",
    "audit_data": "look for what is wrong with images and labels before training",
    "pretrain": "learn from images without labels, to fine-tune by `train`",
    "train": "train or fine-tune an image classifier",
    "evaluate": "measure a saved classifier on labelled images",
    "predict": "classify image files, one JSON line each",
    "speed_table": "measure what speed settings gain and cost, and store them",
    "export": "write a classifier for another runtime",
    "publish": "check a saved classifier and upload it to the Hub",
    "verify": "prove what a saved classifier, or one on the Hub, holds and answers",
    "benchmark": "measure speed and accuracy against peers",
    "demo": "a page in the browser to try a saved classifier on",
    "serve": "answer images over HTTP, in batches",
    "quickstart": "MNIST digits: train, evaluate, and serve from a fresh process",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: vit-custom COMMAND [FLAGS]", "", *lines, "", "vit-custom COMMAND --help shows its flags."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    command, *flags = arguments
    if command not in COMMANDS:
        print(f"vit-custom: no command {command!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module = import_module(f".commands.{command}", __package__)
    return module.main(flags)


if __name__ == "__main__":
    sys.exit(main())
