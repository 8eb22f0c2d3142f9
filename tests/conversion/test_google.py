"""Google's .npz files with random arrays give the numbers of the flax models that write them."""

import numpy as np
import pytest
import timm
import torch
from flax_vit import NEW, Spec, forward, from_bfloat16, random_arrays, stored, to_bfloat16
from timm.models.vision_transformer import _load_weights

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.check import compare
from modeling_vit_custom.conversion.engine import ConversionError, read, write
from modeling_vit_custom.conversion.family import Source, detect
from modeling_vit_custom.conversion.google import FAMILIES, read_npz, reference_of, table

BIG_VISION = {"names": NEW, "positions": "pos_embedding", "cls_in_positions": False}
TEXT_TOWER = {"params/txt/Embed_0/embedding": np.ones((4, 3)), "params/t": np.ones(1), "params/b": np.ones(1)}
OTHERS = ("params/", "opt/", "extra/", "chrono/")
OPTIMISER = {"opt/state/param_states/head/bias/momentum": np.ones(5)}
TRAINING = {
    "opt/1/0/mu/embedding/kernel": np.full((8, 8, 3, 32), np.nan), "opt/0/count": np.ones((), np.int32),
    "opt/1/0/nu/img/Transformer/encoderblock_0/LayerNorm_0/scale": np.ones(32, "V2"),
    "opt/1/0/mu/Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel": np.ones((32, 1)),
    "extra/chrono/accum_train_time": np.ones(()), "extra/note": np.array("of no number"),
    "chrono/accum_pause": np.ones(()),
}  # fmt: skip
# name: (variant, how it is stored, other arrays in the file); the family is the name up to the slash
MODELS = {
    "vision_transformer/in21k, pre-logits": (Spec(pre_logits=24), {}, {}),
    "vision_transformer/augreg": (Spec(), {}, {}),
    "vision_transformer/optimiser": (Spec(), {"prefix": "opt/target/"}, OPTIMISER),
    "vision_transformer/gap": (Spec(pool="mean"), {}, {}),
    "vision_transformer/headless": (Spec(classes=0), {}, {}),
    "big_vision/tok": (Spec(**BIG_VISION), {"prefix": "params/"}, {}),
    "big_vision/gap, pre-logits": (Spec(**BIG_VISION, pool="mean", pre_logits=24), {"prefix": "params/"}, {}),
    "big_vision/sincos": (Spec(names=NEW, positions="", pool="mean"), {"prefix": "params/"}, {}),
    "big_vision/siglip": (Spec(**BIG_VISION, pool="map", classes=0), {"prefix": "params/img/"}, TEXT_TOWER),
    "big_vision/scanned, lit": (Spec(**BIG_VISION), {"prefix": "params/img/", "scanned": True}, TEXT_TOWER),
    "big_vision/training": (Spec(**BIG_VISION), {"prefix": "params/"}, TRAINING),
    "big_vision/training, siglip": (Spec(**BIG_VISION, pool="map", classes=0), {"prefix": "params/img/"}, TRAINING),
    "big_vision/bfloat16": (Spec(**BIG_VISION, pool="map"), {"prefix": "params/", "bfloat16": True}, {}),
    "big_vision/class position in the encoder": (Spec(NEW, "Transformer/pos_embedding"), {}, {}),
    "big_vision/re-saved vision_transformer": (Spec(names=NEW), {}, {}),
}


def save(path, spec: Spec, layout: dict, others: dict):
    """Save a file; return (its path, its arrays as the reference takes them)."""
    arrays = random_arrays(spec)
    np.savez(path, **others, **stored(arrays, **layout))
    if layout.get("bfloat16"):
        arrays = {name: from_bfloat16(to_bfloat16(array)) for name, array in arrays.items()}
    return path, arrays


def convert(path, **flags):
    state = read_npz(path)
    source = Source(str(path), state, flags=flags)
    return build(source, detect(FAMILIES, state))


