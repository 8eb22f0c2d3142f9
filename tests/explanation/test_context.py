"""Explaining leaves nothing behind in the model, and the forward is the model's own."""

import threading

import pytest
import torch
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.explanation.explain import explain
from modeling_vit_custom.explanation.methods.context import encoder_of, prepared
from modeling_vit_custom.explanation.methods.table import METHODS
from modeling_vit_custom.explanation.methods.trace import traced


def state_of(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs",
             "_forward_pre_hooks_with_kwargs")  # fmt: skip
    return (
        [module.training for module in model.modules()],
        [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()],
        [len(getattr(module, name)) for module in model.modules() for name in hooks],
        [sorted(vars(module)) for module in model.modules()],
        model.config.to_dict(), model.config._attn_implementation,
    )  # fmt: skip


@pytest.mark.parametrize("method", [name for name in METHODS if name != "ig"])
def test_everything_is_put_back_also_after_an_error(random_model, pixel_values, method):
    model: ViTCustomForImageClassification = random_model(ViTCustomConfig(**TINY)).train()
    model.vit.layers[1].eval()
    model.classifier.weight.requires_grad_(False)
    model.gradient_checkpointing_enable()
    before, weights = state_of(model), {name: value.clone() for name, value in model.state_dict().items()}
    target = None if method == "similarity" else 1
    explain(model, pixel_values, target, method, check=False, confirm=0)
    assert state_of(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())

    class Broken(Exception):
        pass

    def broken(outputs):
        raise Broken

    for hook in (model.vit.layers[2].register_forward_hook, model.vit.embeddings.register_forward_hook):
        handle = hook(lambda *_: broken(None))
        with pytest.raises(Broken):
            explain(model, pixel_values, target, method, check=False, confirm=0)
        handle.remove()
        assert state_of(model) == before


