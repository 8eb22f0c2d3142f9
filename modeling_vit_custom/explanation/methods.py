"""The table of methods: what each needs, and what is said of its maps."""

from collections.abc import Callable
from dataclasses import dataclass

from ..common.errors import UsageError
from . import attention_maps, feature_maps, gradient_maps, pixel_maps
from .maps import Maps
from .work import Work


@dataclass(frozen=True)
class Method:
    """A way to make a map.

    run: `Work` → `Maps`.   words: what it does, for people.   encoder: whether it needs this package's encoder.
    gradient: whether it needs gradients.   class_specific: whether its map depends on what is explained.
    features: whether it shows features and explains nothing.   by_block: whether blocks can be chosen.
    """

    run: Callable[[Work], Maps]
    words: str
    encoder: bool = True
    gradient: bool = True
    class_specific: bool = True
    features: bool = False
    by_block: bool = False

    @property
    def caveat(self) -> str | None:
        """What a picture of such a map must say; None if it explains the class."""
        if self.features:
            return "features, not an explanation"
        return None if self.class_specific else "not an explanation of the class"


METHODS = {
    "libra": Method(gradient_maps.libra, "evidence in every block, by a linearised backward", by_block=True),
    "place": Method(attention_maps.place, "attention times its linearised gradient, through all blocks"),
    "chefer": Method(attention_maps.chefer, "attention times its gradient, through all blocks"),
    "legrad": Method(attention_maps.legrad, "gradient of each block's answer by its attention", by_block=True),
    "gradcam": Method(gradient_maps.gradcam, "channels of the last block, weighted by their mean gradient"),
    "hirescam": Method(gradient_maps.hirescam, "channels of the last block times their gradient"),
    "ig": Method(pixel_maps.ig, "gradients of the pixels on the way from the mean colour", encoder=False),
    "occlusion": Method(
        pixel_maps.occlusion, "what the answer loses without each patch", encoder=False, gradient=False
    ),
    "attention": Method(attention_maps.attention, "attention of the last block", gradient=False, class_specific=False),
    "rollout": Method(attention_maps.rollout, "attention through all blocks", gradient=False, class_specific=False),
    "similarity": Method(
        feature_maps.similarity, "cosine with one patch", gradient=False, class_specific=False, features=True
    ),
    "pca": Method(
        feature_maps.pca, "principal components of patches", gradient=False, class_specific=False, features=True
    ),
}
DEFAULT = "libra"


def method_named(name: str) -> Method:
    """Return the method of this name. Raises UsageError, listing the names, if there is none."""
    if name not in METHODS:
        raise UsageError(f"method={name!r}: give one of {', '.join(METHODS)}.")
    return METHODS[name]