@torch.no_grad()
def difference(model, images: torch.Tensor, expected: np.ndarray) -> float:
    output = model.double()(images)
    actual = output.logits if "logits" in output else output.pooler_output
    assert actual.shape == expected.shape
    return float((actual - torch.from_numpy(expected)).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_converted_equals_source_in_float64(name, tmp_path):
    spec, layout, others = MODELS[name]
    path, arrays = save(tmp_path / "model.npz", spec, layout, others)
    sizes = (
        (spec.side, spec.side),
        (spec.side + 2 * spec.patch,) * 2,
        (spec.side + spec.patch, spec.side - spec.patch),
    )
    flags = {} if spec.positions else {"image_size": spec.side}
    conversion = convert(path, **flags)
    assert conversion.family.name == name.split("/")[0]
    worst = 0.0
    for height, width in sizes:
        images = torch.randn(1 if spec.depth == 12 else 2, 3, height, width, dtype=torch.float64)
        expected = forward(spec, arrays, images.permute(0, 2, 3, 1).numpy())
        worst = max(worst, difference(conversion.model, images, expected))
    print(f"{name}: {worst:.1e}")
    assert worst <= 1e-9


@torch.no_grad()
def test_positions_that_no_file_holds_are_computed_at_every_size_unless_flags_say_otherwise(tmp_path):
    path, arrays = save(tmp_path / "model.npz", *MODELS["big_vision/sincos"])
    computed = convert(path, image_size=32)
    resampled = convert(path, image_size=32, position_interpolation="bilinear_align_corners")
    said = {}
    for name, made in (("computed", computed), ("resampled", resampled)):
        reference = reference_of(path, made.model.config, "big_vision")
        report = compare(reference, made.model, made.processor)
        assert report["passed"], report
        said[name] = report["notes"]
    assert not said["computed"] and "computed again for each size there, and resampled here" in said["resampled"][0]
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    expected = forward(MODELS["big_vision/sincos"][0], arrays, images.permute(0, 2, 3, 1).numpy())
    same, apart = (difference(made.model, images, expected) / abs(expected).max() for made in (computed, resampled))
    print(f"computed {same:.1e}, resampled {apart:.1e} of the largest logit")
    assert same <= 1e-9 and apart > 0.01


@pytest.mark.parametrize("name", [name for name in MODELS if "full" not in name])
def test_round_trips_are_bit_equal(name, tmp_path):
    spec, layout, others = MODELS[name]
    path, arrays = save(tmp_path / "model.npz", spec, layout, others)
    model = convert(path, **({} if spec.positions else {"image_size": spec.side})).model
    state, back = read_npz(path), table(spec.heads)
    ours = {name if spec.classes else f"vit.{name}": tensor for name, tensor in model.state_dict().items()}
    if not spec.positions:
        del ours["vit.embeddings.position_embeddings"]  # computed, not in the file
    needed = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith(OTHERS)}
    theirs = write(back, ours, needed)
    again, _ = read(back, theirs)
    assert again.keys() == ours.keys() and all(torch.equal(again[name], ours[name]) for name in ours)
    written = {
        spec.positions if name.endswith("pos_embedding") else name: tensor.double().numpy()
        for name, tensor in theirs.items()
    }
    images = np.random.default_rng(0).standard_normal((2, spec.side, spec.side, 3))
    expected, actual = (forward(spec, each, images) for each in (arrays, written))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


NO_CLASS = {"class_token": False, "fc_norm": False}
TIMM = {
    "cls": (Spec(), {}, {}),
    "gap": (Spec(**BIG_VISION, pool="mean"), {"prefix": "params/"}, {**NO_CLASS, "global_pool": "avg"}),
    "map": (Spec(**BIG_VISION, pool="map"), {"scanned": True}, {**NO_CLASS, "global_pool": "map"}),
}


