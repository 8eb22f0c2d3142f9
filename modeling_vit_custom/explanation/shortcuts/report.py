"""What a search for shortcuts has found.

Shapes: N images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...common.json_files import json_safe, readable_json
from .clusters import Clusters
from .evidence import Evidence
from .suspicions import ClassMap
from .trials import Trial
from .verdicts import sentence, trial_record


@dataclass(frozen=True)
class ShortcutReport:
    """What was found.

    accused: trials in which the patches decide the class beyond the controls, the largest effect first.   looked_at:
    suspicions that were not confirmed.   maps: of each class with FEWEST images.   too_few: number of images of each
    class with fewer.   clusters: of each class with enough images.   names: id → class.   evidence: of the N images.
    facts: the model and the data, for the record.   seconds: in all.   forwards: images for the interventions.
    """

    accused: list[Trial]
    looked_at: list[Trial]
    maps: list[ClassMap]
    too_few: dict[str, int]
    clusters: list[Clusters]
    names: Mapping[int, str]
    evidence: Evidence
    facts: dict[str, Any]
    seconds: float
    forwards: int

    def sentences(self) -> list[str]:
        """Return a sentence for each accusation."""
        return [sentence(trial, self.names) for trial in self.accused]

    def summary(self) -> str:
        """Return how much was looked at and found, in a sentence."""
        found, tried = len(self.accused), len(self.accused) + len(self.looked_at)
        said = "no shortcut" if not found else f"{found} shortcut{'s' * (found != 1)}"
        return (
            f"{said} in {len(self.maps)} classes of {len(self.evidence):,} images; {tried} suspicion"
            f"{'s' * (tried != 1)} tried by {self.forwards:,} changed images"
        )

    def record(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {
            **self.facts,
            "images": len(self.evidence),
            "unreadable": len(self.evidence.errors),
            "summary": self.summary(),
            "shortcuts": [trial_record(trial, self.names) for trial in self.accused],
            "not_accused": [trial_record(trial, self.names) for trial in self.looked_at],
            "classes": [
                {
                    "class": self.names[one.target],
                    "images": len(one.images),
                    "mean_evidence": one.mean,
                    "border": one.ring,
                    "off_object": one.off,
                }
                for one in self.maps
            ],
            "too_few_images": self.too_few,
            "clusters": [
                {
                    "class": self.names[one.target],
                    "silhouette": one.silhouette,
                    "images": [len(each.members) for each in one.clusters],
                }
                for one in self.clusters
            ],
            "seconds": round(self.seconds, 1),
        }

    def to_json(self) -> str:
        """Return the text of that file."""
        return readable_json(json_safe(self.record())) + "\n"

    def __repr__(self) -> str:
        return f"ShortcutReport: {self.summary()}"
