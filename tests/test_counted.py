"""Python calls and ATen operations of one eager forward, counted beside timm's and transformers' models of its size."""

import cProfile
import pstats

import pytest
import torch
from timm import __version__ as timm_version
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import ViTConfig, ViTForImageClassification

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.engines.output import OutputOf

SIZE = {
    "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 256, "image_size": 32,
    "patch_size": 8, "num_labels": 10,
}  # fmt: skip


def calls(model: nn.Module, images: torch.Tensor) -> int:
    """Count Python calls, built-in functions included, of a forward that is not the first."""
    with torch.inference_mode():
        model.eval()(images)
        profiler = cProfile.Profile()
        profiler.enable()
        model(images)
        profiler.disable()
    return pstats.Stats(profiler).total_calls  # type: ignore[attr-defined]


def operations(model: nn.Module, images: torch.Tensor) -> int:
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as found:
        model.eval()(images)
    return sum(event.count for event in found.key_averages() if event.key.startswith("aten::"))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_forward_makes_no_more_calls_than_timm_and_operations_than_transformers_and_fused_than_timm():
    images = torch.randn(1, 3, 32, 32)
    ours = ViTCustomForImageClassification(ViTCustomConfig(**SIZE)).eval()
    fused = OutputOf(ours, "logits").fused_qkv.model
    timm = VisionTransformer(img_size=32, patch_size=8, num_classes=10, embed_dim=64, depth=12, num_heads=4)
    transformers = ViTForImageClassification(ViTConfig(**SIZE))
    found = {
        name: (calls(model, images), operations(model, images))
        for name, model in (("ours", ours), ("fused", fused), ("timm", timm), ("transformers", transformers))
    }
    said = f"{found} with torch {torch.__version__}, timm {timm_version}"
    assert found["ours"][0] <= found["timm"][0] and found["ours"][1] <= found["transformers"][1], said
    assert found["fused"][0] < found["ours"][0] and found["fused"][1] <= found["timm"][1], said
    torch.testing.assert_close(fused(images).logits, ours(images).logits, rtol=0, atol=1e-6)
