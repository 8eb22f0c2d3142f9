"""`--check` is sharp: it fails if any one tensor or any one setting of the preprocessing is wrong, and passes
otherwise."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
from conversion_sources import SOURCES, randomised

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.check import compare, compare_pixels, compare_tensors
from modeling_vit_custom.conversion.sources import from_timm


@pytest.fixture(scope="module", params=SOURCES)
def checked(request, tmp_path_factory):
    """Return (name, reference that caches its answers, conversion)."""
    opened = SOURCES[request.param](tmp_path_factory.mktemp("source"))
    made = build(opened.source, opened.family)
    reference = opened.reference(made)
    run = cache(lambda key: reference.run(key.images))
    return request.param, replace(reference, run=lambda images: run(_Key(images))), made


class _Key:
    """Images that count as equal if their shape and sum are equal."""

    def __init__(self, images: torch.Tensor):
        self.images, self.key = images, (tuple(images.shape), float(images.double().sum()))

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)


def passes(reference, model) -> bool:
    """Compare at the model's own size only; the check itself also wants two other sizes to agree."""
    return all(row["passed"] for row in compare_tensors(replace(reference, only_size="one is enough"), model))


def test_source_and_conversion_agree_from_tensors_and_from_pixels(checked):
    _, reference, made = checked
    report = compare(reference, made.model, made.processor)
    assert report["passed"] and report["reference"] == reference.by
    assert [row["size"] for row in report["from_tensors"]] == [[32, 32], [48, 48], [24, 56]]
    for row in report["from_tensors"]:
        assert row["logit"]["relative"] < 1e-5 and row["feature"]["relative"] < 1e-5 and row["top1"] == 1.0
    pixels = report["from_pixels"]
    assert pixels["size"] == [32, 32] and pixels["grey_levels"] <= 1.01 and pixels["logit"]["relative"] < 0.1


# Tensors that no output depends on: softmax ignores a constant added to all keys of a query.
UNSEEN = {
    "timm": {"vit.layers.0.attention.k_norm.bias"},
    "transformers": {f"vit.layers.{i}.attention.k_proj.bias" for i in range(2)},
    "google": {"vit.layers.0.attention.k_proj.bias"},
    "big_vision": {f"vit.layers.{i}.attention.k_proj.bias" for i in range(2)},
    "meta": {f"vit.layers.{i}.attention.k_proj.bias" for i in range(3)},
    "torchvision": {f"vit.layers.{i}.attention.k_proj.bias" for i in range(2)},
}


def test_any_one_tensor_that_is_wrong_fails_the_check(checked):
    name, reference, made = checked
    unseen = set()
    for key, parameter in made.model.named_parameters():
        kept = parameter.data.clone()
        parameter.data.add_(torch.randn_like(kept) * 0.05)
        if passes(reference, made.model):
            unseen.add(key)
        parameter.data.copy_(kept)
    assert unseen == UNSEEN[name]
    assert passes(reference, made.model)


def test_any_square_matrix_that_is_transposed_fails_the_check(checked):
    _, reference, made = checked
    square = {
        key: parameter
        for key, parameter in made.model.named_parameters()
        if parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1]
    }
    assert len(square) >= 4  # q, k, v and the output of a block
    for key, parameter in square.items():
        parameter.data = parameter.data.T
        assert not passes(reference, made.model), key
        parameter.data = parameter.data.T
    assert passes(reference, made.model)


def test_any_two_neighbours_of_one_shape_that_are_swapped_fail_the_check(checked):
    _, reference, made = checked
    by_shape: dict[tuple[int, ...], list[str]] = {}
    parameters = dict(made.model.named_parameters())
    for key, parameter in parameters.items():
        by_shape.setdefault(tuple(parameter.shape), []).append(key)
    pairs = [pair for keys in by_shape.values() for pair in pairwise(keys)]
    assert len(pairs) > 10
    for one, other in pairs:
        first, second = parameters[one], parameters[other]
        first.data, second.data = second.data, first.data
        assert not passes(reference, made.model), (one, other)
        first.data, second.data = second.data, first.data
    assert passes(reference, made.model)


def crops(processor) -> bool:
    return bool(processor.do_center_crop)


# what is wrong: (applies to this processor, the wrong settings)
WRONG = {
    "mean": (lambda p: True, lambda p: {"image_mean": [p.image_mean[0] + 0.01, *p.image_mean[1:]]}),
    "std": (lambda p: True, lambda p: {"image_std": [*p.image_std[:2], p.image_std[2] * 1.05]}),
    "order of the means": (
        lambda p: len(set(p.image_mean)) > 1,
        lambda p: {"image_mean": [*p.image_mean[1:], p.image_mean[0]]},
    ),
    "resample": (lambda p: True, lambda p: {"resample": 3 if p.resample == 2 else 2}),
    "antialias": (lambda p: p.resample != 4, lambda p: {"antialias": not p.antialias}),
    "crop fraction": (crops, lambda p: {"size": {"shortest_edge": p.size.shortest_edge + 1}}),
    "rounding": (crops, lambda p: {"rounding": "round_crop" if p.rounding != "round_crop" else "floor"}),
    "size": (lambda p: True, lambda p: {"size": {"height": 33, "width": 33}, "do_center_crop": False}),
}


def test_any_wrong_setting_of_the_processor_fails_the_check(checked):
    _, reference, made = checked
    right, tried = made.processor, []
    settings = {name: value for name, value in right.to_dict().items() if name != "auto_map"}
    for what, (matters, change) in WRONG.items():
        if matters(right):
            wrong = type(right)(**{**settings, **change(right)})
            assert not compare_pixels(reference, made.model, wrong)["passed"], what
            tried.append(what)
    assert len(tried) >= 5
    assert compare_pixels(reference, made.model, type(right)(**settings))["passed"]


def test_swapped_channels_fail_the_check(checked):
    _, reference, made = checked

    class Swapped:
        do_normalize, image_std = made.processor.do_normalize, made.processor.image_std

        def __call__(self, pictures, **kwargs):
            return {"pixel_values": made.processor(pictures, **kwargs)["pixel_values"][:, [2, 1, 0]]}

    assert not compare_pixels(reference, made.model, Swapped())["passed"]


def test_a_model_in_float64_is_not_rounded_by_its_check(tmp_path):
    opened = SOURCES["google"](tmp_path)
    made = build(opened.source, opened.family)
    kept = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    assert compare(opened.reference(made), made.model, made.processor)["passed"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in made.model.state_dict().items())
    assert made.model.dtype == torch.float64


def test_a_size_of_no_whole_patches_is_checked_as_well():
    """The case of SigLIP's 384 pixels in patches of 14."""
    model = timm.create_model(
        "vit_base_patch16_siglip_224", embed_dim=32, depth=1, num_heads=4, num_classes=5, img_size=37, patch_size=8,
        dynamic_img_size=True,
    )  # fmt: skip
    opened = from_timm(randomised(model), "timm:tiny", {})
    made = build(opened.source, opened.family)
    report = compare(opened.reference(made), made.model, made.processor)
    assert report["passed"] and report["from_tensors"][0]["size"] == [37, 37]


def test_a_conversion_that_lacks_what_the_source_gives_is_no_pass(checked):
    _, reference, made = checked
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_tensors(reference, made.model.vit)
