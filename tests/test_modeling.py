"""The model means what it says: backends agree, features off are the identity, formulas hold."""

import copy
import itertools
import math

import pytest
import torch
from rounding import NEEDS_VECTORS, assert_close_but_for_rounding, with_flex
from tiny import ARCHITECTURES, TINY
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import ViTConfig

from modeling_vit_custom import (
    ViTCustomBackbone,
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomModel,
)
from modeling_vit_custom.attention_vit_custom import ViTCustomAttention, eager_attention
from modeling_vit_custom.layers_vit_custom import ChannelNorm, DropPath
from modeling_vit_custom.position_vit_custom import sincos_table

ROPE = {"rope_theta": 100.0, "position_embedding": "none"}


@pytest.fixture(autouse=True)
def _compiled_again():
    """Flex attention compiles; torch gives up after a number of models in one process."""
    torch.compiler.reset()


def gradients(model, pixel_values) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(pixel_values, labels=torch.tensor([0, 1, 2])).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def images_for(config: ViTCustomConfig, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, config.num_channels, *config.image_hw)


def test_attention_is_the_formula_in_float64():
    """softmax(QKᵀ/√d_k) V, head by head, with separate loops and no shared code."""
    config = ViTCustomConfig(**TINY)
    attention = ViTCustomAttention(config).double()
    tokens = torch.randn(2, 7, 32, dtype=torch.float64)
    q, k, v = (getattr(attention, f"{name}_proj")(tokens) for name in "qkv")
    heads = []
    for h in range(4):
        columns = slice(8 * h, 8 * h + 8)
        scores = q[..., columns] @ k[..., columns].transpose(1, 2) / math.sqrt(8)
        weights = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
        heads.append(weights @ v[..., columns])
    expected = attention.o_proj(torch.cat(heads, dim=-1))
    for backend in ("eager", "sdpa"):
        config._attn_implementation = backend
        torch.testing.assert_close(attention(tokens)[0], expected, rtol=0, atol=1e-12)


def test_eager_equals_sdpa_with_gradients(any_config, random_model):
    model, images = random_model(any_config), images_for(any_config)
    results = {}
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        results[backend] = (model(images).logits, gradients(model, images))
    torch.testing.assert_close(results["sdpa"], results["eager"], rtol=1e-4, atol=1e-5)
    assert any("q_proj.weight" in name and g.abs().max() > 0 for name, g in results["eager"][1].items())


@pytest.mark.parametrize(
    ("positions", "pooling", "backend"),
    [*itertools.product([{}, ROPE], ["cls", "cls_register"], ["eager", "sdpa"]), with_flex(ROPE, "cls_register")],
)
def test_a_classifier_leaves_out_tokens_that_nobody_reads(random_model, pixel_values, pooling, positions, backend):
    model = random_model(ViTCustomConfig(**TINY, num_register_tokens=2, pooling=pooling, **positions))
    model.set_attn_implementation(backend)
    sizes = []
    model.vit.layers[-1].mlp.register_forward_hook(lambda module, args, output: sizes.append(output.shape[1]))
    with torch.set_grad_enabled(backend != "flex_attention"):
        short, every = model(pixel_values), model(pixel_values, output_hidden_states=True)
        assert model.vit(pixel_values).last_hidden_state.shape[1] == sizes[1]
    assert sizes[:2] == [{"cls": 1, "cls_register": 2}[pooling], every.hidden_states[-1].shape[1]]
    assert_close_but_for_rounding(short.logits, every.logits, model.config)
    if short.logits.requires_grad:
        parameters = list(model.parameters())
        gradients = [torch.autograd.grad(output.logits.square().sum(), parameters) for output in (short, every)]
        assert_close_but_for_rounding(*gradients, model.config, passes=2)


