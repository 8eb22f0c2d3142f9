"""A strict, invertible translation between the tensors of a source and ours.

A table is a list of rows. A row names tensors of ours and of the source, and how to compute each side from the other;
in its names "{i}" runs over the blocks and "{p}" over weight and bias. A table lists every tensor that its family may
have. A row applies if the given side has all of its tensors. Tensors that are then missing, left over, of another shape
or not finite raise an error that lists them.

Shapes: D width, P prefix tokens, h×w grid.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product

import torch

from ..weight_files_vit_custom import shorten_list

Tensors = tuple[torch.Tensor, ...]
State = Mapping[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]
_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?!\d)")  # a block's number; the configuration allows at most 512 blocks


class ConversionError(ValueError):
    """A checkpoint that cannot be converted as it is. The message lists what is wrong and how to proceed."""


def _same(*tensors: torch.Tensor) -> Tensors:
    return tensors


@dataclass(frozen=True)
class Row:
    """Tensors of ours and of the source with the same content.   read: theirs → ours.   write: ours → theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[..., Tensors] = _same
    write: Callable[..., Tensors] = _same

    def expand(self, blocks: Sequence[int]) -> "list[Row]":
        """Return this row for every block if its names contain "{i}", and for weight and bias if they contain "{p}"."""
        text = " ".join(self.ours + self.theirs)
        blocks = blocks if "{i}" in text else [0]
        parameters = ("weight", "bias") if "{p}" in text else ("",)
        return [
            Row(_named(self.ours, i, p), _named(self.theirs, i, p), self.read, self.write)
            for i, p in product(blocks, parameters)
        ]


def _named(names: tuple[str, ...], i: int, p: str) -> tuple[str, ...]:
    return tuple(name.format(i=i, p=p) for name in names)


@dataclass(frozen=True)
class Table:
    """All tensors that a family may have.

    zero: patterns of our names that may be missing in the source; they are filled with zeros, such as a bias.
    unused: patterns of the source's names that our model does not use, each with the reason.
    """

    rows: Sequence[Row]
    zero: Sequence[str] = ()
    unused: dict[str, str] = field(default_factory=dict)


def same(ours: str, theirs: str) -> Row:
    """Build the row of one tensor under two names."""
    return Row((ours,), (theirs,))


def packed(ours: Sequence[str], theirs: str) -> Row:
    """Build the row of one source tensor that holds several of ours along its first axis, such as fused QKV."""
    return Row(tuple(ours), (theirs,), lambda whole: whole.chunk(len(ours)), lambda *parts: (torch.cat(parts),))


def folded_positions(prefix: Sequence[tuple[str, str]], ours: str, theirs: str) -> Row:
    """Build the row of a position table [1, P + h·w, D] that begins with the positions of the P prefix tokens.

    Ours has no positions for prefix tokens: they are added to the tokens.   prefix: (ours, theirs) names of those
    tokens, each [1, n, D].
    """

    def read(*tensors: torch.Tensor) -> Tensors:
        *tokens, table = tensors
        lengths = [token.shape[1] for token in tokens]
        *added, patches = table.split([*lengths, table.shape[1] - sum(lengths)], dim=1)
        return *(token + position for token, position in zip(tokens, added, strict=True)), patches

    def write(*tensors: torch.Tensor) -> Tensors:
        *tokens, patches = tensors
        return *tokens, torch.cat([*(torch.zeros_like(token) for token in tokens), patches], dim=1)

    return Row((*(name for name, _ in prefix), ours), (*(name for _, name in prefix), theirs), read, write)


def averaged_heads(one: str, other: str) -> Row:
    """Build the row of two classifiers with averaged logits: one on the concatenated vectors, with half the weights."""

    def read(*tensors: torch.Tensor) -> Tensors:
        weight, bias, other_weight, other_bias = tensors
        return torch.cat([weight, other_weight], dim=1) / 2, (bias + other_bias) / 2

    def write(*tensors: torch.Tensor) -> Tensors:
        weight, other_weight = (2 * tensors[0]).chunk(2, dim=1)
        return weight, tensors[1], other_weight, tensors[1]

    theirs = tuple(f"{head}.{p}" for head in (one, other) for p in ("weight", "bias"))
    return Row(("classifier.weight", "classifier.bias"), theirs, read, write)


