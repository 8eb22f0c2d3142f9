"""The page of shortcuts: findings with pictures, what was not accused, groups of maps, and a table of the classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...reporting import page
from .illustrations import Pictures, common_scale, place_map
from .interventions import Effect, mixed, smoothed
from .report import ShortcutReport
from .suspicions import BACKGROUND
from .trials import Trial
from .verdicts import percent, place_of

EXAMPLES = 6
ILLUSTRATED = 20  # findings with pictures of images
CLUSTERED = 24  # classes whose groups are shown
CLASSES = 200  # rows of the table
SMALL_MAP = 64


def write_page(path: str | Path, report: ShortcutReport, processor: Any) -> Path:
    """Write the page and return its path; the images of the examples are read once more."""
    return page.write_page(path, "explanation/shortcuts/page.html.j2", _content(report, processor))


def _content(report: ShortcutReport, processor: Any) -> dict[str, Any]:
    pictures = Pictures(processor)
    verdicts = {trial.suspicion.target: place_of(trial) for trial in reversed(report.accused)}
    scale = common_scale(*(one.mean for one in report.maps)) if report.maps else 0.0
    striking = [trial for trial in report.looked_at if trial.suspicion.by_evidence]
    return {
        "report": report,
        "model": report.facts.get("model", "A model"),
        "place": report.facts.get("data", "its images"),
        "split": report.facts.get("split"),
        "findings": [
            _finding(trial, report, pictures if number < ILLUSTRATED else None)
            for number, trial in enumerate(report.accused)
        ],
        "doubted": [_finding(trial, report, None) for trial in striking],
        "quiet": len(report.looked_at) - len(striking),
        "groups": _groups(report, pictures),
        "more_groups": max(0, len(report.clusters) - CLUSTERED),
        "classes": [
            {
                "name": report.names[one.target],
                "images": len(one.images),
                "ring": percent(one.ring),
                "off": None if one.off is None else percent(one.off),
                "map": place_map(one.mean, scale, side=SMALL_MAP),
                "verdict": verdicts.get(one.target, ""),
            }
            for one in report.maps[:CLASSES]
        ],
        "more_classes": max(0, len(report.maps) - CLASSES),
        "boxed": any(one.off is not None for one in report.maps),
    }


def _finding(trial: Trial, report: ShortcutReport, pictures: Pictures | None) -> dict[str, Any]:
    suspicion, outcome = trial.suspicion, trial.outcome
    own = next(one for one in report.maps if one.target == suspicion.target)
    scale = common_scale(own.mean, own.others)
    cells = None if suspicion.kind == BACKGROUND else suspicion.cells[0]
    return {
        "name": report.names[suspicion.target],
        "place": place_of(trial),
        "share": percent(suspicion.share),
        "others": percent(suspicion.share_others),
        "suspects": len(suspicion.suspects),
        "striking": suspicion.by_evidence,
        "images": len(own.images),
        "of_suspects": percent(suspicion.of_suspects),
        "taken": f"{outcome.cells_taken:.0f}",
        "pasted": f"{outcome.cells_pasted:.0f}",
        "of_patches": outcome.of,
        "pairs": outcome.pairs,
        "doubt": trial.doubt,
        "p_value": "below 0.001" if trial.p_value < 0.001 else f"{trial.p_value:.3f}",
        "map": place_map(own.mean, scale, cells),
        "map_others": place_map(own.others, scale, cells),
        "effects": [
            _bar("Taken away", "the patches show what images of other classes show there", outcome.taken),
            _bar("Blurred", "a blur keeps a colour, so this is not decisive", outcome.blurred),
            _bar("Pasted", "the patches put into images of other classes", outcome.pasted),
        ],
        "within": [place_of(one) for one in trial.within],
        "examples": [] if pictures is None else _examples(trial, report, pictures),
    }


def _bar(title: str, text: str, effect: Effect) -> dict[str, Any]:
    """One row of bars: the probability before and after; after as many other patches; the interval of the change."""
    up = effect.after.value >= effect.before.value
    control = effect.before.value + (effect.control.value if up else -effect.control.value)
    return {
        "title": title,
        "text": text,
        "before": effect.before.value,
        "after": effect.after.value,
        "control": min(1.0, max(0.0, control)),
        "low": min(effect.after.low, effect.after.high),
        "high": max(effect.after.low, effect.after.high),
        "beyond": f"{effect.beyond.value:.2f}, 95 % interval {effect.beyond.low:.2f} to {effect.beyond.high:.2f}",
    }


def _examples(trial: Trial, report: ShortcutReport, pictures: Pictures) -> list[dict[str, Any]]:
    """Pairs spread over those that were tried, from the largest effect to the smallest."""
    found, evidence = trial.outcome.probabilities, report.evidence
    order = np.argsort(-(found["with"] - found["other"] + found["own"] - found["without"]), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int)]
    own, other = evidence.pixels(trial.own[chosen]), evidence.pixels(trial.other[chosen])
    cells, put = trial.taken.regions[chosen], trial.pasted.regions[chosen]
    without, hidden, pasted = mixed(own, other, cells), mixed(own, smoothed(own), cells), mixed(other, own, put)
    return [
        {
            "name": evidence.images.names[int(evidence.rows[trial.own[pair]])],
            "other": report.names[int(evidence.labels[trial.other[pair]])],
            "steps": [
                _step(pictures.photo(own[place], cells[place]), "image", found["own"][pair]),
                _step(pictures.overlay(own[place], evidence.shares[trial.own[pair]]), "evidence", None),
                _step(pictures.photo(without[place]), "taken away", found["without"][pair]),
                _step(pictures.photo(hidden[place]), "blurred", found["blurred"][pair]),
                _step(pictures.photo(other[place]), "another image", found["other"][pair]),
                _step(pictures.photo(pasted[place], put[place]), "pasted", found["with"][pair]),
            ],
        }
        for place, pair in enumerate(chosen)
    ]


def _step(picture: str, title: str, probability: float | None) -> Mapping[str, Any]:
    return {"picture": picture, "title": title, "p": None if probability is None else f"{probability:.2f}"}


def _groups(report: ShortcutReport, pictures: Pictures) -> list[dict[str, Any]]:
    shown = []
    for one in report.clusters[:CLUSTERED]:
        if not one.clusters:
            continue
        scale = common_scale(*(each.mean for each in one.clusters))
        shown.append(
            {
                "name": report.names[one.target],
                "silhouette": f"{one.silhouette:.2f}",
                "clusters": [
                    {
                        "count": len(each.members),
                        "map": place_map(each.mean, scale, side=112),
                        "pictures": _typical(each.members[:EXAMPLES], report, pictures),
                    }
                    for each in one.clusters
                ],
            }
        )
    return shown


def _typical(members: Sequence[int] | np.ndarray, report: ShortcutReport, pictures: Pictures) -> list[str]:
    images = report.evidence.pixels(members)
    return [
        pictures.overlay(image, report.evidence.shares[member]) for image, member in zip(images, members, strict=True)
    ]
