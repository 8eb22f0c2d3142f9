"""Damaged files, arrays and Pillow images of all kinds give a sound tensor or an ImageDecodingError, never a crash."""

import warnings

import pytest
from fuzz_images import make_input, outcome, run, run_in_processes, seed_files

from modeling_vit_custom import ImageDecodingError, decode_image
from modeling_vit_custom.image_files_vit_custom import FORMATS


def test_a_few_hundred_inputs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = run(range(500))
    assert not report["bad"], report["bad"]
    assert sum(report["outcomes"].values()) == 500
    for kind in ("JPEG", "PNG", "TIFF", "array"):  # some must be read and some refused
        assert report["outcomes"][f"{kind}: image"] and report["outcomes"][f"{kind}: refused"]


@pytest.mark.slow
def test_five_thousand_inputs_in_processes_of_their_own():
    report = run_in_processes(1_000_000, 5_000, jobs=2)
    assert not report["bad"], report["bad"]
    assert sum(report["outcomes"].values()) == 5_000


def test_undamaged_files_of_every_format_are_read():
    """The damaged inputs were sound images before: all our formats are read undamaged.

    Exceptions are floats in 0..255, whose white is unknown, and files that Pillow writes but cannot read (YCbCr TIFF
    without compression)."""
    refused = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in seed_files():
            try:
                assert decode_image(content).shape[0] == 3
            except ImageDecodingError as error:
                refused.add((name, "float" in str(error)))
    read = {(name, floats) for name, floats in refused if name in FORMATS}
    assert read <= {("TIFF", False), ("PPM", True), ("TIFF", True), ("JXL", True)}
    assert {name for name, _ in refused - read} == {name for name, _ in seed_files()} - set(FORMATS)
    assert len({name for name, _ in seed_files()} & set(FORMATS)) >= 10


@pytest.mark.parametrize("name", ["PSD", "ICO", "PCX", "DDS", "SGI", "ICNS", "FITS"])
def test_another_format_is_named_and_its_decoder_left_alone(name):
    starts = {"PSD": b"8BPS\0\1", "FITS": b"SIMPLE  =                    T"}
    content = next((content for known, content in seed_files() if known == name), starts.get(name, b""))
    with pytest.raises(ImageDecodingError, match=f"format {name}, which is not read here.*convert it to PNG"):
        decode_image(content)


def test_inputs_can_be_repeated():
    name, source, settings = make_input(7)
    again = make_input(7)
    assert (name, settings) == (again[0], again[2]) and str(source) == str(again[1])
    assert outcome(7) == outcome(7)
