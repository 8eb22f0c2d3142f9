"""Teachers: small networks of three libraries, fitted to a few digits and saved in the library's own way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from PIL import Image
from real_digits import write_class_folder
from safetensors.torch import save_file
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

Transform = Callable[[Image.Image], torch.Tensor]
SIDE = 32


def pictures(root: Path) -> tuple[list[Image.Image], torch.Tensor, list[str]]:
    """Return (RGB images from folders of classes, their class ids in the order of the names, the names)."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = [(path, i) for i, name in enumerate(names) for path in sorted((root / name).glob("*.png"))]
    return [Image.open(path).convert("RGB") for path, _ in files], torch.tensor([i for _, i in files]), names


def fitted(module: torch.nn.Module, root: Path, prepare: Transform, steps: int = 10) -> torch.nn.Module:
    """Train `module` on the whole folder as one batch, whose statistics its batch norms keep."""
    images, labels, _ = pictures(root)
    batch, optimizer = torch.stack([prepare(image) for image in images]), torch.optim.Adam(module.parameters(), lr=1e-3)
    for part in module.train().modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    for _ in range(steps):
        output = module(batch)
        loss = torch.nn.functional.cross_entropy(getattr(output, "logits", output), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        module(batch)
    return module.eval()


def of_timm(root: Path, to: Path) -> tuple[torch.nn.Module, Transform, list[str]]:
    """Save a state dict of timm's training script; return (model, its preprocessing, flags)."""
    settings = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875}
    model = timm.create_model("test_resnet", num_classes=len(pictures(root)[2]))
    prepare = timm.data.create_transform(**timm.data.resolve_data_config(settings, model=model))
    fitted(model, root, prepare)
    torch.save({"epoch": 3, "arch": "test_resnet", "state_dict": model.state_dict()}, to / "model_best.pth.tar")
    config = f"image_size={SIDE},image_mean=[0.5,0.5,0.5],image_std=[0.5,0.5,0.5],crop_pct=0.875"
    flags = ["--teacher", "timm:test_resnet", "--teacher_weights", str(to / "model_best.pth.tar")]
    return model, prepare, [*flags, "--teacher_config", config]


def of_torchvision(root: Path, to: Path) -> tuple[torch.nn.Module, Transform, list[str]]:
    """Save a fine-tuned resnet18 as safetensors; return the same."""
    model = torchvision.models.resnet18(num_classes=len(pictures(root)[2]))
    prepare = torchvision.models.ResNet18_Weights.DEFAULT.transforms(crop_size=SIDE, resize_size=36)
    fitted(model, root, prepare, steps=8)
    save_file(model.state_dict(), to / "resnet18.safetensors")
    flags = ["--teacher", "torchvision:resnet18", "--teacher_weights", str(to / "resnet18.safetensors")]
    return model, prepare, [*flags, "--teacher_config", f"image_size={SIDE},crop_pct={SIDE / 36}"]


def of_resnet(root: Path, to: Path) -> tuple[torch.nn.Module, Transform, list[str]]:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return of_transformers(ResNetForImageClassification, config, processor, root, to / "resnet")


def of_convnext(root: Path, to: Path) -> tuple[torch.nn.Module, Transform, list[str]]:
    config = ConvNextConfig(
        num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], patch_size=4, layer_scale_init_value=1.0
    )
    processor = ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.875)
    return of_transformers(ConvNextForImageClassification, config, processor, root, to / "convnext")


def of_transformers(kind, config, processor, root: Path, to: Path) -> tuple[torch.nn.Module, Transform, list[str]]:
    """Save a model by save_pretrained, its class names in reverse order; return the same."""
    config.id2label = dict(enumerate(reversed(pictures(root)[2])))
    model = kind(config)

    def prepare(image: Image.Image) -> torch.Tensor:
        return processor(image, return_tensors="pt")["pixel_values"][0]

    class Turned(torch.nn.Module):
        """The model with its logits in the order of the folders."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return self.model(batch).logits.flip(1)

    turned = fitted(Turned(), root, prepare, steps=30)
    model.save_pretrained(to)
    processor.save_pretrained(to)
    return turned, prepare, ["--teacher", str(to)]


def of_timm_hub(root: Path, to: Path) -> tuple[torch.nn.Module, Transform, list[str]]:
    """Save a folder as timm does for the Hub, with class names; return the same."""
    model = timm.create_model("test_resnet", num_classes=len(pictures(root)[2]))
    settings = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    prepare = timm.data.create_transform(**timm.data.resolve_data_config(settings, model=model))
    fitted(model, root, prepare)
    named = {"label_names": pictures(root)[2]}
    timm.models.save_for_hf(model, to / "timm", model_config=named, data_config=settings, safe_serialization=True)
    return model, prepare, ["--teacher", str(to / "timm")]


TEACHERS = {
    "timm": of_timm,
    "torchvision": of_torchvision,
    "transformers": of_resnet,
    "transformers, ConvNeXt": of_convnext,
    "timm for the Hub": of_timm_hub,
}


def write_noughts_and_ones(root: Path) -> Path:
    """Write 32 training and 16 validation images of the digits 0 and 1."""
    write_class_folder(root / "train", {"0": 16, "1": 16})
    return write_class_folder(root / "validation", {"0": 8, "1": 8}, first=40).parent


class Teachers:
    """Maps a name to (the library's model, its own preprocessing, the flags that name it); each is made once."""

    def __init__(self, root: Path, folders: Any):
        self.root, self.folders, self.made = root, folders, {}

    def __call__(self, name: str) -> tuple[torch.nn.Module, Transform, list[str]]:
        if name not in self.made:
            torch.manual_seed(0)
            self.made[name] = TEACHERS[name](self.root, self.folders.mktemp("teacher"))
        return self.made[name]
