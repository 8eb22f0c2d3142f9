"""Token merging: equal tokens merge without effect, off changes nothing, and merged patches can be found again."""

import itertools

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from rounding import with_flex
from tiny import ARCHITECTURES, TINY
from torch.utils.flop_counter import FlopCounterMode

from modeling_vit_custom import ViTCustomBackbone, ViTCustomConfig, ViTCustomForMaskedImageModeling, ViTCustomModel
from modeling_vit_custom.token_merging_vit_custom import (
    Matching,
    Tokens,
    average,
    counts_for,
    match,
    merge,
    merge_counts,
    merged_index,
    source_of,
    unmerge,
)


def test_the_most_similar_merge_and_the_others_keep_their_order():
    keys = torch.eye(8)[None, :, :].repeat(2, 1, 1)
    keys[0, 4] = keys[0, 1]  # first set: 0, 2, 4, 6; second set: 1, 3, 5, 7
    keys[1, 6] = keys[1, 3]
    found = merged_index(match(keys, 1), 8, 0)
    assert found.tolist() == [[0, 3, 1, 4, 3, 5, 2, 6], [0, 3, 1, 4, 2, 5, 4, 6]]


def test_averages_are_weighted_by_what_tokens_stand_for():
    values, sizes = torch.randn(2, 2 + 7, 3), torch.randint(1, 9, (2, 2 + 7))
    matching = Matching(*(torch.tensor(each) for each in ([[0, 3, 2, 1], [2, 1, 0, 3]], [[2, 2, 0], [1, 1, 1]])))
    merged, after = average(values, sizes, matching, 2)
    places = merged_index(matching, 9, 2)
    assert places.tolist() == [[0, 1, 5, 3, 2, 4, 3, 5, 5], [0, 1, 4, 3, 4, 4, 4, 5, 2]]
    for image in range(2):
        for place in range(6):
            those = places[image] == place
            weights = sizes[image, those]
            expected = (values[image, those] * weights[:, None]).sum(0) / weights.sum()
            torch.testing.assert_close(merged[image, place], expected)
            torch.testing.assert_close(after[image, place], weights.sum())


def test_sources_follow_through_several_merges():
    values = torch.randn(2, 2 + 12, 4)
    hidden, tokens = values, Tokens(prefix=2)
    for count in (4, 3, 1):
        hidden, tokens = merge(hidden, tokens, torch.randn(2, 3, hidden.shape[1], 8), count)
    back, source = unmerge(hidden, tokens), source_of(tokens, hidden.shape[1])
    assert hidden.shape == (2, 6, 4) and back.shape == values.shape
    torch.testing.assert_close(back[:, :2], values[:, :2])  # prefix tokens never merge
    assert torch.equal(tokens.sizes.sum(1), torch.full((2,), 14.0))
    for image in range(2):
        for place in range(6):
            those = source[image] == place
            assert those.sum() == tokens.sizes[image, place]
            torch.testing.assert_close(hidden[image, place], values[image, those].mean(0))


