"""Every unusual image is read correctly or refused by name on every way in; the same check finds transformers wrong."""

import warnings

import pytest
from image_table import all_cases, answering_404, our_doors, todays_doors, verdict


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    with answering_404() as address:
        yield all_cases(folder / "files", address), our_doors(folder / "ours"), todays_doors(folder / "today")


def test_every_case_is_right_or_a_clear_error(table):
    cases, ours, _ = table
    assert len(cases) == 45
    for case in cases:
        for door in case.doors:
            expected = "clear error" if case.means is None else "right"
            assert verdict(case, *ours[door]) == expected, f"{case.name}, by {door}"


def test_the_judge_finds_what_today_s_processor_makes_of_some(table):
    """A check that finds nothing wrong anywhere would be worthless."""
    cases, _, today = table
    named = {case.name: case for case in cases}
    known = {
        ("RGBA, a ramp of transparency", "pipeline"): "GARBAGE",
        ("16-bit PNG", "path"): "GARBAGE",
        ("NaN", "processor"): "GARBAGE",
        ("float 0..1", "processor"): "GARBAGE",
        ("grey (L)", "path"): "right",
        ("zero bytes", "pipeline"): "unclear error",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for (name, door), expected in known.items():
            assert verdict(named[name], *today[door]).startswith(expected), (name, door)
