"""The flags of every command, read from their parsers; `python tests/support/flag_table.py` writes flags.json."""

import argparse
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from unittest.mock import patch

from modeling_vit_custom.cli import COMMANDS, FLAGS_FILE
from modeling_vit_custom.commands.benchmark import BENCHMARKS


class Asked(Exception):
    """Carries the parser that a command used for its arguments."""


def flags_of(command: str, *words: str) -> list[str]:
    """Return the flags that the parser of a command has, without their dashes."""
    parse = argparse.ArgumentParser.parse_known_args

    def asked(parser: argparse.ArgumentParser, args=None, namespace=None):
        if words and parser.prog == f"vit-custom {command}":  # this parser reads the first word only
            return parse(parser, args, namespace)
        raise Asked(parser)

    with patch.object(argparse.ArgumentParser, "parse_known_args", asked):
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                import_module(f"modeling_vit_custom.commands.{command}").main([*words, "--help"])
        except Asked as found:
            names = {name for action in found.args[0]._actions for name in action.option_strings}
            return sorted({name.lstrip("-").replace("-", "_") for name in names if name.startswith("--")})
    raise AssertionError(f"{command} reads no command line")


def flag_table() -> dict[str, list[str]]:
    """Return the flags of each command; for `benchmark`, the flags of all its kinds."""
    table = {command: flags_of(command) for command in COMMANDS if command != "benchmark"}
    for command in ("train", "pretrain"):
        table[command] = sorted([*table[command], "recipe"])  # looked for before a parser reads the command line
    table["quickstart"] = sorted({*table["quickstart"], *table["train"]})  # it passes unknown flags to train
    kinds = [flags_of("benchmark", kind) for kind in BENCHMARKS]
    return table | {"benchmark": sorted({*(name for flags in kinds for name in flags)})}


if __name__ == "__main__":
    text = json.dumps(dict(sorted(flag_table().items())), indent=0)
    FLAGS_FILE.write_text(text + "\n", encoding="utf-8")
    sys.exit(0)