def twins(config: ViTCustomConfig, batch: int = 2) -> torch.Tensor:
    """Return images [B, C, H, W] in which every two neighbouring columns of patches are equal."""
    h, w = config.grid_hw
    p, q = config.patch_hw
    cells = torch.randn(batch, config.num_channels, h, p, w // 2, 1, q).expand(-1, -1, -1, -1, -1, 2, -1)
    return cells.reshape(batch, config.num_channels, h * p, w * q)


@torch.no_grad()
@pytest.mark.parametrize(
    ("fields", "backend"),
    [
        *itertools.product(
            [
                {"num_register_tokens": 2},
                {"pooling": "mean", "use_cls_token": False},
                {"pooling": "cls_mean"},
                {"pooling": "map", "use_gated_mlp": True, "hidden_act": "silu"},
                {"use_qk_norm": True, "layer_scale_init_value": 0.5},
            ],
            ["eager", "sdpa"],
        ),
        with_flex({"num_register_tokens": 2}),
    ],
)
def test_equal_tokens_merge_without_a_trace(random_model, fields, backend):
    """Each patch has a twin and no position: proportional attention gives the result that both gave unmerged."""
    torch.compiler.reset()
    model = random_model(ViTCustomConfig(**TINY, position_embedding="none", **fields))
    model.set_attn_implementation(backend)
    images = twins(model.config)
    whole = model(images).logits
    model.config.token_merging = [6, 0, 0]  # 6 of 12 patches in the first block
    tokens = model.vit(images, pooled_only=True, output_tokens=True).tokens[0]
    assert (tokens.sizes[:, model.config.num_prefix_tokens :] == 2).all()
    torch.testing.assert_close(model(images).logits, whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_none_and_zero_are_the_same_bit_for_bit(any_config, random_model):
    model = random_model(any_config)
    images = torch.randn(2, any_config.num_channels, *any_config.image_hw)
    expected = model(images).logits
    for setting in (0, [0] * any_config.num_hidden_layers, "1x"):
        model.config.token_merging = setting
        assert torch.equal(model(images).logits, expected)


def test_backends_agree_and_gradients_flow(any_config, random_model):
    any_config.token_merging = 2
    model = random_model(any_config)
    images = torch.randn(3, any_config.num_channels, *any_config.image_hw)
    results = []
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        output = model(images, labels=torch.tensor([0, 1, 2]))
        output.loss.backward()
        results.append((output.logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


def test_training_with_activation_checkpointing_is_the_same(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY, token_merging=2, **ARCHITECTURES["rope"])).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(pixel_values).logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_rotary_positions_are_those_of_the_average_place(random_model, pixel_values):
    """All pairs of neighbours in a row are merged: the angles are those of a patch between the two."""
    config = ViTCustomConfig(**TINY, **ARCHITECTURES["rope"])
    model = random_model(config)
    angles = model.vit._rope_angles(config.image_hw, pixel_values)
    n = len(angles)
    hidden = torch.randn(1, config.num_prefix_tokens + n, 4)
    keys = torch.eye(n)[torch.arange(n) // 2 * 2]  # neighbours have equal keys
    keys = torch.cat([torch.zeros(config.num_prefix_tokens, n), keys])[None, None]
    _, tokens = merge(hidden, Tokens(config.num_prefix_tokens, angles=angles), keys, n // 2)
    torch.testing.assert_close(tokens.angles[0], angles.unflatten(0, (-1, 2)).mean(1))
    torch.testing.assert_close(tokens.rope[0][0, 0], tokens.angles[0].cos())


@torch.no_grad()
def test_dense_outputs_have_every_patch_again(random_model, pixel_values):
    config = ViTCustomConfig(**TINY, token_merging=3, num_register_tokens=1)
    encoder = random_model(config, ViTCustomModel)
    output = encoder(pixel_values, output_hidden_states=True, output_tokens=True)
    assert output.last_hidden_state.shape[1] == config.num_prefix_tokens + 12
    assert [states.shape[1] for states in output.hidden_states] == [14, 11, 8, 5]
    expected = encoder.layernorm(unmerge(output.hidden_states[-1], output.tokens[-1]))
    torch.testing.assert_close(output.last_hidden_state, expected)
    maps = random_model(config, ViTCustomBackbone)(pixel_values).feature_maps
    assert {feature_map.shape[2:] for feature_map in maps} == {config.grid_hw}
    painted = random_model(config, ViTCustomForMaskedImageModeling)(pixel_values).reconstruction
    assert painted.shape == pixel_values.shape


@torch.no_grad()
@pytest.mark.parametrize("setting", [3, "1.3x", [4, 0, 0]])
def test_it_compiles_in_one_graph(random_model, pixel_values, setting):
    model = random_model(ViTCustomConfig(**TINY, token_merging=setting, pooling="cls_mean"))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixel_values).logits, model(pixel_values).logits)


def test_counts():
    sizes = {"layers": 4, "patches": 16, "prefix": 1, "width": 32, "mlp_width": 2 * 128}
    assert merge_counts(None, **sizes) == [0, 0, 0, 0] and merge_counts(3, **sizes) == [3, 3, 3, 3]
    assert merge_counts(7, **sizes) == [7, 4, 2, 1]  # at most half of 16, 9, 5 and 3
    assert merge_counts([1, 0, 2, 9], **sizes) == [1, 0, 2, 6]
    assert merge_counts("1x", **sizes) == [0] * 4
    with pytest.raises(ValueError, match="'9x': with 16 patches and 4 blocks at most"):
        merge_counts("9x", **sizes)
    for wrong in (-3, "fast", [1, 2]):
        with pytest.raises(ValueError, match="token_merging"):
            merge_counts(wrong, **sizes)


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"use_gated_mlp": True}])
def test_a_target_is_met_by_the_smallest_number(random_model, fields):
    """The operations are those that torch counts in the blocks, with eager attention and the whole last block."""
    model = random_model(ViTCustomConfig(**TINY | {"image_size": 64}, **fields, pooling="mean"), ViTCustomModel)
    model.set_attn_implementation("eager")

    def operations(setting):
        model.config.token_merging = setting
        with FlopCounterMode(display=False, depth=4) as counter:
            model(torch.zeros(1, 3, 64, 64))
        counts = counter.get_flop_counts()
        return sum(sum(counts[f"ViTCustomModel.layers.{i}"].values()) for i in range(3))

    whole = operations(None)
    model.config.token_merging = "1.5x"
    count = counts_for(model.config, "1.5x", 64)[0]
    assert whole / operations(count) > 1.5 * 0.97 and whole / operations(count - 1) < 1.5


@pytest.mark.parametrize("setting", [-1, "fast", "0.5x", [1], [1, -1, 0]])
def test_what_is_refused(setting):
    with pytest.raises(StrictDataclassError, match="token_merging"):
        ViTCustomConfig(**TINY, token_merging=setting)


def test_a_mask_of_single_tokens_is_refused(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY, token_merging=1))
    with pytest.raises(ValueError, match="token_merging"):
        model(pixel_values, attention_mask=torch.ones(3, 13))
