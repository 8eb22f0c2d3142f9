"""Trials in words and as figures.

Shapes: h×w grid of patches.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from .interventions import Effect
from .suspicions import BACKGROUND, BORDER, CELLS, SURROUNDINGS
from .trials import Trial


def place_of(trial: Trial) -> str:
    """Return the place of a suspicion in words, such as "the lower right corner"."""
    kind = trial.suspicion.kind
    if kind != CELLS:
        return {
            BORDER: "the border",
            SURROUNDINGS: "what surrounds the middle",
            BACKGROUND: "the background, off the boxes",
        }[kind]
    return words_of(trial.suspicion.cells[0])


def words_of(cells: np.ndarray) -> str:
    """Return where the middle of cells bool [h, w] lies, in words."""
    at = [float(places.mean() + 0.5) / side for places, side in zip(np.nonzero(cells), cells.shape, strict=True)]
    row, column = (0 if one < 0.3 else 2 if one > 0.7 else 1 for one in at)
    if (row, column) == (1, 1):
        return "the middle"
    if 1 not in (row, column):
        return f"the {('upper', '', 'lower')[row]} {('left', '', 'right')[column]} corner"
    side = ("upper", "", "lower")[row] or ("left", "", "right")[column]
    return f"the middle of the {side} edge"


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def sentence(trial: Trial, names: Mapping[int, str]) -> str:
    """Return what was found of a trial, in plain words with its figures."""
    suspicion, outcome = trial.suspicion, trial.outcome
    name = names[suspicion.target]
    return (
        f"class {name}: {percent(suspicion.share)} of the evidence lies in {place_of(trial)} (other classes "
        f"{percent(suspicion.share_others)}); showing there what images of other classes show lowers p({name}) from "
        f"{_moved(outcome.taken)}, blurring it to {outcome.blurred.after.value:.2f}; pasting "
        f"{outcome.cells_pasted:.0f} of {outcome.of} patches of it into images of other classes raises p({name}) from "
        f"{_moved(outcome.pasted)}; {outcome.pairs} pairs of images"
    )


def _moved(effect: Effect) -> str:
    """The probability before and after, and the change by other patches instead."""
    sign = "+" if effect.after.value >= effect.before.value else "-"
    return (
        f"{effect.before.value:.2f} to {effect.after.value:.2f} (other patches instead: "
        f"{_signed(effect.control.value, sign)})"
    )


def _signed(change: float, sign: str) -> str:
    if round(abs(change), 2) == 0:
        return "0.00"
    return f"{sign if change > 0 else '+' if sign == '-' else '-'}{abs(change):.2f}"


def trial_record(trial: Trial, names: Mapping[int, str]) -> dict[str, Any]:
    """Return a trial for JSON."""
    suspicion, outcome = trial.suspicion, trial.outcome
    cells = suspicion.cells[0]
    return {
        "class": names[suspicion.target],
        "kind": suspicion.kind,
        "place": place_of(trial),
        "cells": None if suspicion.kind == BACKGROUND else np.argwhere(cells).tolist(),
        "says": sentence(trial, names),
        "doubt": trial.doubt or None,
        "share": suspicion.share,
        "share_others": suspicion.share_others,
        "suspects": len(suspicion.suspects),
        "share_of_suspects": suspicion.of_suspects,
        "top_cell_there": suspicion.top,
        "striking": suspicion.by_evidence,
        "pairs": outcome.pairs,
        "patches_taken": outcome.cells_taken,
        "patches_pasted": outcome.cells_pasted,
        "of_patches": outcome.of,
        "taken": asdict(outcome.taken),
        "blurred": asdict(outcome.blurred),
        "pasted": asdict(outcome.pasted),
        "alike": trial.alike,
        "p_value": trial.p_value,
        "explains": [trial_record(one, names) for one in trial.within],
    }