@torch.no_grad()
@pytest.mark.slow
@NEEDS_VECTORS
def test_flex_forward_equals_eager(tiny_config, random_model, pixel_values):
    model = random_model(tiny_config)
    expected = model(pixel_values).logits
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(pixel_values).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("masked", "backend"), [(False, "sdpa"), (True, "sdpa"), with_flex(True)])
def test_attentions_under_fast_backends_are_those_of_eager(random_model, pixel_values, backend, masked):
    config = ViTCustomConfig(**TINY, num_register_tokens=2, pooling="map")
    model = random_model(config)
    mask = torch.ones(3, 15, dtype=torch.long)
    mask[:, -4:] = 0
    options = {"attention_mask": mask} if masked else {}
    model.set_attn_implementation("eager")
    expected = model(pixel_values, output_attentions=True, **options)
    model.set_attn_implementation(backend)
    actual = model(pixel_values, output_attentions=True, **options)
    assert len(actual.attentions) == config.num_hidden_layers
    torch.testing.assert_close(actual.attentions, expected.attentions, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual.attentions[0].sum(-1), torch.ones(3, 4, 15))
    assert (actual.attentions[0][..., -4:].max() == 0) == masked
    assert model.config._attn_implementation == backend
    assert model(pixel_values, **options).attentions is None


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_masked_tokens_do_not_exist(tiny_config, random_model, pixel_values, backend):
    """A token nobody attends to changes nothing: other pixels under it, same class token."""
    model = random_model(tiny_config)
    model.set_attn_implementation(backend)
    mask = torch.ones(3, 13, dtype=torch.long)
    mask[:, 1] = 0
    changed = pixel_values.clone()
    changed[:, :, :8, :8] += 1.0
    same = model(changed, attention_mask=mask).logits
    torch.testing.assert_close(same, model(pixel_values, attention_mask=mask).logits)
    assert not torch.allclose(model(changed).logits, model(pixel_values).logits)


def test_gradient_checkpointing_changes_nothing(any_config, random_model):
    any_config.drop_path_rate, any_config.patch_drop_rate = 0.2, 0.5
    model, images = random_model(any_config).train(), images_for(any_config)
    torch.manual_seed(1)
    plain = gradients(model, images)
    model.gradient_checkpointing_enable()
    torch.manual_seed(1)
    torch.testing.assert_close(gradients(model, images), plain)


def test_saved_equals_loaded_bit_for_bit(tmp_path, any_config, random_model):
    model, images = random_model(any_config), images_for(any_config)
    model.save_pretrained(tmp_path)
    loaded, info = ViTCustomForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # the memory of loaded weights is aligned otherwise, to which the matrix library adapts its sums
    assert_close_but_for_rounding(loaded(images).logits, model(images).logits, any_config)


def test_every_head_shares_the_encoder_under_one_prefix(any_config):
    base = {f"vit.{name}" for name in ViTCustomModel(any_config).state_dict()}
    encoder = {name for name in base if ".pooler." not in name}
    assert base < set(ViTCustomForImageClassification(any_config).state_dict())
    assert encoder < set(ViTCustomForMaskedImageModeling(any_config).state_dict())
    assert encoder == set(ViTCustomBackbone(any_config).state_dict())


def test_parameter_names_are_those_of_transformers_vit(tiny_config):
    from transformers import ViTForImageClassification

    reference = ViTForImageClassification(ViTConfig(**{**TINY, "image_size": 24}))
    assert set(ViTCustomForImageClassification(tiny_config).state_dict()) == set(reference.state_dict())


@torch.no_grad()
def test_equals_transformers_vit_with_the_same_weights(tmp_path):
    """CLS position folded into the token, patch positions as they are: the logits are transformers' own."""
    from transformers import ViTForImageClassification

    fields = {**TINY, "image_size": 32, "layer_norm_eps": 1e-6}
    reference = ViTForImageClassification(ViTConfig(**fields)).eval()
    state = {name: tensor + torch.randn_like(tensor) * 0.1 for name, tensor in reference.state_dict().items()}
    reference.load_state_dict(state)
    positions = state["vit.embeddings.position_embeddings"]
    folded = dict(state)
    folded["vit.embeddings.cls_token"] = state["vit.embeddings.cls_token"] + positions[:, :1]
    folded["vit.embeddings.position_embeddings"] = positions[:, 1:]
    model = ViTCustomForImageClassification(ViTCustomConfig(**fields)).eval()
    model.load_state_dict(folded)
    images = torch.randn(2, 3, 32, 32)
    assert_close_but_for_rounding(model(images).logits, reference(images).logits, model.config)