def test_the_head_of_legrad_is_put_back_after_an_error(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    calls = []

    def fails_in_the_end(outputs):
        calls.append(1)
        if len(calls) > 2:
            raise ZeroDivisionError
        return outputs.logits[:, 0]

    before = state_of(model)
    with pytest.raises(ZeroDivisionError):
        explain(model, pixel_values, fails_in_the_end, "legrad", check=False, confirm=0)
    assert state_of(model) == before


def test_logits_inside_are_those_outside(any_config, random_model, pixel_values):
    model = random_model(any_config)
    outside, plain = model(pixel_values).logits, None
    every = ({}, 1e-5), ({"libra": True}, 0.0), ({"weights": True}, 1e-5), ({"weights": True, "libra": True}, 1e-5)
    for kwargs, most in every:
        with prepared(model), traced(model, encoder_of(model), **kwargs):
            inside = model(pixel_values=pixel_values).logits
        # which kernel multiplies depends, on some processors, on whether parameters need gradients
        assert (inside - outside).abs().max() <= 1e-5
        plain = inside if plain is None else plain
        assert (inside - plain).abs().max() <= most


def test_it_explains_under_no_grad_inference_mode_and_autocast(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    wanted = explain(model, pixel_values, 1, confirm=0).grid
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(explain(model, pixel_values, 1, confirm=0).grid, wanted)
    with torch.inference_mode():
        assert torch.equal(explain(model, pixel_values + 0, 1, confirm=0).grid, wanted)
        for method in ("place", "chefer", "legrad", "hirescam"):
            found = explain(model, pixel_values + 0, 1, method, check=False, confirm=0).grid
            assert found.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_half_precision_a_float32_copy_is_explained(random_model, pixel_values, dtype):
    model = random_model(ViTCustomConfig(**TINY)).to(dtype)
    found = explain(model, pixel_values, 1, confirm=0)
    assert found.completeness.max() < 1e-4 and "float32 copy" in found.notes[0]
    assert next(model.parameters()).dtype == dtype
    assert torch.equal(found.grid, explain(model.float(), pixel_values, 1, confirm=0).grid)


def test_float64_models_are_explained_as_they_are(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    single = explain(model, pixel_values, 1, confirm=0)
    double = explain(model.double(), pixel_values, 1, confirm=0)
    assert double.grid.dtype == torch.float32 and double.notes == single.notes
    torch.testing.assert_close(double.grid, single.grid, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_every_attention_backend_is_explained_alike(random_model, pixel_values, attention):
    model = random_model(ViTCustomConfig(**TINY))
    for method in ("libra", "place"):
        wanted = explain(model, pixel_values, 1, method, check=False, confirm=0).grid
        model.config._attn_implementation = attention
        with prepared(model):
            torch.testing.assert_close(_without_answers(model, pixel_values, method), wanted, rtol=1e-3, atol=1e-6)
        model.config._attn_implementation = "sdpa"


def _without_answers(model, pixels, method):
    """Return the grid by the method alone: flex attention's plain forward needs a compiler."""
    from modeling_vit_custom.explanation.methods.work import Work

    scored = lambda outputs, places: outputs.logits[:, 1]  # noqa: E731
    work = Work(model, encoder_of(model), pixels, scored, (3, 4), (24, 32), complete=False)
    return METHODS[method].run(work).grid


def test_two_threads_explain_one_model(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    methods = ("libra", "chefer", "legrad", "place")
    wanted = {name: explain(model, pixel_values, 1, name, check=False, confirm=0).grid for name in methods}
    found = {}

    def run(name):
        found[name] = explain(model, pixel_values, 1, name, check=False, confirm=0).grid

    threads = [threading.Thread(target=run, args=(name,)) for name in methods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in methods:
        assert torch.equal(found[name], wanted[name]), name


def test_compiled_models_are_explained_without_their_compiled_code(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY))
    wanted = explain(model, pixel_values, 1, check=False, confirm=0).grid
    outer = torch.compile(model, backend=_fails)
    assert torch.equal(explain(outer, pixel_values, 1, check=False, confirm=0).grid, wanted)
    model.compile(backend=_fails)
    assert torch.equal(explain(model, pixel_values, 1, check=False, confirm=0).grid, wanted)
    assert model._compiled_call_impl is not None


def _fails(*_):
    raise AssertionError("compiled")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapted_models_are_explained(random_model, pixel_values):
    peft = pytest.importorskip("peft")
    model = random_model(ViTCustomConfig(**TINY))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "fc1"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    found = explain(adapted, pixel_values, 1, confirm=0)
    assert found.completeness.max() < 1e-4
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(found.grid, explain(merged, pixel_values, 1, confirm=0).grid, rtol=1e-3, atol=1e-5)


def test_models_without_gradients_are_refused_but_for_occlusion(random_model, pixel_values):
    torchao = pytest.importorskip("torchao.quantization")
    model = random_model(ViTCustomConfig(**TINY))
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    for method in ("libra", "chefer", "ig", "gradcam"):
        with pytest.raises(ValueError, match=r"is quantised and has no exact gradients: .*occlusion"):
            explain(model, pixel_values, 1, method)
    assert explain(model, pixel_values, 1, "occlusion", check=False).grid.shape == (3, 3, 4)
    with pytest.raises(ValueError, match="function is no torch model"):
        explain(lambda pixels: pixels, pixel_values, 1)


def test_exported_models_and_those_of_other_libraries_are_explained_by_occlusion(random_model, pixel_values):
    from transformers import ViTConfig, ViTForImageClassification

    from modeling_vit_custom.engines.exported import ExportedClassifier

    model = random_model(ViTCustomConfig(**TINY))
    record = {"sha256": "00" * 32, "input": [1, 3, 24, 32], "dynamic": ["batch"], "preprocessing": False}
    export = ExportedClassifier(model.config, lambda pixels: model(pixels).logits, record)
    with pytest.raises(ValueError, match=r"reads this package's encoder, which ExportedClassifier does not have"):
        explain(export, pixel_values, 1)
    with pytest.raises(ValueError, match=r"'ig' needs gradients, and ExportedClassifier runs in another runtime"):
        explain(export, pixel_values, 1, "ig")
    found = explain(export, pixel_values, 1, "occlusion", confirm=2)
    wanted = explain(model, pixel_values, 1, "occlusion", confirm=2)
    torch.testing.assert_close(found.grid, wanted.grid)
    assert found.confirmed == wanted.confirmed

    other = ViTForImageClassification(ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=24, patch_size=8,
        num_labels=3,
    )).eval()  # fmt: skip
    pixels = pixel_values[:, :, :, :24]
    with pytest.raises(ValueError, match=r"ViTForImageClassification does not have.*occlusion"):
        explain(other, pixels, 1)
    found = explain(other, pixels, 1, "occlusion")
    assert found.grid.shape == (3, 3, 3) and found.faithfulness is not None
    assert explain(other, pixels, 1, "ig", check=False).grid.shape == (3, 3, 3)
