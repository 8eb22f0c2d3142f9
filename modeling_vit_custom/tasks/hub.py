"""How transformers and the Hub know a model: its pipeline, the Auto class that loads it, and its output."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    ModelOutput,
    SemanticSegmenterOutput,
)

from ..masked_images_vit_custom import ViTCustomForMaskedImageModeling
from ..modeling_vit_custom import ViTCustomForImageClassification, ViTCustomModel
from ..pretrained_vit_custom import ViTCustomPreTrainedModel
from ..segmentation_vit_custom import ViTCustomForSemanticSegmentation


@dataclass(frozen=True)
class Listing:
    """name: the Hub's pipeline_tag and transformers' pipeline.   auto: the Auto class that loads it.
    model: this package's class.   answer: transformers' class of its output.
    output: the field of the output that is the task's result; golden.json records it.
    every: arguments of the pipeline for a whole answer.   noun: name of such a model, with its article.
    verb, call: the pipeline's name and arguments in usage examples.
    demo: file of the page to try a model on, which is also a Space's app.py; None without such a page.
    dense: whether it answers for every pixel, of which commands that need one answer an image can make nothing.
    """

    name: str
    auto: str
    model: type[ViTCustomPreTrainedModel]
    answer: type[ModelOutput]
    output: str
    every: Mapping[str, Any]
    noun: str
    verb: str
    call: str
    demo: Path | None = None
    dense: bool = False

    def refuse_dense(self, source: Any) -> None:
        """Raise ValueError for a model with an answer a pixel, in a command that needs one an image."""
        if self.dense:
            raise ValueError(
                f"{source} is {self.noun}, which answers for every pixel, and this needs one answer an image. Use it "
                f'in Python: pipeline("{self.name}", model=…) or {self.model.__name__}.from_pretrained(…). For its '
                "encoder alone, save ViTCustomModel.from_pretrained(…) to a folder and give that."
            )

    @property
    def auto_class(self) -> Any:
        return getattr(transformers, self.auto)

    @property
    def mapping(self) -> Any:
        """transformers' table of the configuration classes whose models the Auto class loads."""
        return self.auto_class._model_mapping

    def for_process(self, **more: Any) -> str:
        """Return what another process needs to know of it, and `more`, as JSON."""
        known = {"name": self.name, "auto": self.auto, "output": self.output, "every": dict(self.every)}
        return json.dumps(known | more)


CLASSIFICATION = Listing(
    name="image-classification",
    auto="AutoModelForImageClassification",
    model=ViTCustomForImageClassification,
    answer=ImageClassifierOutput,
    output="logits",
    every={"top_k": 1_000_000},  # all labels
    noun="an image classifier",
    verb="classify",
    call="top_k=3",
    demo=Path(__file__).with_name("classification_demo.py"),
)
FEATURES = Listing(
    name="image-feature-extraction",
    auto="AutoModel",
    model=ViTCustomModel,
    answer=BaseModelOutputWithPooling,
    output="pooler_output",
    every={"pool": True},
    noun="an image encoder",
    verb="extract",
    call="pool=True",
)
MASKED_IMAGES = replace(
    FEATURES,
    auto="AutoModelForMaskedImageModeling",
    model=ViTCustomForMaskedImageModeling,
    answer=MaskedImageModelingOutput,
    output="reconstruction",
)
SEGMENTATION = Listing(
    name=ViTCustomForSemanticSegmentation.head_kind,
    auto="AutoModelForSemanticSegmentation",
    model=ViTCustomForSemanticSegmentation,
    answer=SemanticSegmenterOutput,
    output="logits",
    every={},
    noun="a model for semantic segmentation",
    verb="segment",
    call="",
    dense=True,
)
LISTINGS = (CLASSIFICATION, FEATURES)


def segments(heads: Any) -> bool:
    """Return whether `heads` of a configuration, stored or not, hold a head of segmentation."""
    entries = heads.values() if isinstance(heads, Mapping) else ()
    return any(isinstance(entry, Mapping) and entry.get("kind") == SEGMENTATION.name for entry in entries)


def listing_of(config: Mapping[str, Any]) -> Listing:
    """Return the listing of a stored configuration: a segmenter's by its head, an encoder's if it has no labels.

    A missing id2label means default label names, which transformers does not store.
    """
    if segments(config.get("heads")):
        return SEGMENTATION
    return CLASSIFICATION if config.get("id2label", True) else FEATURES


def listing_stored(config: Mapping[str, Any]) -> Listing:
    """Return the listing of the class that a stored configuration names under "architectures".

    Without a class of a known kind, as `listing_of`.
    """
    names = [str(name) for name in config.get("architectures") or ()]
    if MASKED_IMAGES.model.__name__ in names:
        return MASKED_IMAGES
    return FEATURES if any(name.endswith("Model") for name in names) else listing_of(config)