@torch.no_grad()
def test_an_image_is_predicted_alike_alone_and_in_a_batch(any_config, random_model):
    model, images = random_model(any_config), images_for(any_config)
    alone = torch.cat([model(image[None]).logits for image in images])
    torch.testing.assert_close(alone, model(images).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_poolings_are_what_they_are_called(random_model, pixel_values):
    for pooling, expected in {
        "cls": lambda tokens: tokens[:, 0],
        "mean": lambda tokens: tokens[:, 3:].mean(1),
        "cls_mean": lambda tokens: torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], -1),
    }.items():
        config = ViTCustomConfig(**TINY, pooling=pooling, num_register_tokens=2)
        output = random_model(config, ViTCustomModel)(pixel_values)
        torch.testing.assert_close(output.pooler_output, expected(output.last_hidden_state))


@torch.no_grad()
def test_norm_then_mean_and_mean_then_norm_are_different_functions(random_model, pixel_values):
    models = [
        random_model(ViTCustomConfig(**TINY, pooling="mean", final_norm=norm), ViTCustomModel)
        for norm in ("tokens", "pooled")
    ]
    models[1].layers.load_state_dict(models[0].layers.state_dict())
    models[1].embeddings.load_state_dict(models[0].embeddings.state_dict())
    models[1].pooler.layernorm.load_state_dict(models[0].layernorm.state_dict())
    tokens, pooled = (model(pixel_values) for model in models)
    raw = pooled.last_hidden_state
    torch.testing.assert_close(models[0].layernorm(raw), tokens.last_hidden_state)
    torch.testing.assert_close(models[0].layernorm(raw[:, 1:].mean(1)), pooled.pooler_output)
    assert not torch.allclose(tokens.pooler_output, pooled.pooler_output, atol=1e-3)


@torch.no_grad()
def test_hidden_states_start_at_the_embeddings_and_end_before_the_norm(tiny_config, random_model, pixel_values):
    model = random_model(tiny_config, ViTCustomModel)
    output = model(pixel_values, output_hidden_states=True)
    assert len(output.hidden_states) == tiny_config.num_hidden_layers + 1
    torch.testing.assert_close(output.hidden_states[0], model.embeddings(pixel_values))
    torch.testing.assert_close(model.layernorm(output.hidden_states[-1]), output.last_hidden_state)


