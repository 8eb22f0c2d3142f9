"""Data that several modules of these tests train on."""

import pytest
from real_digits import write_class_folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write 24 images to train on, 3 steps an epoch, and 8 to validate."""
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 16, "1": 16})
