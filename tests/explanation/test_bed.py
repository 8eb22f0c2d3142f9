"""Maps of a small model lie on the object of the class asked for, and are faithful: measured on scenes with masks."""

import numpy as np
import pytest
import torch
from explain_bed import (
    BLIND,
    CLASSES,
    STAMPS,
    Bed,
    bed,
    config_of,
    faithful,
    fit,
    make_scenes,
    maps_of,
    placed,
    probabilities,
    stamps_folder,
    trained,
)
from scipy.stats import spearmanr

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.explanation.explain import explain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the model is trained here: 80 CPU seconds, more on a busy machine
    pytest.mark.skipif(
        stamps_folder() is None,
        reason=f"needs Tux Paint's stamps: apt-get install tuxpaint-stamps-default, or {STAMPS}",
    ),
]
COUNT, MEASURED = 150, 60


@pytest.fixture(scope="module")
def cls_bed() -> Bed:
    """Return a CLS model of the bed that finds nearly all objects."""
    model = trained("cls", 0, stamps_folder())
    found = bed(model, make_scenes(stamps_folder(), COUNT, 48, 5))
    assert found.right >= 0.95 and found.found >= 0.85, (found.right, found.found)
    return found


@pytest.fixture(scope="module")
def libra(cls_bed) -> np.ndarray:
    """Return libra's maps of the targets, as ranked."""
    return maps_of(cls_bed, "libra")[0]


def test_libra_lies_on_the_object_of_the_class_asked_for(cls_bed, libra):
    at = placed(libra, cls_bed.scenes)
    assert at.ap >= 0.60 and at.hit >= 0.82 and at.wrong <= 0.15 and at.disc >= 0.92, at


def test_libra_is_far_above_maps_that_know_nothing_of_the_model(cls_bed, libra):
    ap = placed(libra, cls_bed.scenes).ap
    blind = {name: placed(make(cls_bed.scenes, libra.shape[1:]), cls_bed.scenes).ap for name, make in BLIND.items()}
    assert ap >= blind["centre"] + 0.33 and ap >= blind["Sobel"] + 0.35, (ap, blind)


@pytest.mark.parametrize(("baseline", "reached"), [("blur", 0.25), ("mean", 0.45)])
def test_libra_is_faithful(cls_bed, libra, baseline, reached):
    found = faithful(libra[:MEASURED], cls_bed.perturbed(MEASURED, baseline))
    gain = found["srg"].mean() - found["random"].mean()
    assert gain >= reached, gain
    assert abs(found["random"].mean()) < 0.1
    if baseline == "blur":
        assert found["saco"].mean() > 0.3, found["saco"].mean()


def test_maps_depend_on_the_class_and_on_the_weights(cls_bed, libra):
    """By the rank correlation with the map of the other object's class, and with that of shuffled weights."""
    other = explain(cls_bed.model, cls_bed.images, cls_bed.scenes.classes[:, 1].tolist(), check=False, confirm=0)
    assert _correlation(libra, other.ranking.numpy()) <= 0.55
    generator, kept = torch.Generator().manual_seed(0), {k: v.clone() for k, v in cls_bed.model.state_dict().items()}
    try:
        with torch.no_grad():
            for parameter in cls_bed.model.parameters():
                flat = parameter.view(-1)
                flat.copy_(flat[torch.randperm(len(flat), generator=generator)])
        assert _correlation(libra, maps_of(cls_bed, "libra")[0]) <= 0.40
    finally:
        cls_bed.model.load_state_dict(kept)


def test_a_class_blind_map_points_at_the_wrong_object_as_often(cls_bed):
    at = placed(maps_of(cls_bed, "rollout")[0], cls_bed.scenes)
    assert at.disc < 0.7 and abs(at.hit - at.wrong) < 0.25, at


def test_merged_tokens_change_maps_little(cls_bed, libra):
    """Merging 4 of 64 patches a block: the order of the cells stays, and the object is still pointed at."""
    cls_bed.model.config.token_merging = 4
    try:
        merged = maps_of(cls_bed, "libra")[0]
    finally:
        cls_bed.model.config.token_merging = None
    assert not np.allclose(merged, libra) and _correlation(merged, libra) >= 0.95
    assert placed(merged, cls_bed.scenes).hit >= placed(libra, cls_bed.scenes).hit - 0.03


def test_a_tag_that_the_model_learnt_is_where_its_evidence_lies(cls_bed):
    """The corner cell of 95 % of the first class's scenes is a tag; a model is trained on these, too short for more."""
    torch.manual_seed(0)
    model, patch = ViTCustomForImageClassification(config_of("cls")), cls_bed.model.config.patch_hw[0]
    scenes = make_scenes(stamps_folder(), 1500, 48, 3000)
    inputs, labels = scenes.inputs(), scenes.labels(len(CLASSES))
    tagged = (labels[:, 0] > 0) & (torch.rand(len(labels)) < 0.95)
    inputs[tagged] = _tagged(inputs[tagged], patch)
    fit(model, inputs, labels, 4, mirrored=False)
    of_class = cls_bed.scenes.classes[:, 0] == 0
    images = _tagged(cls_bed.images[torch.from_numpy(of_class)], patch)
    learnt = probabilities(model.eval(), images) - probabilities(model, cls_bed.images[torch.from_numpy(of_class)])
    assert learnt[:, 0].mean() > 0.3, learnt[:, 0].mean()
    maps = explain(model, images, 0, check=False, confirm=0).ranking.numpy()
    shares, top = maps[:, -1, -1] / maps.sum((1, 2)), maps.reshape(len(maps), -1).argmax(1)  # of the evidence
    assert shares.mean() >= 0.45 and np.mean(top == 63) >= 0.90, (shares.mean(), np.mean(top == 63))


def _tagged(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Images with a square of stripes in the corner's cell."""
    images = images.clone()
    images[:, :, -patch:, -patch:] = torch.tensor([1.0, -1.0]).repeat(patch // 2)
    images[:, 1, -patch:, -patch:] = -1
    return images


def _correlation(maps: np.ndarray, others: np.ndarray) -> float:
    """The mean over scenes of |Spearman's rank correlation|."""
    return float(np.mean([abs(spearmanr(a.ravel(), b.ravel())[0]) for a, b in zip(maps, others, strict=True)]))
