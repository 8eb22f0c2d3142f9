"""`convert --to`: the other library loads the result, gives our numbers, and it converts back bit for bit."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomImageProcessor,
    ViTCustomModel,
)
from modeling_vit_custom.commands.convert import main
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.conversion.export import LIBRARIES, compare, export
from modeling_vit_custom.conversion.target import choose

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8, "id2label": {0: "ant", 1: "bee", 2: "cat"},
}  # fmt: skip
ENCODER = {"id2label": {}, "num_labels": 0}
NO_CLASS = {"use_cls_token": False, "pooling": "mean"}
REGISTERS = {"num_register_tokens": 2, "position_interpolation": "bicubic_antialias"}
GATED = {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 48}
DINOV2 = {"layer_scale_init_value": 0.5, "pooling": "cls_mean"}
DINOV3 = {
    **ENCODER, "layer_scale_init_value": 0.5, "rope_theta": 50, "position_embedding": "none", "num_register_tokens": 2,
}  # fmt: skip
CLIP = {"embedding_norm": True, "final_norm": "pooled", "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
DROPOUTS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
# name: the class that transformers' Auto class must choose, our fields, the kind to ask for if it is not the default
HF = {
    "vit": ("ViTForImageClassification", {**DROPOUTS, "layer_norm_eps": 1e-12}),
    "vit, oblong": ("ViTForImageClassification", {"image_size": (24, 40), "patch_size": (4, 8), "qkv_bias": False}),
    "vit, grey": ("ViTForImageClassification", {"num_channels": 1, "problem_type": "multi_label_classification"}),
    "vit, encoder": ("ViTModel", ENCODER),
    "deit": ("DeiTForImageClassification", {"num_register_tokens": 1}),
    "deit, encoder": ("DeiTModel", {**ENCODER, "num_register_tokens": 1}),
    "deit, two heads": (
        "DeiTForImageClassificationWithTeacher", {"num_register_tokens": 1, "pooling": "cls_register"},
    ),
    "ijepa": ("IJepaForImageClassification", NO_CLASS),
    "ijepa, encoder": ("IJepaModel", {**NO_CLASS, **ENCODER}),
    "dinov2": ("Dinov2ForImageClassification", {**DINOV2, "drop_path_rate": 0.1, "hidden_act": "relu"}),
    "dinov2, encoder": ("Dinov2Model", {**DINOV2, **ENCODER, **GATED, "pooling": "cls"}),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", {**DINOV2, **REGISTERS}),
    "dinov2_with_registers, encoder": (
        "Dinov2WithRegistersModel", {**DINOV2, **REGISTERS, **ENCODER, "pooling": "cls"},
    ),
    "dinov3_vit": ("DINOv3ViTModel", {**DINOV3, "attention_probs_dropout_prob": 0.1}),
    "dinov3_vit, gated": ("DINOv3ViTModel", {**DINOV3, **GATED, "num_register_tokens": 0, "qkv_bias": False}),
    "clip": ("CLIPVisionModel", {**CLIP, **ENCODER, "attention_probs_dropout_prob": 0.1}),
    "clip, classifier": ("CLIPForImageClassification", {**CLIP, "pooling": "mean", "final_norm": "none"}),
    "siglip": ("SiglipVisionModel", {**NO_CLASS, **ENCODER, "pooling": "map", "hidden_act": "gelu_pytorch_tanh"}),
    "siglip, classifier": (
        "SiglipForImageClassification", {**NO_CLASS, "problem_type": "multi_label_classification"},
        "siglip, classifier",
    ),
}  # fmt: skip
ROTARY = {"rope_theta": 50.0, "position_embedding": "none"}
SCALE = {"layer_scale_init_value": 1.0}
TIMM = {
    "vit": ("VisionTransformer", {}),
    "vit, eps 1e-5": ("VisionTransformer", {"layer_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh"}),
    "vit, oblong": ("VisionTransformer", {"image_size": (24, 40), "patch_size": (4, 8), "qkv_bias": False}),
    "vit, grey": ("VisionTransformer", {"num_channels": 1, "intermediate_size": 41, "hidden_act": "relu"}),
    "vit, encoder": ("VisionTransformer", {**ENCODER, "final_norm": "none", "use_qk_norm": True}),
    "vit, gap": ("VisionTransformer", {**NO_CLASS, **SCALE, "num_register_tokens": 2}),
    "vit, fc_norm": ("VisionTransformer", {"pooling": "mean", "final_norm": "pooled", "num_register_tokens": 3}),
    "vit, no positions": ("VisionTransformer", {"position_embedding": "none", "hidden_act": "silu"}),
    "vit, map": ("VisionTransformer", {"pooling": "map", "num_register_tokens": 1, "final_norm": "pooled"}),
    "vit, pre-norm": ("VisionTransformer", {**CLIP, "final_norm": "tokens"}),
    "gated": ("VisionTransformer", {**GATED, **SCALE}),
    "distilled": ("VisionTransformerDistilled", {"pooling": "cls_register", "num_register_tokens": 1}),
    "eva": ("Eva", {**ROTARY, "num_register_tokens": 2}),
    "eva, learned": ("Eva", {**ROTARY, **GATED, "position_embedding": "learned", "pooling": "mean"}),
    "eva, map": ("Eva", {**ROTARY, **NO_CLASS, "pooling": "map", "final_norm": "none"}),
    "eva, qk norm": ("Eva", {**ROTARY, "use_qk_norm": True}),
    "dinov3": ("Eva", {**ROTARY, **SCALE, **ENCODER, "layer_norm_eps": 1e-5, "embedding_norm": True}),
    "dinov3, gated": ("Eva", {**ROTARY, **SCALE, **GATED, "layer_norm_eps": 1e-5, "final_norm": "pooled"}),
}


def random_ours(fields: dict, dtype: torch.dtype = torch.float32):
    """Build a model with random parameters; biases that its targets lack are zero."""
    config = ViTCustomConfig(**{**TINY, "position_interpolation": "bicubic", **fields})
    torch.manual_seed(0)
    model = (ViTCustomForImageClassification if config.num_labels else ViTCustomModel)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
            no_patch_bias = config.embedding_norm and name.endswith("projection.bias")
            no_key_bias = config.rope_theta and "layers" in name and name.endswith("k_proj.bias")
            if no_patch_bias or no_key_bias:
                parameter.zero_()
    return model.to(dtype)


def save_ours(folder, fields: dict, dtype: torch.dtype = torch.float32, **processing):
    model = random_ours(fields, dtype)
    model.save_pretrained(folder)
    ViTCustomImageProcessor.for_model(model.config, **processing).save_pretrained(folder)
    return model


def crop(resized: int, side: int = 32, **others) -> dict:
    sides = {"height": side, "width": side}
    return {"size": {"shortest_edge": resized}, "do_center_crop": True, "crop_size": sides, **others}


def same_folders(ours, back):
    """Check that tensors, configuration and image processor of two of our folders are the same."""
    expected, actual = (load_file(folder / "model.safetensors") for folder in (ours, back))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    for name in ("config.json", "preprocessor_config.json"):
        assert json.loads((back / name).read_text()) == json.loads((ours / name).read_text())


@torch.no_grad()
@pytest.mark.parametrize("name", HF)
def test_transformers_loads_what_is_written_and_it_comes_back(name, tmp_path, caplog):
    cls, fields, *family = HF[name]
    model = save_ours(tmp_path / "ours", fields)
    report = export(tmp_path / "ours", tmp_path / "theirs", "hf", *family)
    assert report["check"]["passed"]
    auto = transformers.AutoModelForImageClassification if model.config.num_labels else transformers.AutoModel
    if cls.endswith("WithTeacher"):
        auto = transformers.DeiTForImageClassificationWithTeacher
    theirs, info = auto.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert type(theirs).__name__ == cls and not any(info.values())
    images = torch.randn(2, model.config.num_channels, *model.config.image_hw)
    actual, expected = theirs.eval()(images), model(images)
    keys = [key for key in ("logits", "last_hidden_state", "pooler_output") if key in actual and key in expected]
    assert keys == (["logits"] if model.config.num_labels else keys) and keys
    for key in keys:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-5, atol=1e-5)
    convert(str(tmp_path / "theirs"), tmp_path / "back", {})
    same_folders(tmp_path / "ours", tmp_path / "back")


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM)
def test_timm_loads_what_is_written_and_it_comes_back(name, tmp_path):
    cls, fields = TIMM[name]
    side = max(fields.get("image_size", (32,)))
    processing = {"resample": 3, "image_mean": 0.4}
    if "oblong" not in name:
        processing = crop(side * 2 - 7, side) | {"rounding": "round_crop"}
    model = save_ours(tmp_path / "ours", {"position_interpolation": "bicubic_antialias", **fields}, **processing)
    report = export(tmp_path / "ours", tmp_path / "theirs", "timm")
    assert report["check"]["passed"]
    theirs = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True).eval()
    assert type(theirs).__name__ == cls
    images = torch.randn(2, model.config.num_channels, *model.config.image_hw)
    output = model(images)
    expected = output.logits if model.config.num_labels else output.pooler_output
    torch.testing.assert_close(theirs(images), expected, rtol=1e-5, atol=1e-5)
    if not model.config.num_labels:
        torch.testing.assert_close(theirs.forward_features(images), output.last_hidden_state, rtol=1e-5, atol=1e-5)
    convert(f"timm:local-dir:{tmp_path / 'theirs'}", tmp_path / "back", {})
    same_folders(tmp_path / "ours", tmp_path / "back")


# library, fields that it cannot express, pattern of the message
REFUSED = [
    ("hf", {"stem": "conv"}, "The closest: vit has no place for stem='conv' .only 'patch'"),
    ("hf", {"use_qk_norm": True}, "use_qk_norm=True"),
    ("hf", {"pre_logits_size": 16}, "pre_logits_size=16"),
    ("hf", {"use_gated_mlp": True}, "use_gated_mlp=True"),
    ("hf", {"pooling": "mean"}, "pooling='mean'"),
    ("hf", {"num_register_tokens": 4}, "num_register_tokens=4"),
    ("hf", {"embedding_norm": True}, "embedding_norm=True"),
    ("hf", {"rope_theta": 100.0}, "rope_theta=100.0"),
    ("hf", {"position_embedding": "none"}, "position_embedding='none'"),
    ("hf", {"layer_scale_init_value": 0.1}, "layer_scale_init_value=0.1"),
    ("hf", {"final_norm": "pooled"}, "final_norm='pooled'"),
    ("hf", {"rope_theta": 9.0, "position_embedding": "none", "layer_scale_init_value": 1.0}, "num_labels=3 .only 0"),
    ("hf", {**DINOV3, "position_embedding": "learned"}, "position_embedding='learned'"),
    ("hf", {**DINOV2, "image_size": (32, 40)}, r"image_size=\(32, 40\) .only a square"),
    ("hf", {**DINOV2, "intermediate_size": 48}, "intermediate_size=48"),
    ("hf", {**DINOV2, **GATED, "hidden_act": "gelu"}, "hidden_act='gelu' .only 'silu'"),
    ("hf", {**CLIP, **ENCODER, "patch_size": (4, 8)}, r"patch_size=\(4, 8\)"),
    ("hf", {**CLIP, **ENCODER, "qkv_bias": False}, "qkv_bias=False"),
    ("timm", {"stem": "conv"}, "The closest: VisionTransformer has no place for stem='conv'"),
    ("timm", {"pre_logits_size": 16}, "pre_logits_size=16"),
    ("timm", {"layer_norm_eps": 1e-12}, "layer_norm_eps=1e-12 .only 1e-06 or 1e-05"),
    ("timm", {"hidden_act": "gelu_new"}, "hidden_act='gelu_new'"),
    ("timm", {"pooling": "cls_mean"}, "pooling='cls_mean'"),
    ("timm", {"pooling": "map", "use_qk_norm": True}, "pooling='map'"),
    ("timm", GATED, "layer_scale_init_value=None"),
    ("timm", {"pooling": "cls_register", "num_register_tokens": 2}, "num_register_tokens=2"),
    ("timm", {**ROTARY, "layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
    ("timm", {**ROTARY, "pooling": "map"}, "pooling='map'"),
    ("timm", {**ROTARY, "hidden_act": "relu"}, "hidden_act='relu'"),
]  # fmt: skip


@pytest.mark.parametrize(("library", "fields", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_cannot_be_expressed_is_named(library, fields, message):
    with pytest.raises(ConversionError, match=message):
        choose(LIBRARIES[library], ViTCustomConfig(**{**TINY, **fields}))


@pytest.mark.parametrize(("library", "kind"), [("hf", "vit"), ("timm", "VisionTransformer")])
def test_the_variants_at_their_own_size(library, kind, tmp_path):
    """The classical variants convert to any library; those for small images have a convolutional stem, which only ours
    has."""
    few = {"num_hidden_layers": 2, "num_labels": 3}
    save_ours(tmp_path / "ours", {**ViTCustomConfig.from_variant("ti/16", **few).to_dict(), "id2label": None, **few})
    report = export(tmp_path / "ours", tmp_path / "theirs", library)
    assert report["family"].startswith(f"{kind} (") and report["image_size"] == [224, 224]
    with pytest.raises(ConversionError, match=r"has no place for stem='conv' \(only 'patch'\)\.$"):
        choose(LIBRARIES[library], ViTCustomConfig.from_variant("nano/8"))


def test_a_kind_of_model_may_be_asked_for():
    config = ViTCustomConfig(**TINY)
    with pytest.raises(ConversionError, match=r"^deit has no place for num_register_tokens=0 \(only 1\)"):
        choose(LIBRARIES["hf"], config, "deit")
    for library in LIBRARIES:
        with pytest.raises(ConversionError, match="--family resnet is unknown; known are"):
            choose(LIBRARIES[library], config, "resnet")


@pytest.mark.parametrize("library", LIBRARIES)
def test_biases_without_a_place_must_be_zero(library, tmp_path):
    model = random_ours({**CLIP, **ENCODER})
    torch.nn.init.ones_(model.embeddings.patch_embeddings.projection.bias)
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match=r"patch_embeddings.projection.bias \(only zeros\)"):
        export(tmp_path / "ours", tmp_path / "out.safetensors", library)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_matters_elsewhere_is_a_note(library, tmp_path):
    fields = {"position_embedding": "sincos2d", "position_interpolation": "computed", "drop_path_rate": 0.1}
    save_ours(tmp_path / "ours", {**fields, "num_channels": 1}, background_color=(0, 0, 0))
    notes = export(tmp_path / "ours", tmp_path / "theirs", library)["notes"]
    for said in (
        *(f"{name}={value!r}: " for name, value in fields.items()),
        "num_channels=1",
        "background_color=[0, 0",
    ):
        assert any(said in note for note in notes), said


@pytest.mark.parametrize(("library", "name"), [("hf", "vit"), ("hf", "dinov3_vit"), ("timm", "vit, map")])
def test_any_one_tensor_that_is_wrong_fails_the_check(library, name):
    fields = {"hf": HF, "timm": TIMM}[library][name][1]
    model = random_ours(fields)
    prefix = "" if model.config.num_labels else "vit."
    tensors = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    exported = choose(LIBRARIES[library], model.config).build(model.config, tensors, None)
    assert compare(exported, model)["passed"]
    for key, parameter in exported.model.named_parameters():
        kept = parameter.data.clone()
        parameter.data = kept + torch.randn_like(kept) * 0.05
        invisible = key.endswith(("k_proj.bias", "mask_token"))  # softmax cancels the biases; the mask token is unused
        assert compare(exported, model)["passed"] == invisible, key
        parameter.data = kept


def test_nothing_is_written_where_the_outputs_differ(tmp_path, monkeypatch):
    from modeling_vit_custom.conversion import export_huggingface

    save_ours(tmp_path / "ours", {})
    right = export_huggingface.write
    monkeypatch.setattr(
        export_huggingface,
        "write",
        lambda *args: {name: tensor + 0.01 * ("fc1" in name) for name, tensor in right(*args).items()},
    )
    with pytest.raises(ConversionError, match="vit gives other numbers than this model"):
        export(tmp_path / "ours", tmp_path / "theirs", "hf")
    assert not (tmp_path / "theirs").exists()


def pictures(mode: str) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize((w, h), 3).convert(mode)
        for side, h, w in ((8, 64, 64), (9, 96, 60), (7, 64, 100))
    ]


@pytest.mark.parametrize(
    "processing",
    [{}, crop(36, image_mean=[0.4, 0.5, 0.6], resample=3), {"image_std": 0.2, "resample": 0}, {"do_normalize": False}],
    ids=["squash", "crop", "nearest", "no normalisation"],
)
def test_the_image_processors_make_the_same_pixels(processing, tmp_path):
    save_ours(tmp_path / "ours", {}, **processing)
    ours = ViTCustomImageProcessor.from_pretrained(tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "hf", "hf")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert type(theirs).__name__ == "ViTImageProcessor"
    images = pictures("RGB")
    expected = ours(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs(images, return_tensors="pt")["pixel_values"], expected, rtol=0, atol=0)
    if not ours.do_normalize:
        with pytest.raises(ConversionError, match="timm has no image processor with do_normalize=False"):
            export(tmp_path / "ours", tmp_path / "timm", "timm")
        assert not (tmp_path / "timm").exists()
        return
    export(tmp_path / "ours", tmp_path / "timm", "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    square = slice(0, 1)  # if the margin is odd, timm crops the extra pixel on the other side
    actual = torch.stack([transform(image) for image in images[square]])
    grey_level = 1 / 255 / min(ours.image_std)
    torch.testing.assert_close(actual, expected[square], rtol=0, atol=1.01 * grey_level)


def test_grey_images(tmp_path):
    save_ours(tmp_path / "ours", {"num_channels": 1})
    export(tmp_path / "ours", tmp_path / "hf", "hf")
    ours, theirs = (
        cls.from_pretrained(tmp_path / name)
        for cls, name in ((ViTCustomImageProcessor, "ours"), (transformers.AutoImageProcessor, "hf"))
    )
    images = pictures("L")
    actual, expected = (one(images, return_tensors="pt")["pixel_values"] for one in (theirs, ours))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_half_precision_is_kept(library, tmp_path):
    save_ours(tmp_path / "ours", {}, torch.bfloat16)
    export(tmp_path / "ours", tmp_path / "theirs", library)
    assert {tensor.dtype for tensor in load_file(tmp_path / "theirs" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    if library == "hf":
        convert(str(tmp_path / "theirs"), tmp_path / "back", {})
        same_folders(tmp_path / "ours", tmp_path / "back")


def test_the_command_writes_a_folder_or_the_tensors_alone(tmp_path, capsys):
    model = save_ours(tmp_path / "ours", {})
    (tmp_path / "ours" / "preprocessor_config.json").rename(tmp_path / "kept.json")
    assert main([str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 2
    assert "preprocessor_config.json" in capsys.readouterr().err
    for library in LIBRARIES:
        path = tmp_path / "files" / f"{library}.safetensors"
        assert main([str(tmp_path / "ours"), str(path), "--to", library]) == 0
        assert main([str(tmp_path / "ours"), str(path), "--to", library]) == 2
        assert "must be new" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["hf.safetensors", "timm.safetensors"]
    convert(str(tmp_path / "files" / "hf.safetensors"), tmp_path / "back", {"num_attention_heads": 4})
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    assert "blocks.0.attn.qkv.weight" in load_file(tmp_path / "files" / "timm.safetensors")
    (tmp_path / "kept.json").rename(tmp_path / "ours" / "preprocessor_config.json")
    assert main([str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf", "--family", "vit"]) == 0
    assert "vit (ViTForImageClassification): " in capsys.readouterr().out
    report = json.loads((tmp_path / "hf" / "conversion.json").read_text())
    assert report["source"] == "ours" and report["classes"] == 3 and report["check"]["passed"]


def test_what_is_no_model_of_ours_is_refused(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([str(tmp_path / "nowhere"), out, "--to", "hf"]) == 2
    assert "no config.json" in capsys.readouterr().err
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    assert main([str(tmp_path / "vit"), out, "--to", "timm"]) == 2
    assert "holds a 'vit'" in capsys.readouterr().err
    ViTCustomForMaskedImageModeling(ViTCustomConfig(**TINY)).save_pretrained(tmp_path / "masked")
    assert main([str(tmp_path / "masked"), out, "--to", "hf"]) == 2
    assert "architectures names ViTCustomForMaskedImageModeling" in capsys.readouterr().err
    save_ours(tmp_path / "ours", {})
    assert main([str(tmp_path / "ours"), out, "--to", "hf", "--hidden_act", "relu"]) == 2
    assert "leave out hidden_act" in capsys.readouterr().err
    (tmp_path / "ours" / "model.safetensors").write_bytes(b"cut")
    assert main([str(tmp_path / "ours"), out, "--to", "hf"]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
