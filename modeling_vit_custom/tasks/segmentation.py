"""Semantic segmentation: a class for every pixel.

The record names the task. It has no targets, metrics and answers yet, so the engines refuse it: see `Listing.dense`.
"""

from ..data.targets import NoTargets
from .hub import SEGMENTATION as LISTING
from .task import Task

SEGMENTATION = Task(
    name="semantic_segmentation",
    listing=LISTING,
    targets=NoTargets,
    does=lambda images, model: f"gives every pixel of {images} one of {len(model['labels'])} classes",
    limits=lambda model: [
        "It gives every pixel a class that it was trained on, also where none of them is to be seen."
    ],
    measures=lambda num_labels: {},
)
