"""Every family at the size of a published model passes its own check, from tensors at three sizes and from pixels."""

import pytest
from conversion_table import ROWS, check_row


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_a_full_size_model_equals_its_source(row, tmp_path):
    report = check_row(row, tmp_path)
    assert len(report["from_tensors"]) == 3
    assert report["passed"], report
