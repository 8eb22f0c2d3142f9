"""On a GPU: the answers equal the CPU's with every attention kernel, format and compiler; trainings resume.

Run by `make test-gpu`. Convolutions on a GPU round to TF32 by default; these tests switch that off.
Shapes: B batch, C channels, H×W pixels.
"""

import json
import shutil

import pytest
import torch
from real_digits import write_class_folder
from safetensors.torch import load_file
from saved_models import save_ours
from tiny import TINY
from tiny_training import tiny_train
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.cli import main as vit_custom
from modeling_vit_custom.engines import fastest as choosing
from modeling_vit_custom.engines.fastest import EXACT, fastest
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.training.optimization.muon import orthogonal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
MANY = 10**9  # so many images that a quarter of their time is enough to choose
HEADS_OF_16 = {**TINY, "hidden_size": 64}  # flex attention's kernel needs heads of at least 16


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    expected = expected.float().cpu()
    return float((found.float().cpu() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_logits_are_those_of_the_cpu(any_config, random_model, pixel_values, backend):
    model = random_model(any_config).eval()
    with torch.inference_mode():
        expected = model(pixel_values).logits
        model.set_attn_implementation(backend)
        model.cuda()
        assert apart(model(pixel_values.cuda()).logits, expected) < 1e-5
        for form, most in ((torch.bfloat16, 0.1), (torch.float16, 0.01)):
            model.to(form)
            assert apart(model(pixel_values.to("cuda", form)).logits, expected) < most


@pytest.mark.parametrize("merging", [None, "1.5x"])
def test_flex_attention_and_its_gradients(random_model, pixel_values, merging):
    model = random_model(ViTCustomConfig(**HEADS_OF_16, token_merging=merging)).cuda()
    labels = torch.tensor([0, 1, 2]).cuda()
    found = {}
    for backend in ("sdpa", "flex_attention"):
        model.set_attn_implementation(backend)
        model.zero_grad()
        output = model(pixel_values.cuda(), labels=labels)
        output.loss.backward()
        found[backend] = [output.logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    for ours, theirs in zip(found["flex_attention"], found["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", [torch.bfloat16, torch.float16])
def test_the_flash_kernel(random_model, pixel_values, form):
    model = random_model(ViTCustomConfig(**TINY)).to("cuda", form)
    images, labels = pixel_values.to("cuda", form), torch.tensor([0, 1, 2]).cuda()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model(images).logits
    model.set_attn_implementation("sdpa")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # no other kernel is allowed: an error if it cannot run
        output = model(images, labels=labels)
        output.loss.backward()
    assert apart(output.logits.detach(), expected) < 0.05
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_attentions_are_given_under_the_flash_kernel(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY)).eval().to("cuda", torch.bfloat16)
    with torch.inference_mode():
        weights = model(pixel_values.to("cuda", torch.bfloat16), output_attentions=True).attentions
    torch.testing.assert_close(weights[0].float().sum(-1), torch.ones(3, 4, 13, device="cuda"), rtol=0, atol=0.02)


@pytest.mark.parametrize("merging", ["1.5x", 2])
def test_token_merging(random_model, pixel_values, merging):
    model = random_model(ViTCustomConfig(**TINY, token_merging=merging)).eval()
    with torch.inference_mode():
        expected = model(pixel_values)
        tokens = model.vit(pixel_values).last_hidden_state
        model.cuda()
        assert apart(model(pixel_values.cuda()).logits, expected.logits) < 1e-5
        assert apart(model.vit(pixel_values.cuda()).last_hidden_state, tokens) < 1e-5
        compiled = torch.compile(model, fullgraph=True)
        assert apart(compiled(pixel_values.cuda()).logits, expected.logits) < 1e-5


def test_a_compiled_step_is_the_eager_one(random_model, pixel_values):
    model = random_model(ViTCustomConfig(**TINY)).cuda()
    found = []
    for call in (model, torch.compile(model)):
        model.zero_grad()
        call(pixel_values.cuda(), labels=torch.tensor([0, 1, 2]).cuda()).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for compiled, eager in zip(*reversed(found), strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)


def test_muon_orthogonalizes_as_on_the_cpu():
    matrix = torch.randn(2, 48, 32)
    assert apart(orthogonal(matrix.cuda()), orthogonal(matrix)) < 0.05  # the GPU computes in bfloat16


# ---------- predicting


@pytest.mark.parametrize("engine", ["compiled", "graphs"])
def test_each_engine_is_exact_and_kept(tmp_path, monkeypatch, engine):
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "cache"))
    model, processor = load_classifier(str(save_ours(tmp_path / "model")))
    assert model.device.type == "cuda"
    images, more = torch.randn(4, 1, 24, 32), torch.randn(9, 1, 24, 32).cuda()
    found, said = fastest(model, processor, images, MANY, engines=["eager", engine])
    assert "times eager (images/s: " in said and f"{engine}, 4 images a call" in said
    again, said = fastest(model, processor, images, MANY, engines=["eager", engine])
    assert "chosen before" in said
    with torch.inference_mode():
        for way in (found, again):
            assert float((way(more).logits - model(more).logits).abs().max()) <= EXACT


def test_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "WORTH", 0.0)
    folder = save_ours(tmp_path / "model")
    write_class_folder(tmp_path / "photos", {"0": 5, "1": 4})
    scores = {}
    for flags in ([], ["--fast"], ["--dtype", "bfloat16"]):
        output = tmp_path / f"{len(scores)}.jsonl"
        line = ["--model", str(folder), str(tmp_path / "photos"), "--output", str(output), "--batch_size", "4", *flags]
        assert vit_custom(["predict", *line]) == 0
        rows = [json.loads(row) for row in output.read_text().splitlines()]
        scores[" ".join(flags)] = [row["predictions"][0]["score"] for row in rows]
    assert "note: engine: " in capsys.readouterr().out
    assert scores["--fast"] == pytest.approx(scores[""], abs=1e-4)
    assert scores["--dtype bfloat16"] == pytest.approx(scores[""], abs=0.05)
    assert scores["--dtype bfloat16"] != scores[""]