def respelled(state: State, spellings: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Rename tensors: apply each (pattern, replacement) in turn to every name.

    Raises ConversionError if two names become the same.
    """
    renamed: dict[str, torch.Tensor] = {}
    for old, tensor in state.items():
        name = old
        for pattern, replacement in spellings:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise ConversionError(f"{old} and another tensor are both {name!r}: the file holds several models.")
        renamed[name] = tensor
    return renamed


def read(table: Table, given: State) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Convert a source's tensors; return (ours, notes on unused ones). Raises ConversionError for unknown tensors."""
    made, left = _apply(table.rows, {name: tensor for name, tensor in given.items() if tensor.numel()})
    reasons: dict[str, list[str]] = {}
    for name in left:
        if reason := next((why for pattern, why in table.unused.items() if fnmatchcase(name, pattern)), None):
            reasons.setdefault(reason, []).append(name)
    if unknown := sorted(left.difference(*reasons.values())):
        raise ConversionError(f"left over in the source: {shorten_list(unknown)}.")
    return made, [f"left out: {shorten_list(names)} ({reason})" for reason, names in reasons.items()]


def fill(table: Table, made: State, needed: Shapes) -> dict[str, torch.Tensor]:
    """Add the zeros that the source leaves out to `made`. Raises ConversionError unless the result equals `needed`."""
    dtype = next(iter(made.values())).dtype
    zeros = {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape in needed.items()
        if name not in made and any(fnmatchcase(name, pattern) for pattern in table.zero)
    }
    check({**made, **zeros}, needed)
    return {**made, **zeros}


def write(table: Table, ours: State, needed: Shapes) -> dict[str, torch.Tensor]:
    """Compute the source's tensors in `needed` from ours. Raises ConversionError for those that it cannot express."""
    rows = [Row(row.theirs, row.ours, row.write, row.read) for row in table.rows]
    made, left = _apply(rows, ours, needed)
    zero = {name for name in left if any(fnmatchcase(name, pattern) for pattern in table.zero)}
    wrong = sorted(left - zero) + [f"{name} (only zeros)" for name in sorted(zero) if ours[name].any()]
    if wrong:
        raise ConversionError(f"the target has no place for {shorten_list(wrong)}.")
    check(made, needed)
    return made


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor into its own memory: tensors made by a table may be views of one another or of their source."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _apply(rows: Iterable[Row], given: State, needed: Shapes | None = None) -> tuple[dict[str, torch.Tensor], set[str]]:
    """(the tensors that the rows compute from `given`, the names that no row used)."""
    made: dict[str, torch.Tensor] = {}
    left = set(given)
    # Only the numbers that occur, not all up to the largest: a name can contain a huge number.
    blocks = sorted({int(number) for name in given for number in _NUMBER.findall(name)})
    for row in (expanded for whole in rows for expanded in whole.expand(blocks)):
        wanted = needed is None or set(row.ours) <= set(needed)
        if wanted and set(row.theirs) <= left and not set(row.ours) & set(made):
            made |= zip(row.ours, row.read(*(given[name] for name in row.theirs)), strict=True)
            left.difference_update(row.theirs)
    return made, left


def check(made: State, needed: Shapes) -> None:
    """Raise ConversionError unless `made` has exactly the names and shapes of `needed`, and only finite numbers."""
    problems = {
        "missing": sorted(set(needed) - set(made)),
        "without a place": sorted(set(made) - set(needed)),
        "of another shape": [
            f"{name} {tuple(made[name].shape)} instead of {tuple(shape)}"
            for name, shape in needed.items()
            if name in made and tuple(made[name].shape) != tuple(shape)
        ],
        "not finite": [name for name, x in made.items() if not x.is_meta and not torch.isfinite(x).all()],
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {shorten_list(names)}" for what, names in problems.items() if names)
        raise ConversionError(f"the tensors do not fit the model. {said}.")
