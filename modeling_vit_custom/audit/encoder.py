"""The encoder that an audit looks at images with, and the features that it gives.

Shapes: N images, B batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..data.examples import Examples
from ..data.views import DecodedViews, PixelValues, eval_resizer
from ..features.store import Features, open_features
from ..features.taps import Taps
from ..pretrained_vit_custom import ViTCustomPreTrainedModel


@dataclass(frozen=True)
class Encoder:
    """A model of which only the encoder is used.

    name: as the user named it.   model: in eval mode, of the size that `processor` makes.   notes: for the reader.
    """

    name: str
    model: ViTCustomPreTrainedModel
    processor: Any
    notes: list[str] = field(default_factory=list)

    def features(self, examples: Examples, image_cache: str, progress: bool) -> tuple[Features, str]:
        """Return (the features of N images, words on where they are kept); see `open_features`."""
        config: Any = self.model.config
        decoded = DecodedViews(examples, eval_resizer(self.processor, config))
        to_pixel_values = PixelValues(self.processor)

        @torch.inference_mode()
        def pixels(indices: Sequence[int], _view: int) -> torch.Tensor:
            return to_pixel_values(decoded(indices).to(self.model.device))

        found, where = open_features(
            Taps(self.model), examples, pixels, self.processor, image_cache=image_cache, progress=progress
        )
        assert found is not None  # there is one process
        return found, where
