"""Meta's `.pth` layouts with random parameters give the numbers of timm and transformers on the same tensors."""

import argparse
import re

import pytest
import torch
import transformers
from meta_layouts import LAYOUTS, Layout, random_state, timm_model

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.engine import ConversionError, read, write
from modeling_vit_custom.conversion.family import Source, detect
from modeling_vit_custom.conversion.meta import FAMILIES, canonical, read_pth

TINY = [name for name in LAYOUTS if "full" not in name]


def convert(layout: Layout, state, **flags):
    """Convert as a user would: state only the number of heads, which files do not say (the default is width / 64)."""
    source = Source("file", state, flags={"num_attention_heads": layout.num_heads, **flags})
    return build(source, detect(FAMILIES, state))


def sizes(layout: Layout) -> list[tuple[int, int]]:
    side, patch = layout.side, layout.patch
    return [(side, side), (side + 2 * patch, side + 2 * patch), (side + patch, side - patch)]


def output_of(model, images: torch.Tensor) -> torch.Tensor:
    output = model(images)
    return output.logits if "logits" in output else output.pooler_output


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_converted_equals_timm_in_float64(name):
    layout = LAYOUTS[name]
    state = random_state(layout)
    conversion = convert(layout, state)
    assert conversion.family.name == name.split("/")[0]
    worst = 0.0
    for size in sizes(layout):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        expected = timm_model(layout, state, size)(images)
        worst = max(worst, float((output_of(conversion.model, images) - expected).abs().max()))
    print(f"{name}: {worst:.1e}")
    assert worst <= (1e-5 if layout.rotary else 1e-9)  # timm's rotary positions are in float32


def to_transformers(state) -> dict[str, torch.Tensor]:
    """Return a DINOv3 state under transformers' names."""
    spellings = {
        r"^cls_token": "embeddings.cls_token", r"^mask_token": "embeddings.mask_token",
        r"^storage_tokens": "embeddings.register_tokens", r"^patch_embed\.proj": "embeddings.patch_embeddings",
        r"^blocks\.": "model.layer.", r"attn\.proj": "attention.o_proj", r"ls(\d)\.gamma": r"layer_scale\1.lambda1",
        r"mlp\.(fc1|w2)": "mlp.up_proj", r"mlp\.(fc2|w3)": "mlp.down_proj", r"mlp\.w1": "mlp.gate_proj",
    }  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        if name.endswith(("bias_mask", "periods")):
            continue
        for pattern, spelling in spellings.items():
            name = re.sub(pattern, spelling, name)
        if "attn.qkv" in name:
            parts = dict(zip("qkv", tensor.chunk(3), strict=True))
            if name.endswith("bias"):
                del parts["k"]  # always zero
            renamed |= {name.replace("attn.qkv", f"attention.{part}_proj"): x for part, x in parts.items()}
        else:
            renamed[name] = tensor
    return renamed


@torch.no_grad()
@pytest.mark.parametrize("name", ["meta_dinov3", "meta_dinov3/swiglu"])
def test_dinov3_equals_transformers_in_float64(name):
    layout = LAYOUTS[name]
    state = random_state(layout)
    gated = "w1" in layout.mlp
    config = transformers.DINOv3ViTConfig(
        hidden_size=layout.width, num_hidden_layers=layout.depth, num_attention_heads=layout.num_heads,
        intermediate_size=layout.hidden, patch_size=layout.patch, image_size=layout.side, num_register_tokens=4,
        use_gated_mlp=gated, hidden_act="silu" if gated else "gelu",
    )  # fmt: skip
    reference = transformers.DINOv3ViTModel(config).eval().double()
    given = to_transformers(state)
    given["embeddings.mask_token"].unsqueeze_(0)
    reference.load_state_dict(given, strict=True)
    model = convert(layout, state).model
    for size in sizes(layout):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        expected, actual = reference(images), model(images)
        for key in ("last_hidden_state", "pooler_output"):
            torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_round_trips_are_bit_equal(name):
    layout = LAYOUTS[name]
    state = random_state(layout)
    conversion = convert(layout, state)
    ours = {name if layout.heads else f"vit.{name}": x for name, x in conversion.model.state_dict().items()}
    unused = {name: x for name, x in state.items() if name in layout.others or name == "rope_embed.periods"}
    table = conversion.family.table
    theirs = write(table, ours, {name: tuple(x.shape) for name, x in state.items() if name not in unused})
    again, _ = read(table, theirs)
    assert again.keys() == ours.keys() and all(torch.equal(again[name], ours[name]) for name in ours)
    images = torch.randn(2, 3, layout.side, layout.side, dtype=torch.float64)
    size = (layout.side, layout.side)
    expected, actual = (timm_model(layout, each, size)(images) for each in (state, theirs | unused))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_no_tensor_can_change_unseen(name):
    layout = LAYOUTS[name]
    state = random_state(layout)
    images = torch.randn(2, 3, layout.side, layout.side, dtype=torch.float64)
    expected = output_of(convert(layout, state).model, images)
    for key, tensor in state.items():
        if key in layout.others or key.endswith(("bias_mask", "periods")):
            continue
        changed = convert(layout, state | {key: tensor + 0.1 * torch.randn_like(tensor)}).model
        assert (output_of(changed, images) - expected).abs().max() > 1e-6, key


