"""The most faithful method is chosen by measurements of the model, and kept for the weights that it was chosen for."""

import json

import numpy as np
import pytest
import torch
from saved_models import save_ours
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.common.claims import ClaimError, check_claims
from modeling_vit_custom.explanation import choose
from modeling_vit_custom.explanation.choose import CANDIDATES, choose_method, chosen, stored_method
from modeling_vit_custom.explanation.explain import explain


def test_libra_stays_unless_another_is_clearly_better():
    noise = np.random.default_rng(0).normal(0, 0.2, 50)
    assert chosen({"libra": noise, "legrad": noise + 0.05, "chefer": noise - 1}) == "legrad"
    own = np.random.default_rng(1).normal(0.05, 0.2, 50)
    assert chosen({"libra": noise, "legrad": noise.mean() - own.mean() + own + 0.01}) == "libra"
    assert chosen({"libra": noise + 1, "legrad": noise}) == "libra"


def test_the_choice_is_kept_and_used(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "ENOUGH", 4)  # 32 take seconds
    folder = save_ours(tmp_path / "model", num_channels=3, image_size=16, num_hidden_layers=2)
    model = ViTCustomForImageClassification.from_pretrained(folder)
    images = torch.randn(4, 3, 16, 16)
    with pytest.raises(ValueError, match="no choice is stored beside this model, and 2 images are too few"):
        explain(model, images[:2], method="auto")
    record = choose_method(model, images, folder=folder, batch_size=4)
    assert record["srg"].keys() == {*CANDIDATES} and record["ahead"].keys() == {*CANDIDATES} - {"libra"}
    assert stored_method(str(folder)) == record["method"]
    kept = json.loads((folder / "explanation.json").read_text())
    assert kept["method"] == record["method"] and kept["images"] == 4
    assert "explanation.json" in check_claims(folder)[0]
    kept["method"] = "legrad"
    (folder / "explanation.json").write_text(json.dumps(kept))
    assert explain(model, images[:2], 1, "auto", check=False, confirm=0).method == "legrad"
    # of other weights, it says nothing
    with torch.no_grad():
        model.classifier.bias += 1
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    if (folder / "explanation.json").is_file():
        assert stored_method(str(folder)) is None
        with pytest.raises(ClaimError, match="choose_method"):
            check_claims(folder)


def test_what_cannot_be_chosen_by_is_refused(random_model, tmp_path):
    model = random_model(ViTCustomConfig(**TINY))
    with pytest.raises(ValueError, match="images are 3: to choose a method by, give at least 32"):
        choose_method(model, torch.randn(3, 3, 24, 32))
    with pytest.raises(ValueError, match="is no saved model's"):
        choose_method(model, torch.randn(32, 3, 24, 32), folder=tmp_path)
