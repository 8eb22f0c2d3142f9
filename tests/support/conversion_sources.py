"""One small source of each kind that `convert` reads, with random parameters."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from flax_vit import NEW, Spec, random_arrays
from meta_layouts import LAYOUTS, random_state
from torchvision.models.vision_transformer import VisionTransformer

from modeling_vit_custom.conversion.sources import Opened, from_timm, open_source

HEADS = {"num_attention_heads": 4}  # the files do not say how many heads there are
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8, "id2label": {i: f"class {i}" for i in range(5)},
}  # fmt: skip


@torch.no_grad()
def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise to every parameter: norms, scales, biases and tokens too."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.eval().parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def of_timm(folder: Path) -> Opened:
    model = timm.create_model(
        "vit_base_patch16_224", embed_dim=32, depth=1, num_heads=4, num_classes=5, img_size=32, patch_size=8,
        init_values=0.5, qk_norm=True, reg_tokens=2, dynamic_img_size=True,
    )  # fmt: skip
    return from_timm(randomised(model), "timm:tiny", {})


def of_transformers(folder: Path) -> Opened:
    config = transformers.Dinov2WithRegistersConfig(**TINY, num_register_tokens=2)
    randomised(transformers.Dinov2WithRegistersForImageClassification(config)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}
    transformers.BitImageProcessor(**size, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return open_source(str(folder), {})


def of_google(folder: Path) -> Opened:
    """Make a file of vision_transformer: it resizes the whole image, without antialiasing."""
    np.savez(folder / "model.npz", **random_arrays(Spec(pre_logits=24, depth=1)))
    return open_source(str(folder / "model.npz"), {})


def of_big_vision(folder: Path) -> Opened:
    """Make a file of big_vision: it resizes by area and crops; the class token has no position."""
    spec = Spec(names=NEW, positions="pos_embedding", cls_in_positions=False, depth=2)
    np.savez(folder / "model.npz", **random_arrays(spec))
    return open_source(str(folder / "model.npz"), {})


def of_meta(folder: Path) -> Opened:
    state = random_state(LAYOUTS["meta_deit, distilled"])
    torch.save({name: tensor.float() for name, tensor in state.items()}, folder / "model.pth")
    return open_source(str(folder / "model.pth"), HEADS)


def of_torchvision(folder: Path) -> Opened:
    model = VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=5, representation_size=24)
    torch.save(randomised(model).state_dict(), folder / "model.pth")
    return open_source(str(folder / "model.pth"), HEADS)


SOURCES: Mapping[str, Callable[[Path], Opened]] = {
    "timm": of_timm,
    "transformers": of_transformers,
    "google": of_google,
    "big_vision": of_big_vision,
    "meta": of_meta,
    "torchvision": of_torchvision,
}