def test_drop_path_rates_grow_linearly_and_keep_the_expectation():
    config = ViTCustomConfig(**{**TINY, "num_hidden_layers": 5}, drop_path_rate=0.4)
    assert config.drop_path_rates() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    branch = DropPath(0.4).train()(torch.ones(20_000, 2, 3))
    assert branch.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert branch.mean().item() == pytest.approx(1.0, abs=0.03)
    per_sample = branch.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1)), "a sample's branch is dropped whole"


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, ARCHITECTURES["rope"]], ids=["learned", "rope"])
def test_patch_dropout_equals_hiding_the_dropped_patches(fields, pixel_values):
    torch.manual_seed(0)
    config = ViTCustomConfig(**{**TINY, **fields, "image_size": (24, 32)}, patch_drop_rate=0.5)
    model = ViTCustomModel(config).train()
    model.set_attn_implementation("eager")
    torch.manual_seed(1)
    kept = torch.rand(len(pixel_values), 12).argsort(dim=1)[:, :6]  # the very draw that the model makes next
    torch.manual_seed(1)
    dropped = model(pixel_values)
    mask = torch.zeros(len(pixel_values), 12, dtype=torch.long).scatter_(1, kept, 1)
    mask = torch.cat([torch.ones(len(mask), config.num_prefix_tokens, dtype=torch.long), mask], dim=1)
    hidden = model.eval()(pixel_values, attention_mask=mask)
    assert dropped.last_hidden_state.shape[1] == config.num_prefix_tokens + 6
    torch.testing.assert_close(dropped.pooler_output, hidden.pooler_output, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(dropped.pooler_output, model(pixel_values).pooler_output, atol=1e-3)


def test_patch_dropout_spares_heads_that_need_every_patch(pixel_values):
    config = ViTCustomConfig(**TINY, patch_drop_rate=0.5)
    assert ViTCustomBackbone(config).train()(pixel_values).feature_maps[0].shape[2:] == (3, 4)
    masked = torch.zeros(len(pixel_values), 12, dtype=torch.bool)
    assert ViTCustomForMaskedImageModeling(config).train()(pixel_values, masked).reconstruction.shape[2:] == (24, 32)
    with pytest.raises(ValueError, match=r"attention_mask .* patch_drop_rate=0\.5"):
        ViTCustomModel(config).train()(pixel_values, attention_mask=torch.ones(len(pixel_values), 13))


@torch.no_grad()
def test_layer_scale_zero_is_the_identity_block(pixel_values):
    model = ViTCustomModel(ViTCustomConfig(**TINY, layer_scale_init_value=1e-5)).eval()
    for layer in model.layers:
        torch.testing.assert_close(layer.layer_scale1.lambda1, torch.full((32,), 1e-5))
        layer.layer_scale1.lambda1.zero_(), layer.layer_scale2.lambda1.zero_()
    output = model(pixel_values, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.hidden_states[0])


@torch.no_grad()
def test_conv_stem_norm_sees_one_position_of_one_image():
    norm, features = ChannelNorm(6), torch.randn(2, 6, 3, 4)
    expected = torch.nn.functional.layer_norm(features[1, :, 2, 1], (6,))
    torch.testing.assert_close(norm(features)[1, :, 2, 1], expected)


def test_sincos_table_holds_sines_and_cosines_of_both_axes():
    table = sincos_table((3, 5), 16).unflatten(0, (3, 5))
    omega = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4]
    for y, x in [(0, 0), (2, 1), (1, 4)]:
        expected = [f(v * w) for v in (x, y) for f in (math.sin, math.cos) for w in omega]
        torch.testing.assert_close(table[y, x], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    model = ViTCustomModel(ViTCustomConfig(**TINY, position_embedding="sincos2d"))
    assert torch.equal(model.embeddings.position_embeddings[0], sincos_table((3, 4), 32))
    assert "embeddings.position_embeddings" not in dict(model.named_parameters())


@pytest.mark.parametrize("options", [{}, {"output_attentions": True}], ids=str)
def test_an_attention_mask_without_the_prefix_tokens_is_named(tiny_config, pixel_values, options):
    with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 12\): .* 1 prefix .* \(3, 13\)"):
        ViTCustomModel(tiny_config)(pixel_values, attention_mask=torch.ones(3, 12), **options)


def test_soft_labels_stay_single_label(tmp_path, tiny_config, random_model, pixel_values):
    """transformers' own loss turns float labels into a multi-label config that then breaks evaluation."""
    model = random_model(tiny_config)
    model(pixel_values, labels=torch.softmax(torch.randn(3, 5), -1)).loss.backward()
    assert model.config.problem_type is None
    assert model(pixel_values, labels=torch.tensor([0, 1, 2])).loss.isfinite()


@torch.no_grad()
def test_compiles_without_graph_breaks(combined_config, random_model):
    model, images = random_model(combined_config), images_for(combined_config)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images).logits, model(images).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_exports_with_a_dynamic_batch(combined_config, random_model):
    model, images = random_model(combined_config), images_for(combined_config, 5)
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (images[:2],), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(images)["logits"], model(images).logits, rtol=1e-4, atol=1e-5)


