"""Survey of which models of a library convert, and why the others do not: every name is tried, by shapes alone."""

from collections.abc import Iterator

import torch

from .build import build
from .engine import ConversionError
from .family import Source
from .timm_vit import family_of

# timm's modules that define Vision Transformers; the prefix finds those in other modules.
MODULES = (
    "vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "deit",
    "eva", "beit", "naflexvit",
)  # fmt: skip
PREFIX = "vit_"


def timm_names() -> list[str]:
    """Return every architecture of the installed timm that is a Vision Transformer by its module or its name."""
    import timm

    names = {name for module in MODULES for name in timm.list_models(module=module)}
    return sorted(names.union(timm.list_models(f"{PREFIX}*")))


def survey(names: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield (name, None if it converts, else the reason) for each name; nothing is allocated or downloaded."""
    for name in names:
        yield name, refusal(name)


def refusal(name: str) -> str | None:
    """Return why timm's model of this name cannot be converted, or None if every tensor can."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
        try:
            build(Source(f"timm:{name}", model.state_dict()), family_of(model))
        except ConversionError as error:
            return str(error)
    return None
