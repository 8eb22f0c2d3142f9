"""A published, pretrained checkpoint converts, and its features are those of the library that made it."""

import json

import onnx
import onnxruntime
import pytest
import torch
from image_files import CHINA, FLOWER
from PIL import Image
from real_dinov2 import FEATURES, onnx_model, write_dinov2_folder
from transformers import BitImageProcessor, Dinov2Model

from modeling_vit_custom import ViTCustomImageProcessor, ViTCustomModel
from modeling_vit_custom.commands.convert import main

pytestmark = pytest.mark.slow

SIZES = {"native": (518, 518), "as published": (224, 224), "not square": (224, 350)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dinov2_folder(tmp_path_factory.mktemp("real") / "dinov2")


@pytest.fixture(scope="module")
def source(folder):
    model, report = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.fixture(scope="module")
def converted(folder):
    output = folder.parent / "converted"
    assert main([str(folder), str(output), "--check"]) == 0
    return output


@torch.no_grad()
def test_the_folder_holds_the_published_weights(source):
    graph = onnx_model()
    graph.graph.output.append(onnx.ValueInfoProto(name=FEATURES))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 224, 224)
    (expected,) = session.run([FEATURES], {"input_image": images.numpy()})
    torch.testing.assert_close(source(images).last_hidden_state, torch.tensor(expected), rtol=0, atol=1e-4)


def test_every_tensor_is_accounted_for(converted):
    report = json.loads((converted / "conversion.json").read_text())
    assert report["family"] == "dinov2" and report["check"]["passed"]
    assert report["notes"] == ["left out: embeddings.mask_token (the mask token only serves pre-training)"]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_features_of_photographs_and_noise_are_those_of_the_source(source, folder, converted, size):
    model = ViTCustomModel.from_pretrained(converted).eval()
    theirs, ours = BitImageProcessor.from_pretrained(folder), ViTCustomImageProcessor.from_pretrained(converted)
    shape = {"height": size[0], "width": size[1]}
    settings = {} if size == (224, 224) else {"size": shape, "do_center_crop": False}
    photographs = theirs([Image.open(CHINA), Image.open(FLOWER)], return_tensors="pt", **settings)["pixel_values"]
    pixels = ours([CHINA, FLOWER], return_tensors="pt", **settings)["pixel_values"]
    assert pixels.shape == (2, 3, *size)
    torch.testing.assert_close(pixels, photographs, rtol=0, atol=1e-6)
    for images in (photographs, torch.randn(2, 3, *size)):
        expected, actual = source(images), model(images)
        assert expected.last_hidden_state.abs().max() > 1
        torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-4)
        torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=0, atol=1e-4)


@torch.no_grad()
def test_positions_resampled_by_another_rule_are_distinguished(source, converted):
    images = torch.randn(1, 3, 224, 224)
    model = ViTCustomModel.from_pretrained(converted, position_interpolation="bicubic_antialias").eval()
    assert (model(images).last_hidden_state - source(images).last_hidden_state).abs().max() > 0.01
