"""Each method equals a plain and slow version of its formula, and behaves as its row of the table says."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig, ViTCustomModel
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.methods.context import encoder_of, prepared
from modeling_vit_custom.explanation.methods.maps import patch_sums
from modeling_vit_custom.explanation.methods.pixel_maps import integrated
from modeling_vit_custom.explanation.methods.table import METHODS
from modeling_vit_custom.explanation.methods.work import Work

CLASS_BLIND = ("attention", "rollout")
FEATURES = ("similarity", "pca")
PREFIX = {"cls": 1, "mean": 0, "cls_mean": 1, "cls_register": 3, "map": 1}
POOLINGS = {
    "cls": {},
    "mean": {"pooling": "mean", "use_cls_token": False},
    "cls_mean": {"pooling": "cls_mean"},
    "cls_register": {"pooling": "cls_register", "num_register_tokens": 2},
    "map": {"pooling": "map"},
}


def grid_of(model, pixels, method, target=1, **kwargs):
    return explain(model, pixels, None if method in FEATURES else target, method, check=False, confirm=0, **kwargs).grid


def model_of(random_model, **fields):
    return random_model(ViTCustomConfig(**{**TINY, **fields}))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "ig"])
@pytest.mark.parametrize(
    "fields", [{}, {"pooling": "mean", "use_cls_token": False, "token_merging": 2}, {"pooling": "map"}]
)
def test_a_batch_is_its_single_images(random_model, method, fields):
    model, pixels = model_of(random_model, **fields), torch.randn(4, 3, 24, 32)
    whole = grid_of(model, pixels, method, batch_size=4)
    assert whole.shape == (4, 3, 4) and whole.dtype == torch.float32
    alone = torch.cat([grid_of(model, pixels[i : i + 1], method) for i in (0, 3)])
    in_threes = grid_of(model, pixels, method, batch_size=3)
    for other, wanted in ((alone, whole[[0, 3]]), (in_threes, whole)):
        torch.testing.assert_close(other, wanted, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow] * (name == "ig")) for name in METHODS])
def test_a_map_depends_on_the_class_where_the_table_says_so(random_model, pixel_values, method):
    model = model_of(random_model)
    one = grid_of(model, pixel_values[:1], method, 1)
    other = grid_of(model, pixel_values[:1], method, 3)
    assert METHODS[method].class_specific == (not torch.equal(one, other))
    caveat = explain(model, pixel_values[:1], None, method, check=False, confirm=0).caveat
    wanted = {**dict.fromkeys(CLASS_BLIND, "not an explanation of the class"),
              **dict.fromkeys(FEATURES, "features, not an explanation")}  # fmt: skip
    assert caveat == wanted.get(method)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "ig"])
@pytest.mark.parametrize(
    "fields,size,grid",
    [
        ({"patch_size": (4, 8)}, (24, 32), (6, 4)),
        ({}, (48, 64), (6, 8)),
        ({}, (29, 39), (3, 4)),
        ({"shrink_to": (16, 24)}, (24, 40), (2, 3)),
        ({"num_channels": 5, "pooling": "cls_register", "num_register_tokens": 2}, (24, 32), (3, 4)),
        ({"num_channels": 1, "pooling": "map", "use_cls_token": False, "token_merging": 2}, (24, 32), (3, 4)),
    ],
)
def test_maps_have_the_grid_that_the_encoder_sees(random_model, method, fields, size, grid):
    model = model_of(random_model, **fields)
    pixels = torch.randn(2, fields.get("num_channels", 3), *size)
    found = explain(model, pixels, None if method in FEATURES else 1, method, check=False, confirm=0)
    assert found.grid.shape == (2, *grid) and found.map.shape == (2, *size)
    assert found.grid.isfinite().all() and found.grid.abs().flatten(1).amax(1).min() > 0
    if size == (29, 39):  # pixels beyond the last whole patch are never seen
        assert found.seen == (24, 32) and not found.map[:, 24:].any() and not found.map[:, :, 32:].any()
    if method in CLASS_BLIND:
        assert found.grid.min() >= 0


# ---------- attention


def attentions_of(model, pixels):
    return model(pixels, output_attentions=True).attentions


def read_rows(matrix, pooling, prefix):
    """Return what pooling reads of the rows of [N, N]."""
    rows = {
        "cls": lambda: matrix[0],
        "mean": lambda: matrix[prefix:].mean(0),
        "cls_mean": lambda: (matrix[0] + matrix[prefix:].mean(0)) / 2,
        "cls_register": lambda: (matrix[0] + matrix[1]) / 2,
    }
    return rows[pooling]()[prefix:]


@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "map"])
def test_attention_is_what_the_model_outputs(random_model, pixel_values, pooling):
    model, prefix = model_of(random_model, **POOLINGS[pooling]), PREFIX[pooling]
    found = explain(model, pixel_values, 1, "attention", check=False, confirm=0)
    for image in range(3):
        last = attentions_of(model, pixel_values)[-1][image]
        for head in range(4):
            wanted = read_rows(last[head], pooling, prefix).view(3, 4)
            torch.testing.assert_close(found.heads[head, image], wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.grid[image], read_rows(last.mean(0), pooling, prefix).view(3, 4))


def test_attention_of_attention_pooling_is_its_querys_row(random_model, pixel_values):
    model = model_of(random_model, pooling="map")
    pooling = model.vit.pooler.attention_pooling
    patches = model.vit(pixel_values).last_hidden_state[:, 1:]
    query = pooling.attention.q_proj(pooling.query.expand(3, -1, -1)).unflatten(2, (4, 8)).transpose(1, 2)
    key = pooling.attention.k_proj(patches).unflatten(2, (4, 8)).transpose(1, 2)
    wanted = (query @ key.mT * 8**-0.5).softmax(-1)[:, :, 0].mean(1).view(3, 3, 4)
    torch.testing.assert_close(grid_of(model, pixel_values, "attention"), wanted.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", [name for name in POOLINGS if name != "map"])
def test_rollout_is_the_product_of_its_matrices(random_model, pixel_values, pooling):
    model, prefix = model_of(random_model, **POOLINGS[pooling]), PREFIX[pooling]
    found = grid_of(model, pixel_values, "rollout")
    for image in range(3):
        product = None
        for attention in attentions_of(model, pixel_values):
            mixed = attention[image].mean(0) / 2 + torch.eye(attention.shape[-1]) / 2
            mixed = mixed / mixed.sum(-1, keepdim=True)
            product = mixed if product is None else mixed @ product
        torch.testing.assert_close(found[image], read_rows(product, pooling, prefix).view(3, 4), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_chefer_is_its_recursion_on_recorded_attentions(random_model, pixel_values, pooling):
    """The reference asks the model for its attentions, which computes all rows of the last block too."""
    model, prefix = model_of(random_model, **POOLINGS[pooling]), PREFIX[pooling]
    found, weights = grid_of(model, pixel_values, "chefer", 2), []
    if pooling == "map":
        attention = model.vit.pooler.attention_pooling.attention
        model.vit.pooler.attention_pooling.attention.register_forward_hook(lambda *args: weights.append(args[2][1]))
        attention.config = type(model.config)(**{**TINY, **POOLINGS[pooling]}, attn_implementation="eager")
    output = model(pixel_values, output_attentions=True)
    every = [*output.attentions, *weights]
    gradients = torch.autograd.grad(output.logits[:, 2].sum(), every)
    for image in range(3):
        held = torch.eye(every[0].shape[-1])
        for attention, gradient in zip(output.attentions, gradients, strict=False):
            step = sum((attention[image, h] * gradient[image, h]).clamp(min=0) for h in range(4)) / 4
            held = held + step @ held
        if pooling == "map":
            pooled = sum((weights[0][image, h, 0] * gradients[-1][image, h, 0]).clamp(min=0) for h in range(4)) / 4
            wanted = (pooled @ held[prefix:])[prefix:]
        else:
            own = torch.zeros_like(held)
            own[prefix:, prefix:] = torch.eye(12)
            wanted = read_rows(held - own, pooling, prefix)
        torch.testing.assert_close(found[image], wanted.view(3, 4).detach(), rtol=1e-3, atol=1e-6)


def test_place_is_chefer_where_nothing_is_nonlinear(random_model, pixel_values):
    """With one block, Libra's gradient of its attention weights is the plain one, up to the constant deviations."""
    model = model_of(random_model, num_hidden_layers=1, final_norm="none")
    with torch.no_grad():  # no MLP: what follows attention is linear
        model.vit.layers[0].mlp.fc2.weight.zero_()
    one = explain(model, pixel_values, 1, "place", check=False, confirm=0).grid
    output = model(pixel_values, output_attentions=True)
    (gradient,) = torch.autograd.grad(output.logits[:, 1].sum(), output.attentions)
    wanted = (output.attentions[0] * gradient).mean(1).clamp(min=0)[:, 0, 1:]
    torch.testing.assert_close(one, wanted.view(3, 3, 4).detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_legrad_is_the_gradient_of_each_blocks_answer(random_model, pixel_values, pooling):
    """The reference runs block by block, each from a detached input, with a gradient for each head and each row."""
    model, prefix = model_of(random_model, **POOLINGS[pooling]), PREFIX[pooling]
    found = explain(model, pixel_values, 2, "legrad", check=False, confirm=0)
    model.config._attn_implementation = "eager"
    hidden = model.vit.embeddings(pixel_values)
    layers, kept = [], []
    for block in model.vit.layers:
        with block.attention.register_forward_hook(lambda module, args, output: kept.append(output[1])):
            hidden = block(hidden.detach())
        logits = model.classifier(model.vit.pooler(model.vit.layernorm(hidden)))
        (gradient,) = torch.autograd.grad(logits[:, 2].sum(), kept[-1])
        layers.append(gradient.clamp(min=0).mean(dim=(1, 2))[:, prefix:].view(3, 3, 4))
    torch.testing.assert_close(found.layers, torch.stack(layers), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(found.grid, torch.stack(layers).sum(0), rtol=1e-3, atol=1e-7)


# ---------- the last block


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradcam_and_hirescam_are_their_formulas(random_model, pixel_values, pooling):
    model, prefix = model_of(random_model, **POOLINGS[pooling]), PREFIX[pooling]
    kept = []
    with model.vit.layers[-1].layernorm_before.register_forward_hook(lambda module, args, output: kept.append(output)):
        score = model(pixel_values).logits[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, kept[0])
    activation, gradient = kept[0][:, prefix:].detach(), gradient[:, prefix:]
    wanted = (activation * gradient.mean(1, keepdim=True)).sum(-1).view(3, 3, 4)
    torch.testing.assert_close(grid_of(model, pixel_values, "gradcam"), wanted, rtol=1e-4, atol=1e-6)
    wanted = (activation * gradient).sum(-1).view(3, 3, 4)
    torch.testing.assert_close(grid_of(model, pixel_values, "hirescam"), wanted, rtol=1e-4, atol=1e-6)


# ---------- pixels


def work_of(model, pixels, target=1, **kwargs):
    def scored(outputs, places):
        return outputs.logits[:, target]

    encoder = encoder_of(model)
    return Work(model, encoder, pixels, scored, (3, 4), tuple(pixels.shape[2:]), **kwargs)


@pytest.mark.slow
def test_integrated_gradients_are_captums(random_model, pixel_values):
    captum = pytest.importorskip("captum.attr", reason="captum is installed by `make test-slow`")
    model = model_of(random_model, pooling="mean")
    with prepared(model):
        ours = integrated(work_of(model, pixel_values), torch.zeros_like(pixel_values), 20, range(3))
    theirs = captum.IntegratedGradients(lambda pixels: model(pixels).logits).attribute(
        pixel_values, target=1, n_steps=20, method="riemann_middle"
    )
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_integrated_gradients_add_up_and_say_how_well(random_model, pixel_values):
    model = model_of(random_model)
    found = explain(model, pixel_values[:2], 1, "ig", confirm=0)
    both = model(pixel_values[:2]).logits[:, 1] - model(torch.zeros(2, 3, 24, 32)).logits[:, 1]
    error = (found.grid.sum((1, 2)) - both).abs() / both.abs().clamp_min(1)
    torch.testing.assert_close(found.completeness, error.detach(), rtol=1e-2, atol=1e-4)
    assert found.completeness.max() <= 0.05


def test_sums_over_patches_keep_every_pixel_once():
    pixels = torch.randn(2, 3, 24, 40)
    wanted = pixels.sum(1).unflatten(1, (3, 8)).unflatten(3, (5, 8)).sum((2, 4))
    torch.testing.assert_close(patch_sums(pixels, (3, 5), (24, 40)), wanted, rtol=1e-4, atol=1e-4)
    for grid in ((3, 7), (5, 9)):
        torch.testing.assert_close(patch_sums(pixels, grid, (24, 40)).sum((1, 2)), pixels.sum((1, 2, 3)))
    cut = patch_sums(pixels, (2, 4), (16, 32))
    torch.testing.assert_close(cut.sum((1, 2)), pixels[:, :, :16, :32].sum((1, 2, 3)))


def test_occlusion_is_the_loss_without_each_patch(random_model, pixel_values):
    model = model_of(random_model)
    found = grid_of(model, pixel_values, "occlusion")
    image = work_of(model, pixel_values).perturbed(1)
    with torch.no_grad():
        whole = model(pixel_values[1:2]).logits[0, 1]
        for row, column in ((0, 0), (1, 3), (2, 2)):
            less = pixel_values[1].clone()
            area = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            less[area] = image.baseline[area]
            lost = whole - model(less[None]).logits[0, 1]
            torch.testing.assert_close(found[1, row, column], lost, rtol=1e-3, atol=1e-5)


def test_large_grids_are_occluded_by_windows(random_model):
    model, pixels = model_of(random_model, hidden_size=16), torch.randn(1, 3, 24, 8 * 15)
    grid = grid_of(model, pixels, "occlusion")
    assert grid.shape == (1, 3, 15)
    assert torch.equal(grid[0, 0], grid[0, 1]) and torch.equal(grid[0, :, 0:14:2], grid[0, :, 1:14:2])
    assert not torch.equal(grid[0, 1], grid[0, 2])


# ---------- features


def test_similarity_is_the_cosine_with_a_patch(random_model, pixel_values):
    model = model_of(random_model, pooling="cls_register", num_register_tokens=2, token_merging=1)
    patches = model.vit(pixel_values).last_hidden_state[:, 3:]
    for target in ((0, 0), (2, 1)):
        one = patches[:, target[0] * 4 + target[1], None]
        wanted = F.cosine_similarity(patches, one, dim=-1).view(3, 3, 4)
        found = explain(model, pixel_values, target, "similarity").grid
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)
    several = explain(model, pixel_values, [(0, 0), (1, 1), (2, 3)], "similarity").grid
    assert [float(several[i, i, (0, 1, 3)[i]]) for i in range(3)] == pytest.approx([1, 1, 1], abs=1e-5)
    for wrong, said in (((3, 0), "rows are 0 to 2, columns 0 to 3"), ("a", "takes a patch"), ([(0, 0)], "1 patches")):
        with pytest.raises(ValueError, match=said):
            explain(model, pixel_values, wrong, "similarity")


def test_pca_explains_most_of_the_variance_and_is_a_colour(random_model, pixel_values):
    model = model_of(random_model)
    found = explain(model, pixel_values, None, "pca")
    patches = model.vit(pixel_values).last_hidden_state[:, 1:].detach()
    centred = patches - patches.mean(1, keepdim=True)
    largest = torch.linalg.eigvalsh(centred.mT @ centred)[:, -1]
    torch.testing.assert_close(found.grid.square().sum((1, 2)), largest, rtol=1e-3, atol=1e-4)
    assert found.colours.shape == (3, 3, 4, 3) and found.colours.min() >= 0 and found.colours.max() <= 1
    assert found.faithfulness is None and found.confirmed is None


def test_encoders_have_features_and_maps_of_a_function(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**{**TINY, "num_labels": 0}), ViTCustomModel)
    named = random_model(ViTCustomConfig(**TINY), ViTCustomModel)  # of a classifier's folder
    for method in (*CLASS_BLIND, *FEATURES):
        assert explain(named, pixel_values, None, method, check=False, confirm=0).label == ["features"] * 3
        assert explain(model, pixel_values, None, method, check=False, confirm=0).grid.shape == (3, 3, 4)
    with pytest.raises(ValueError, match="has no named outputs; give a function of its outputs"):
        explain(model, pixel_values)

    def first_feature(outputs):
        return outputs.pooler_output[:, 0]

    for method in ("libra", "chefer", "legrad", "place"):
        found = explain(model, pixel_values, first_feature, method, check=False, confirm=0)
        assert found.label == ["first_feature"] * 3 and found.probability.isnan().all()
        assert found.grid.abs().max() > 0
    assert explain(model, pixel_values, first_feature, confirm=0).completeness.max() < 1e-4
