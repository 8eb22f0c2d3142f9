"""The splits of a training, in one call."""

from dataclasses import fields
from pathlib import Path

from modeling_vit_custom.data.examples import Splits
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.sources import assemble, read_splits

OF_COLUMNS = {field.name for field in fields(Columns)}


def load_splits(
    *places: str | Path,
    train_val_split: float | None = 0.15,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    seed: int = 0,
    **named,
) -> Splits:
    """Read every split of a dataset, with one label map and one task; decode nothing.

    places: train, validation and test of a `Source`. named: its other fields, and those of `Columns`.
    Raises DataError as `read_splits` and `assemble` do.
    """
    columns = Columns(**{name: value for name, value in named.items() if name in OF_COLUMNS})
    source = Source(*places, **{name: value for name, value in named.items() if name not in OF_COLUMNS})
    return assemble(read_splits(source, columns), train_val_split, max_train_samples, max_eval_samples, seed)
