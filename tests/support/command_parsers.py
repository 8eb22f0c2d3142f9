"""The commands of `vit-custom` and their parsers, as `--help` shows them."""

import argparse
from collections.abc import Sequence
from typing import Any
from unittest import mock

from modeling_vit_custom.cli import COMMANDS, main


class _Shown(Exception):
    """Carries the parser whose help was asked for."""


def commands() -> list[list[str]]:
    """Return the words of each command, and of each kind of `benchmark`."""
    from modeling_vit_custom.commands.benchmark import BENCHMARKS

    return [*([name] for name in COMMANDS), *(["benchmark", what] for what in BENCHMARKS)]


def parser_of(command: Sequence[str], flag: str = "--help") -> argparse.ArgumentParser:
    """Return the parser that `vit-custom COMMAND --help` shows.   flag: the one that asks for help."""

    def show(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise _Shown(parser)

    with mock.patch.object(argparse.ArgumentParser, "print_help", show):
        try:
            main([*command, flag])
        except _Shown as shown:
            return shown.args[0]
    raise AssertionError(f"{command} has no {flag}")
