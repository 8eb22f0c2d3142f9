"""How transformers and the Hub know a model: by which pipeline, loaded by what, and what it answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..modeling_vit_custom import ViTCustomForImageClassification, ViTCustomModel


@dataclass(frozen=True)
class Listing:
    """name: the Hub's pipeline_tag and transformers' pipeline.   auto: the Auto class that loads it.   model: ours.

    output: what golden.json records of the model's output.   every: arguments of the pipeline for a whole answer.
    verb, call: the pipeline's name and arguments in examples of use.
    """

    name: str
    auto: str
    model: type
    output: str
    every: Mapping[str, Any]
    verb: str
    call: str

    def for_process(self) -> str:
        """What another process has to know of it, as JSON."""
        return json.dumps({"name": self.name, "auto": self.auto, "output": self.output, "every": dict(self.every)})


CLASSIFICATION = Listing(
    name="image-classification",
    auto="AutoModelForImageClassification",
    model=ViTCustomForImageClassification,
    output="logits",
    every={"top_k": 1_000_000},  # as many as there are
    verb="classify",
    call="top_k=3",
)
FEATURES = Listing(
    name="image-feature-extraction",
    auto="AutoModel",
    model=ViTCustomModel,
    output="pooler_output",
    every={"pool": True},
    verb="extract",
    call="pool=True",
)
LISTINGS = (CLASSIFICATION, FEATURES)


def listing_of(config: Mapping[str, Any]) -> Listing:
    """That of a stored configuration: without labels a model is an encoder (unnamed ones are left out there)."""
    return CLASSIFICATION if config.get("id2label", True) else FEATURES
