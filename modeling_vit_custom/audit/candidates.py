"""Findings of a model on images without labels: which of them to label next.

Shapes: U images without labels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.examples import Examples, Joined
from ..data.raw import RawSplit
from ..data.source import Source
from ..data.targets import NoTargets
from ..data.unlabelled import read_unlabelled
from ..features.label_next import choose_next
from ..tasks.single_label import best_of
from .duplicates import same_pixels
from .encoder import Encoder
from .findings import NOTE, SPLITS, Catalogue, Example, Finding
from .labels import Checked
from .scan import scan_images
from .similar import nearest_leaks


@dataclass(frozen=True)
class Suggested:
    """What to label next, best first.

    images: sources of all U images.   rows: one for each suggestion, fit for JSON; "number" is its place among the U.
    considered: how many of the U can be decoded and repeat no other image.   notes: how the features were made.
    """

    images: Any
    rows: list[dict[str, Any]]
    considered: int
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """Return the entry "label_next" of the JSON."""
        rows = [{key: value for key, value in row.items() if key != "number"} for row in self.rows]
        return {"considered": self.considered, "images": rows}


def read_candidates(source: Source) -> RawSplit:
    """Return the images of a folder of any shape, or of a table. Raises DataError if there are none."""
    parts = list(read_unlabelled(source).values())
    names = [name for part in parts for name in part.names]
    return RawSplit(Joined([part.images for part in parts]), names, NoTargets, [()] * len(names))


def suggest(
    encoder: Encoder,
    candidates: RawSplit,
    labelled: Catalogue,
    records: np.ndarray,
    checked: Checked,
    budget: int,
    image_cache: str,
    num_workers: int,
    progress: bool,
) -> Suggested:
    """Choose `budget` of the candidates for labelling, or fewer if there are no more.

    records: of the labelled images. Candidates that cannot be decoded, that show one plain colour, or that look like a
    labelled image or an earlier candidate are left out. Raises DataError as `check_labels`.
    """
    own, _ = scan_images(candidates.images, candidates.names, num_workers, progress)
    usable = _new_ones(labelled, records, own)
    examples = Examples(candidates.images, list(candidates.names)).select(usable.tolist())
    if not len(usable):
        return Suggested(candidates.images, [], 0, [])
    features, where = encoder.features(examples, image_cache, progress)
    tap, head = checked.fitted.tap, checked.fitted.head
    rows = features.of(tap)
    probabilities = (rows.double() @ head.weight.T + head.bias).softmax(dim=1).numpy()
    chosen, likely = choose_next(rows.numpy(), probabilities, budget), best_of(probabilities)
    entries = [
        {
            "number": int(usable[i]),
            "image": candidates.names[usable[i]],
            "likely": checked.classes[int(likely[i])],
            "p_likely": round(float(probabilities[i].max()), 4),
        }
        for i in chosen
    ]
    return Suggested(candidates.images, entries, len(usable), [f"features of {len(usable):,} images {where}"])


def _new_ones(labelled: Catalogue, records: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The candidates that can be decoded and repeat neither a labelled image nor an earlier candidate."""
    both, first = np.concatenate([records, own]), len(records)
    # the labelled images take the place of a held-out split, so that they do not repeat one another
    splits = np.repeat([SPLITS.index("validation"), SPLITS.index("train")], [first, len(own)])
    together = Catalogue(None, [""] * len(both), splits, [()] * len(both), NoTargets, self_leaks=True)
    repeated = {i for group in same_pixels(both) for i in group[1:]}
    repeated |= {i for i, _, _ in nearest_leaks(together, both)}
    return np.array([i for i in np.flatnonzero((own["height"] > 0) & ~own["blank"]) if first + i not in repeated], int)


def next_findings(suggested: Suggested, first: int) -> list[Finding]:
    """Return the finding on what to label next.   first: number of the first candidate among all images."""
    if not suggested.rows:
        return []
    examples = [
        Example(f"{row['image']}: looks like {row['likely']} (p {row['p_likely']:.2f})", (first + row["number"],))
        for row in suggested.rows
    ]
    title = f"images to label next, of {suggested.considered:,} without labels that repeat no other"
    advice = (
        "Label these first: each is typical of many images, and together they are spread over what has no label yet. "
        "--json lists them."
    )
    return [Finding(NOTE, "label-next", title, advice, len(examples), examples, all_on_page=True)]
