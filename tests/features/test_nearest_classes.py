"""The nearest images of an index, class by class, are those of brute force."""

import numpy as np
import pytest
import torch
from real_digits import digit_image, write_class_folder
from saved_models import save_ours

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.features.index_build import build_index
from modeling_vit_custom.features.index_files import Index
from modeling_vit_custom.features.nearest_classes import ClassNeighbours, vectors_of
from modeling_vit_custom.inference.loading import load_classifier


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nearest")
    model = save_ours(folder / "model")
    images = write_class_folder(folder / "digits", {"0": 6, "1": 6, "2": 6})
    build_index(str(model), Source(images), folder / "index", progress=False)
    return model, images, Index(folder / "index")


def test_the_nearest_of_each_class_are_those_of_brute_force(made):
    model, _, index = made
    net, processor = load_classifier(str(model))
    pixels = processor([digit_image(3), digit_image(1, 9)], return_tensors="pt")["pixel_values"]
    queries = vectors_of(net, pixels)
    found = ClassNeighbours(index).nearest_of(queries, [["0", "2"], ["1", "7"]], count=2)
    labels = np.array([line["label"] for line in index.images])
    for query, names in enumerate((["0", "2"], ["1"])):
        for name in names:
            similar = index.vectors.astype(float) @ queries[query].astype(float)
            best = sorted(np.flatnonzero(labels == name), key=lambda row: -similar[row])[:2]
            assert [entry["path"] for entry in found[query][name]] == [index.images[row]["path"] for row in best]
            assert [entry["similarity"] for entry in found[query][name]] == pytest.approx(similar[best], abs=2e-6)
    assert found[1]["7"] == []


def test_an_image_is_not_its_own_neighbour(made):
    model, _, index = made
    net, processor = load_classifier(str(model))
    path = next(line["path"] for line in index.images if line["label"] == "1")
    content = next(line["content"] for line in index.images if line["path"] == path)
    queries = vectors_of(net, processor([path], return_tensors="pt")["pixel_values"])
    asked = ClassNeighbours(index)
    assert asked.nearest_of(queries, [["1"]], 1)[0]["1"][0]["path"] == path
    alone = asked.nearest_of(queries, [["1"]], 5, contents=[content])[0]["1"]
    assert len(alone) == 5 and path not in [entry["path"] for entry in alone]


def test_what_cannot_be_asked_is_refused(made, tmp_path):
    model, images, index = made
    with pytest.raises(ValueError, match=r"Give \[Q, 32\]"):
        ClassNeighbours(index).nearest_of(np.zeros((1, 5), np.float32), [["1"]])
    for number, path in enumerate(sorted(images.rglob("*.png"))[:3]):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(path.read_bytes())
    build_index(str(model), Source(tmp_path / "flat"), tmp_path / "index", progress=False)
    with pytest.raises(DataError, match="has no classes"):
        ClassNeighbours(Index(tmp_path / "index"))


def test_a_vector_without_a_direction_is_refused(made):
    net, _ = load_classifier(str(made[0]))
    with pytest.raises(ValueError, match="image 1: the model's vector is zero, NaN or infinite"):
        vectors_of(net, torch.stack([torch.zeros(1, 24, 32), torch.full((1, 24, 32), torch.nan)]))
