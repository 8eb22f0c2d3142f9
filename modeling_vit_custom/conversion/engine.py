"""A strict, invertible translation between the tensors of a source and ours.

A table is a list of rows. A row names tensors of ours and of the source and says how each side is made of the other;
in its names "{i}" runs over the blocks and "{p}" over weight and bias. A table lists every tensor its family may have,
and a row counts where the giving side has all of its tensors. What is then missing, left over, of another shape or not
finite is an error that lists it.

Shapes: D width, P prefix tokens, h×w grid.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product

import torch

Tensors = tuple[torch.Tensor, ...]
State = Mapping[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]
_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?!\d)")  # of a block; the configuration takes 512 of them


class ConversionError(ValueError):
    """A checkpoint that cannot be translated as it is. The message lists what is wrong and the way out."""


def _same(*tensors: torch.Tensor) -> Tensors:
    return tensors


@dataclass(frozen=True)
class Row:
    """Tensors of ours and of the source that say the same. read: theirs → ours; write: ours → theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[..., Tensors] = _same
    write: Callable[..., Tensors] = _same

    def expand(self, blocks: Sequence[int]) -> "list[Row]":
        """This row for every block and for weight and bias, where its names ask for that."""
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
    """All that a family may hold.

    zero: patterns of our names that the source leaves out because they are zero there, such as a bias.
    unused: patterns of the source's names that our model has no place for, each with the reason.
    """

    rows: Sequence[Row]
    zero: Sequence[str] = ()
    unused: dict[str, str] = field(default_factory=dict)


def same(ours: str, theirs: str) -> Row:
    """One tensor under two names."""
    return Row((ours,), (theirs,))


def packed(ours: Sequence[str], theirs: str) -> Row:
    """Several of ours stacked along the first axis in one of theirs, as q, k and v often are."""
    return Row(tuple(ours), (theirs,), lambda whole: whole.chunk(len(ours)), lambda *parts: (torch.cat(parts),))


def folded_positions(prefix: Sequence[tuple[str, str]], ours: str, theirs: str) -> Row:
    """A table [1, P + h·w, D] that begins with positions of the P prefix tokens; ours has them added to the tokens.

    prefix: (ours, theirs) names of those tokens, each [1, n, D].
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
    """Two classifiers whose logits are averaged are one on both vectors joined, with half the weights."""

    def read(*tensors: torch.Tensor) -> Tensors:
        weight, bias, other_weight, other_bias = tensors
        return torch.cat([weight, other_weight], dim=1) / 2, (bias + other_bias) / 2

    def write(*tensors: torch.Tensor) -> Tensors:
        weight, other_weight = (2 * tensors[0]).chunk(2, dim=1)
        return weight, tensors[1], other_weight, tensors[1]

    theirs = tuple(f"{head}.{p}" for head in (one, other) for p in ("weight", "bias"))
    return Row(("classifier.weight", "classifier.bias"), theirs, read, write)


def respelled(state: State, spellings: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """The same tensors with each (pattern, replacement) applied to every name in turn.

    Raises ConversionError where two names become one.
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
    """(our tensors, notes on what was left out), from a source's. Raises ConversionError for one left over."""
    made, left = _apply(table.rows, {name: tensor for name, tensor in given.items() if tensor.numel()})
    reasons: dict[str, list[str]] = {}
    for name in left:
        if reason := next((why for pattern, why in table.unused.items() if fnmatchcase(name, pattern)), None):
            reasons.setdefault(reason, []).append(name)
    if unknown := sorted(left.difference(*reasons.values())):
        raise ConversionError(f"left over in the source: {listed(unknown)}.")
    return made, [f"left out: {listed(names)} ({reason})" for reason, names in reasons.items()]


def fill(table: Table, made: State, needed: Shapes) -> dict[str, torch.Tensor]:
    """`made` with the zeros the source leaves out. Raises ConversionError unless that is what a model needs."""
    dtype = next(iter(made.values())).dtype
    zeros = {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape in needed.items()
        if name not in made and any(fnmatchcase(name, pattern) for pattern in table.zero)
    }
    check({**made, **zeros}, needed)
    return {**made, **zeros}


def write(table: Table, ours: State, needed: Shapes) -> dict[str, torch.Tensor]:
    """The source's tensors that `needed` names, from ours. Raises ConversionError for what it cannot express."""
    rows = [Row(row.theirs, row.ours, row.write, row.read) for row in table.rows]
    made, left = _apply(rows, ours, needed)
    zero = {name for name in left if any(fnmatchcase(name, pattern) for pattern in table.zero)}
    wrong = sorted(left - zero) + [f"{name} (only zeros)" for name in sorted(zero) if ours[name].any()]
    if wrong:
        raise ConversionError(f"the target has no place for {listed(wrong)}.")
    check(made, needed)
    return made


def own(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that shares no memory: tensors that a table made may be views of one another or of their source."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _apply(rows: Iterable[Row], given: State, needed: Shapes | None = None) -> tuple[dict[str, torch.Tensor], set[str]]:
    """(what the rows make of `given`, the names none of them used)."""
    made: dict[str, torch.Tensor] = {}
    left = set(given)
    # The numbers that occur, not all up to the largest: a name can say 10⁹.
    blocks = sorted({int(number) for name in given for number in _NUMBER.findall(name)})
    for row in (expanded for whole in rows for expanded in whole.expand(blocks)):
        wanted = needed is None or set(row.ours) <= set(needed)
        if wanted and set(row.theirs) <= left and not set(row.ours) & set(made):
            made |= zip(row.ours, row.read(*(given[name] for name in row.theirs)), strict=True)
            left.difference_update(row.theirs)
    return made, left


def check(made: State, needed: Shapes) -> None:
    """Raises ConversionError unless `made` has just the names and shapes of `needed`, and only finite numbers."""
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
        said = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        raise ConversionError(f"the tensors do not fit the model. {said}.")


def listed(names: Sequence[str], limit: int = 8) -> str:
    """The first few names and how many more there are."""
    more = len(names) - limit
    return ", ".join(map(str, names[:limit])) + (f" and {more} more" if more > 0 else "")
