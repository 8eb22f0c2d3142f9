"""Damaged files, arrays and Pillow images of all kinds: a sound tensor or an ImageDecodingError, never a crash."""

import warnings

import pytest
from fuzz_images import make_input, outcome, run, run_in_processes, seed_files

from modeling_vit_custom import ImageDecodingError, decode_image


def test_a_few_hundred_inputs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = run(range(500))
    assert not report["bad"], report["bad"]
    assert sum(report["outcomes"].values()) == 500
    for kind in ("JPEG", "PNG", "TIFF", "array"):  # neither all refused nor all taken
        assert report["outcomes"][f"{kind}: image"] and report["outcomes"][f"{kind}: refused"]


@pytest.mark.slow
def test_five_thousand_inputs_in_processes_of_their_own():
    report = run_in_processes(1_000_000, 5_000, jobs=2)
    assert not report["bad"], report["bad"]
    assert sum(report["outcomes"].values()) == 5_000


def test_undamaged_files_of_every_format_are_read():
    """What is damaged was once an image: all but PostScript, floats in 0..255, whose white is not known, and what
    Pillow writes but does not read (YCbCr TIFF without compression, small ICNS)."""
    refused = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in seed_files():
            try:
                assert decode_image(content).shape[0] == 3
            except ImageDecodingError as error:
                refused.add((name, "float" in str(error)))
    floats = {(name, True) for name in ("IM", "PPM", "SPIDER", "TIFF")}
    assert refused <= {("EPS", False), ("ICNS", False), ("TIFF", False), *floats}
    assert len({name for name, _ in seed_files()}) >= 15


def test_inputs_can_be_repeated():
    name, source, settings = make_input(7)
    again = make_input(7)
    assert (name, settings) == (again[0], again[2]) and str(source) == str(again[1])
    assert outcome(7) == outcome(7)
