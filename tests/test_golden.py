"""A repository saved by each released version still loads, and predicts what it did then."""

import json
from pathlib import Path

import pytest
import torch
from golden_digits import digits
from transformers import AutoImageProcessor, AutoModelForImageClassification

GOLDEN = sorted(file.parent for file in (Path(__file__).parent / "golden").glob("*/expected_logits.json"))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_golden_repository_predicts_as_when_it_was_saved(folder):
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = json.loads((folder / "expected_logits.json").read_text())
    for backend, logits in expected.items():
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
        with torch.no_grad():
            actual = model(**processor(digits(), return_tensors="pt")).logits
        torch.testing.assert_close(actual, torch.tensor(logits), rtol=1e-4, atol=1e-5)


def test_there_is_a_golden_repository():
    assert GOLDEN
