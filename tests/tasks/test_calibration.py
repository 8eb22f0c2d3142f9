"""Calibration equals values computed by hand, and finds scalings that were put in on purpose."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from modeling_vit_custom.tasks.calibration import (
    bin_calibration_error,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)


def test_ece_of_a_hand_made_case():
    # Bins of 1/5: (0.4, 0.6] holds three of confidence 0.5, two right: gap |2/3 - 1/2| with weight 3/5;
    # (0.8, 1] holds two of confidence 0.9, one right: gap |1/2 - 0.9| with weight 2/5.
    confidences = np.array([0.5, 0.5, 0.5, 0.9, 0.9])
    correct = np.array([1, 1, 0, 1, 0])
    assert bin_calibration_error(confidences, correct, bins=5) == pytest.approx(3 / 5 * (2 / 3 - 1 / 2) + 2 / 5 * 0.4)


def test_bins_are_open_below_and_closed_above():
    # 0.6 belongs to (0.4, 0.6] like 0.5, not to (0.6, 0.8]: over- and under-confidence cancel in one bin.
    assert bin_calibration_error(np.array([0.6, 0.5]), np.array([1, 0]), bins=5) == pytest.approx(0.05)
    assert bin_calibration_error(np.array([0.0, 1.0]), np.array([0, 1]), bins=5) == 0.0


def test_ece_is_zero_for_perfect_and_one_for_certainly_wrong():
    logits = np.array([[50.0, 0.0], [0.0, 50.0]])
    assert expected_calibration_error(logits, np.array([0, 1])) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(logits, np.array([1, 0])) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("scale", [0.25, 3.0, 40.0])
def test_temperature_recovers_a_known_scaling(scale):
    rng = np.random.default_rng(0)
    calibrated = rng.normal(size=(4000, 6)) * 2
    labels = (calibrated + rng.gumbel(size=calibrated.shape)).argmax(axis=1)  # drawn from softmax(calibrated)
    base, note = fit_temperature(calibrated, labels)
    assert note is None and base == pytest.approx(1.0, abs=0.05)

    temperature, _ = fit_temperature(scale * calibrated, labels)
    assert temperature == pytest.approx(scale * base, rel=1e-6)
    assert expected_calibration_error(scale * calibrated, labels, temperature) < 0.03


def test_temperature_is_the_minimum_a_general_minimiser_finds():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(300, 4)), rng.integers(0, 4, 300)
    logits[np.arange(300), labels] += 0.7
    temperature, _ = fit_temperature(logits, labels)
    found = minimize_scalar(lambda t: negative_log_likelihood(logits, labels, t), bounds=(0.05, 20), method="bounded")
    assert temperature == pytest.approx(found.x, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        ([[3.0, 0.0], [0.0, 2.0]], [0, 1], "every example is classified right"),
        ([[3.0, 0.0], [0.0, 2.0]], [1, 0], "no better than average"),
        ([[1.0], [2.0]], [0, 0], "every example is classified right"),
    ],
)
def test_no_temperature_is_said_and_explained(logits, labels, reason):
    temperature, note = fit_temperature(np.array(logits), np.array(labels))
    assert temperature is None and reason in note