def test_bf16_autocast_trains(any_config, random_model):
    model, images = random_model(any_config).train(), images_for(any_config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels=torch.tensor([0, 1, 2]))
    assert output.loss.dtype == torch.float32 and output.loss.isfinite()
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    reference = copy.deepcopy(model)(images).logits
    torch.testing.assert_close(output.logits.float(), reference, rtol=0.1, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_take_float32_images(any_config, random_model, dtype):
    model, images = random_model(any_config), images_for(any_config)
    reference = model(images).logits
    torch.testing.assert_close(model.to(dtype)(images).logits.float(), reference, rtol=0.2, atol=0.2)


@torch.no_grad()
def test_loading_in_low_precision_takes_fixed_positions_along(tmp_path, random_model, pixel_values):
    """The checkpoint's buffer keeps its own float32, which must not leak into bfloat16 tokens."""
    model = random_model(ViTCustomConfig(**TINY, position_embedding="sincos2d"))
    model.save_pretrained(tmp_path)
    loaded = ViTCustomForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = loaded(pixel_values).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(pixel_values).logits, rtol=0.2, atol=0.2)


def test_layer_scale_takes_a_whole_number(tiny_config, pixel_values):
    tiny_config.layer_scale_init_value = 1
    model = ViTCustomModel(tiny_config)
    assert model.layers[0].layer_scale1.lambda1.dtype == torch.float32
    assert model(pixel_values).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    "cls", [ViTCustomModel, ViTCustomForImageClassification, ViTCustomForMaskedImageModeling, ViTCustomBackbone]
)
def test_tuple_outputs_asked_for_by_the_config(tiny_config, random_model, pixel_values, cls):
    tiny_config.return_dict = False
    output = random_model(tiny_config, cls)(pixel_values)
    assert isinstance(output, tuple)


def test_tuple_outputs(tiny_config, random_model, pixel_values):
    model = random_model(tiny_config)
    loss, logits = model(pixel_values, labels=torch.tensor([0, 1, 2]), return_dict=False)
    assert loss.ndim == 0 and logits.shape == (3, 5)


@pytest.mark.parametrize("shape", [(3, 1, 24, 32), (3, 24, 32), (1, 3, 24, 7)])
def test_wrong_input_shapes_are_named(tiny_config, shape):
    with pytest.raises(ValueError, match="pixel_values has"):
        ViTCustomModel(tiny_config)(torch.zeros(shape))


def test_no_head_returns_the_pooled_vector(tiny_config, pixel_values):
    tiny_config.num_labels = 0
    model = ViTCustomForImageClassification(tiny_config).eval()
    pooled = model.vit(pixel_values).pooler_output  # of a last block that computed every token
    assert_close_but_for_rounding(model(pixel_values).logits, pooled, tiny_config)


@torch.no_grad()
def test_sdpa_math_kernel_equals_the_fast_one(tiny_config, random_model, pixel_values):
    model = random_model(tiny_config)
    with sdpa_kernel(SDPBackend.MATH):
        expected = model(pixel_values).logits
    torch.testing.assert_close(model(pixel_values).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_seed_article_model_is_one_patch():
    """784 pixels → linear → encoder → linear: a 28×28 image as a single 28×28 patch."""
    config = ViTCustomConfig(
        image_size=28, patch_size=28, num_channels=1, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, num_labels=10, position_embedding="none", use_cls_token=False, pooling="mean",
    )  # fmt: skip
    model = ViTCustomForImageClassification(config).eval()
    images = torch.randn(4, 1, 28, 28)
    projection = model.vit.embeddings.patch_embeddings.projection
    assert projection.weight.numel() == 784 * 64
    token = images.flatten(1) @ projection.weight.flatten(1).T + projection.bias  # linear
    assert torch.allclose(model.vit.embeddings(images)[:, 0], token, atol=1e-5)
    for layer in model.vit.layers:  # encoder: one token attends to itself, so attention is o(v(x))
        normed = layer.layernorm_before(token)
        token = token + layer.attention.o_proj(layer.attention.v_proj(normed))
        token = token + layer.mlp(layer.layernorm_after(token))
    expected = model.classifier(model.vit.layernorm(token))  # linear
    torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-5)


def test_eager_attention_keeps_float64():
    query = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    _, weights = eager_attention(torch.nn.Identity().eval(), query, query, query, None, scaling=0.5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 3, dtype=torch.float64), rtol=0, atol=1e-15)