@pytest.mark.parametrize("name", TINY)
def test_a_wrong_family_is_refused(name):
    layout = LAYOUTS[name]
    state = random_state(layout)
    for family in FAMILIES:
        if family.name != name.split("/")[0]:
            with pytest.raises(ConversionError, match=f"not of the family {family.name}"):
                build(Source("file", state), family)


def test_dinov2_s_linear_classifier_sees_class_token_and_mean():
    layout = LAYOUTS["meta_dinov2"]
    state = random_state(layout)
    head = {"linear_head.weight": torch.randn(5, 64).double(), "linear_head.bias": torch.randn(5).double()}
    whole = canonical({f"backbone.{name}": x for name, x in state.items()} | head)
    model, images = convert(layout, whole).model, torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        tokens = timm_model(layout, state, (32, 32)).forward_features(images)
        pooled = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
        expected = pooled @ head["linear_head.weight"].T + head["linear_head.bias"]
        torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-9)


def test_what_serves_pre_training_is_left_out_and_said():
    for name in ("meta_mae", "meta_dinov2", "meta_dinov3"):
        notes = " ".join(convert(LAYOUTS[name], random_state(LAYOUTS[name])).notes)
        assert "mask_token" in notes and ("decoder_pred.bias" in notes) == (name == "meta_mae")


def test_rope_theta_and_heads_are_read_off_the_periods():
    layout = LAYOUTS["meta_dinov3"]
    state = random_state(layout)
    for theta, dtype in ((100.0, torch.bfloat16), (1000.0, torch.float32)):
        state["rope_embed.periods"] = (theta ** (torch.arange(2) / 2)).to(dtype)
        config = build(Source("file", state), detect(FAMILIES, state)).model.config
        assert (config.rope_theta, config.num_attention_heads) == (theta, 4)
    for periods in ([3.0, 10.0], [], [1.0]):
        state["rope_embed.periods"] = torch.tensor(periods)
        with pytest.raises(ConversionError, match=r"rope_embed\.periods"):
            convert(layout, state)


PREPROCESSING = {
    "meta_vit": (36, 32, 3), "meta_mae": (36, 32, 3), "meta_dinov2": (256, 224, 3), "meta_dinov3": (None, None, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PREPROCESSING)
def test_preprocessing_is_that_of_the_repository(name):
    conversion = convert(LAYOUTS[name], random_state(LAYOUTS[name]))
    processor, (resized, cropped, resample) = conversion.processor, PREPROCESSING[name]
    assert processor.resample == resample and list(processor.image_mean) == [0.485, 0.456, 0.406]
    if resized is None:
        assert dict(processor.size) == {"height": 224, "width": 224} and not processor.do_center_crop
    else:
        assert (processor.size.shortest_edge, processor.crop_size.width) == (resized, cropped)
    assert any("ImageNet's mean" in note for note in conversion.notes)


def test_files_are_read_through_wrappers_prefixes_and_chunks(tmp_path):
    state = random_state(LAYOUTS["meta_dinov2"])
    chunked = {
        re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", name): x for name, x in state.items()
    }
    assert "blocks.1.2.norm1.weight" in chunked
    for content in (
        state,
        chunked,
        {"model": state, "args": argparse.Namespace(lr=1.0), "epoch": 3},
        {"teacher": {f"module.backbone.{name}": x for name, x in state.items()}},
    ):
        torch.save(content, tmp_path / "model.pth")
        again = read_pth(tmp_path / "model.pth")
        assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    with pytest.raises(ConversionError, match="several models"):
        canonical({"module.norm.weight": torch.ones(2), "norm.weight": torch.ones(2)})


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_harmful_truncated_and_foreign_files_are_refused(tmp_path, capsys):
    torch.save({"model": Harmful()}, tmp_path / "harmful.pth")
    torch.save(random_state(LAYOUTS["meta_vit"]), tmp_path / "whole.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-5000])
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    torch.save({"norm.weight": torch.ones(3), "epoch": 3}, tmp_path / "mixed.pth")
    for name in ("harmful", "truncated", "empty", "tensor", "mixed", "absent"):
        with pytest.raises(ConversionError, match=f"{name}.pth"):
            read_pth(tmp_path / f"{name}.pth")
    assert "executed" not in capsys.readouterr().out


def test_damaged_states_are_refused():
    layout = LAYOUTS["meta_vit"]
    state = random_state(layout)
    state["blocks.1.norm2.bias"][3] = torch.nan
    with pytest.raises(ConversionError, match=r"not finite: vit\.layers\.1\.layernorm_after\.bias"):
        convert(layout, state)
    state = random_state(layout)
    del state["blocks.1.attn.proj.weight"]
    with pytest.raises(ConversionError, match=r"missing: vit\.layers\.1\.attention\.o_proj\.weight"):
        convert(layout, state)
    state = random_state(layout)
    del state["patch_embed.proj.weight"]
    with pytest.raises(ConversionError, match="no patch embedding"):
        convert(layout, state)
    state = random_state(layout)
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].T
    with pytest.raises(ConversionError, match=r"fc1\.weight"):
        convert(layout, state)
