"""Explanations of a model that answers others at the same time, in a server or on a page.

Shapes: C channels, H×W pixels.
"""

from collections.abc import Callable
from typing import Any

import torch

from ..common.errors import UsageError
from .methods.context import encoder_of, in_full_precision, lacks_gradients, twin_of, unwrapped
from .methods.table import DEFAULT
from .result import Explanation
from .run import COPIED, run


class LiveExplainer:
    """Explains a twin of a model, so that no answer of the model itself can change. One thread at a time is inside."""

    def __init__(self, model: Any, processor: Any, pause: Callable[[], None] = lambda: None):
        """pause: called before each forward of the twin; what it raises ends the explanation.

        Raises UsageError for a model of which `libra` cannot explain the answers.
        """
        model = unwrapped(model)
        why = "has no encoder of this package" if encoder_of(model) is None else lacks_gradients(model)
        if why is not None:
            raise UsageError(
                f"explain: {type(model).__name__} {why}, so that only method='occlusion' could explain it, by a "
                "forward for each patch. Fix: leave explain out, or give the model that this one was made from."
            )
        self.processor = processor
        twin, self._copied = in_full_precision(model)
        self._twin = twin if self._copied else twin_of(twin)
        self._twin.register_forward_pre_hook(lambda *_: pause())

    def __call__(
        self, pixels: torch.Tensor, target: int | str | None, contrast: int | str | None = None, method: str = DEFAULT
    ) -> Explanation:
        """Return the explanation of the answer to one image [C, H, W], or of a class; see `explain`."""
        found = run(self._twin, pixels[None], target, method, contrast=contrast, processor=self.processor)
        found.notes += [COPIED] * self._copied
        return found