def test_the_speed_table(tmp_path):
    folder = save_ours(tmp_path / "model")
    write_class_folder(tmp_path / "photos", {str(i): 4 for i in range(10)})
    line = ["--model", str(folder), "--data_dir", str(tmp_path / "photos"), "--seconds", "0.1", "--formats", "float16"]
    assert vit_custom(["speed_table", *line, "--token_merging", "1.5x", "--sizes", "0.5"]) == 0
    report = json.loads((folder / "speeds.json").read_text())
    assert {row["format"] for row in report["rows"]} == {"float32", "float16"}
    assert report["device"] == torch.cuda.get_device_name()


# ---------- training

RUN = (
    "--use_cpu", "false", "--train_val_split", 0.25, "--max_steps", 6, "--save_strategy", "steps", "--save_steps", 2,
    "--save_total_limit", 9, "--eval_strategy", "steps", "--eval_steps", 2, "--logging_steps", 1,
)  # fmt: skip
EVERYTHING = (
    "--augmentation", "standard", "--mixup", 0.5, "--cutmix", 1, "--ema_decay", 0.9, "--layer_decay", 0.5,
    "--muon", "true", "--gradient_checkpointing", "true",
)  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--bf16", "true"),
        ("--fp16", "true"),
        ("--bf16", "true", "--torch_compile", "true"),
        ("--bf16", "true", *EVERYTHING),
        ("--bf16", "true", "--method", "lora", "--lora_rank", 2),
    ],
    ids=["float32", "bf16", "fp16", "bf16 compiled", "bf16 everything", "bf16 LoRA"],
)
def test_a_training_resumes_as_if_nothing_had_happened(tmp_path, flags):
    write_class_folder(tmp_path / "digits", {str(i): 4 for i in range(10)})
    model = ["--model_name_or_path", str(save_ours(tmp_path / "base"))] if "--method" in flags else None
    whole, again = tmp_path / "whole", tmp_path / "again"
    line = ("--train_dir", tmp_path / "digits", *RUN, *flags)
    tiny_train(whole, *line, model=model)
    shutil.copytree(whole, again)
    for step in (4, 6):
        shutil.rmtree(again / f"checkpoint-{step}")
    (again / "model.safetensors").unlink()
    tiny_train(again, *line, model=model)
    assert json.loads((again / "metrics.json").read_text())["train"]["resumed"]
    found, expected = (load_file(folder / "model.safetensors") for folder in (again, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