@pytest.mark.parametrize("gelu", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_equals_timm_reading_the_same_file(name, gelu, tmp_path):
    spec, layout, options = TIMM[name]
    path, _ = save(tmp_path / "model.npz", spec, layout, {})
    reference = timm.models.VisionTransformer(
        img_size=spec.side, patch_size=spec.patch, embed_dim=spec.width, depth=spec.depth, num_heads=spec.heads,
        mlp_ratio=spec.mlp / spec.width, num_classes=spec.classes, act_layer=gelu, **options,
    ).eval().double()  # fmt: skip
    _load_weights(reference, str(path))
    images = torch.randn(2, 3, spec.side, spec.side, dtype=torch.float64)
    flags = {"hidden_act": "gelu"} if gelu == "gelu" else {}
    assert difference(convert(path, **flags).model, images, reference(images).numpy()) <= 1e-9


@torch.no_grad()
@pytest.mark.parametrize("name", ["vision_transformer/in21k, pre-logits", "big_vision/siglip", "big_vision/tok"])
def test_no_array_can_change_unseen(name, tmp_path):
    spec, layout, _ = MODELS[name]
    state = read_npz(save(tmp_path / "model.npz", spec, layout, {})[0])
    images = torch.randn(2, 3, spec.side, spec.side, dtype=torch.float64)

    def output(state):
        result = build(Source("file", state), detect(FAMILIES, state)).model(images)
        return result.logits if "logits" in result else result.pooler_output

    expected = output(state)
    for key, tensor in state.items():
        difference = output(state | {key: tensor + 0.1 * torch.randn_like(tensor)}) - expected
        # softmax ignores a bias of the keys
        assert (difference.abs().max() > 1e-6) == (not key.endswith("/key/bias")), key


def test_pixels_beyond_the_last_patch_are_dropped_as_by_the_source(tmp_path):
    path, arrays = save(tmp_path / "model.npz", Spec(**BIG_VISION, pool="map"), {}, {})
    conversion = convert(path, image_size=37)
    assert conversion.processor.size.height == 37 and conversion.model.config.grid_hw == (4, 4)
    images = torch.randn(2, 3, 37, 37, dtype=torch.float64)
    seen = images[:, :, :32, :32].permute(0, 2, 3, 1).numpy()
    expected = forward(Spec(**BIG_VISION, pool="map"), arrays, seen)
    assert difference(conversion.model, images, expected) <= 1e-9
    with pytest.raises(ConversionError, match="position_embeddings"):
        convert(path, image_size=48)


def test_the_choice_of_gelu_is_said_and_a_flag_changes_it(tmp_path):
    path, arrays = save(tmp_path / "model.npz", Spec(), {}, {})
    notes = convert(path).notes
    assert any("gelu_pytorch_tanh" in note for note in notes) and any("--hidden_act gelu" in note for note in notes)
    exact = convert(path, hidden_act="gelu")
    assert not any("hidden_act" in note for note in exact.notes)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = forward(Spec(), arrays, images.permute(0, 2, 3, 1).numpy(), exact_gelu=True)
    assert difference(exact.model, images, expected) <= 1e-9


def test_preprocessing_follows_the_library(tmp_path):
    old = convert(save(tmp_path / "old.npz", Spec(), {}, {})[0]).processor
    assert not old.do_center_crop and dict(old.size) == {"height": 32, "width": 32}
    new = convert(save(tmp_path / "new.npz", Spec(**BIG_VISION), {}, {})[0]).processor
    assert new.do_center_crop and new.size.shortest_edge == 37 and new.crop_size.height == 32
    siglip = convert(save(tmp_path / "siglip.npz", Spec(**BIG_VISION, pool="map"), {}, {})[0]).processor
    assert not siglip.do_center_crop
    for processor in (old, new, siglip):
        assert list(processor.image_mean) == list(processor.image_std) == [0.5] * 3
    assert (old.resample, old.antialias) == (siglip.resample, siglip.antialias) == (2, False)
    assert (new.resample, new.rounding) == (4, "round_edge")  # 4 is area


def test_a_layer_before_a_head_that_is_missing_is_kept(tmp_path):
    spec = Spec(pre_logits=24, classes=0)
    path, arrays = save(tmp_path / "model.npz", spec, {}, {})
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = forward(spec, arrays, images.permute(0, 2, 3, 1).numpy())
    assert expected.shape == (2, 24) and difference(convert(path).model, images, expected) <= 1e-9


def test_nothing_is_lost_unsaid(tmp_path):
    path, _ = save(tmp_path / "model.npz", *MODELS["big_vision/siglip"])
    left_out = " ".join(convert(path).notes)
    assert all(name in left_out for name in ("params/txt/Embed_0/embedding", "params/t", "params/b"))
    path, _ = save(tmp_path / "training.npz", *MODELS["big_vision/training"])
    left_out = " ".join(convert(path).notes)
    assert all(why in left_out for why in ("the optimiser's state", "training's clock", "of the training"))
    path, _ = save(tmp_path / "extra.npz", Spec(), {}, {"Transformer/encoderblock_1/adapter/kernel": np.ones(3)})
    with pytest.raises(ConversionError, match=r"left over.*encoderblock_1/adapter/kernel"):
        convert(path)


REFUSED = {
    "conv_root/kernel": (np.ones((7, 7, 3, 8)), "ResNet"),
    "block1/unit1/conv1/kernel": (np.ones((1, 1, 8, 8)), "ResNet"),
    "MixerBlock_0/LayerNorm_0/scale": (np.ones(8), "Mixer"),
    "embedding/kernel": (np.ones((192, 32)), "NaFlex"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_what_is_no_plain_vit_is_refused_by_name(name, prefix, tmp_path):
    array, what = REFUSED[name]
    np.savez(tmp_path / "model.npz", **stored({**random_arrays(Spec()), name: array}, prefix))
    with pytest.raises(ConversionError, match=what):
        read_npz(tmp_path / "model.npz")


def test_missing_arrays_and_sizes_are_asked_for(tmp_path):
    arrays = random_arrays(Spec())
    del arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"]
    np.savez(tmp_path / "missing.npz", **arrays)
    with pytest.raises(ConversionError, match=r"missing: vit\.layers\.1\.mlp\.fc1\.weight"):
        convert(tmp_path / "missing.npz")
    path, _ = save(tmp_path / "sincos.npz", Spec(names=NEW, positions="", pool="mean"), {}, {})
    with pytest.raises(ConversionError, match="--image_size"):
        convert(path)


def test_a_transposed_kernel_is_caught_where_shapes_tell_and_numbers_where_not(tmp_path):
    arrays = random_arrays(Spec())
    name = "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"
    np.savez(tmp_path / "model.npz", **{**arrays, name: arrays[name].T})
    with pytest.raises(ConversionError, match=r"mlp\.fc1\.weight"):
        convert(tmp_path / "model.npz")


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_pickled_truncated_and_absent_files_are_refused_unopened(tmp_path, capsys):
    np.savez(tmp_path / "pickled.npz", **{"embedding/kernel": np.array([Harmful()], dtype=object)}, allow_pickle=True)
    whole, _ = save(tmp_path / "whole.npz", Spec(), {}, {})
    (tmp_path / "truncated.npz").write_bytes(whole.read_bytes()[:-1000])
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.save(tmp_path / "one.npy", np.ones(3))
    for name in ("pickled.npz", "truncated.npz", "flipped.npz", "one.npy", "absent.npz"):
        with pytest.raises(ConversionError, match=name):
            read_npz(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_every_tensor_of_the_model_is_its_own_and_contiguous(tmp_path):
    state = convert(save(tmp_path / "model.npz", Spec(), {}, {})[0]).model.state_dict()
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)
    assert all(tensor.is_contiguous() for tensor in state.values())
