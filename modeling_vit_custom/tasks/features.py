"""Feature extraction: vectors of images, by an encoder without a head."""

from ..data.targets import NoTargets
from .hub import FEATURES as LISTING
from .task import Task

FEATURES = Task(
    name="features",
    listing=LISTING,
    targets=NoTargets,
    does=lambda images, model: f"turns {images} into vectors of {model['width']} numbers",
    limits=lambda model: ["It names nothing: what its vectors are good for shows in what is built on them."],
    measures=lambda num_labels: {},
)
