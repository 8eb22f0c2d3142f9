"""The parity table: each family at the size of a published B/16, with random parameters, through `convert --check`.

`python tests/support/conversion_table.py` prints it as Markdown. The tests of each family compare tiny models in
float64
within 1e-9. Here source and conversion run in float32, at the native size, at a larger square and at an oblong.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import meta_layouts
import numpy as np
import timm
import torch
import torchvision
import transformers
from flax_vit import NEW, Spec, random_arrays, stored

from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.check import compare
from modeling_vit_custom.conversion.sources import Opened, from_timm, from_torchvision, open_source

LABELS = {"id2label": {i: f"class {i}" for i in range(5)}}
# models of transformers: class, configuration class, fields that differ from B/16 at 224 pixels
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", LABELS),
    "deit, two heads": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", LABELS),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {"patch_size": 14, **LABELS}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", {"patch_size": 14, **LABELS},
    ),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 4}),
    "vit_mae": ("ViTMAEModel", "ViTMAEConfig", {"mask_ratio": 0.0}),
    "ijepa": ("IJepaForImageClassification", "IJepaConfig", LABELS),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", {}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", {}),
}  # fmt: skip
B16 = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
TIMM = {
    "vit_base_patch16_224": {},
    "vit_base_patch16_clip_224.openai": {},
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_reg4_gap_256": {},
    "vit_base_patch14_reg4_dinov2": {"img_size": 224},
    "deit3_base_patch16_224": {},
    "deit_base_distilled_patch16_224": {},
    "vit_base_patch16_dinov3": {},
}
FULL = {"width": 768, "heads": 12, "mlp": 3072, "depth": 12, "patch": 16, "side": 224, "classes": 1000}
GOOGLE = {
    "vision_transformer": (Spec(**FULL, pre_logits=768), {}),
    "big_vision": (Spec(NEW, "pos_embedding", cls_in_positions=False, pool="map", **FULL), {"scanned": True}),
}
META = [name for name in meta_layouts.LAYOUTS if "full size" in name]
ROWS = [
    *(f"transformers/{name}" for name in TRANSFORMERS),
    *(f"timm/{name}" for name in TIMM),
    *(f"Google/{name}" for name in GOOGLE),
    *(f"Meta/{name}" for name in META),
    "torchvision/vit_b_16",
]


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise to every parameter: to matrices about as much as they were initialised with, to vectors and tokens
    more."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.02 if parameter.ndim in (2, 4) else 0.2))
    return model.eval()


def open_row(row: str, folder: Path) -> Opened:
    """Open the source of a row as the command opens it."""
    library, _, name = row.partition("/")
    torch.manual_seed(0)
    if library == "transformers":
        cls, config, fields = TRANSFORMERS[name]
        source = randomised(getattr(transformers, cls)(getattr(transformers, config)(**{**B16, **fields})))
        source.save_pretrained(folder / "source")
        return open_source(str(folder / "source"), {})
    if library == "timm":
        return from_timm(randomised(timm.create_model(name, dynamic_img_size=True, **TIMM[name])), f"timm:{name}", {})
    if library == "torchvision":
        weights = torchvision.models.ViT_B_16_Weights.DEFAULT
        return from_torchvision(randomised(torchvision.models.vit_b_16()), weights, row, {})
    if library == "Google":
        spec, layout = GOOGLE[name]
        np.savez(folder / "model.npz", **stored(random_arrays(spec), **layout))
        return open_source(str(folder / "model.npz"), {})
    torch.save(meta_layouts.random_state(meta_layouts.LAYOUTS[name]), folder / "model.pth")
    return open_source(str(folder / "model.pth"), {})


def check_row(row: str, folder: Path) -> dict[str, Any]:
    """Return the report of `--check` for a row."""
    opened = open_row(row, folder)
    made = build(opened.source, opened.family)
    return compare(opened.reference(made), made.model, made.processor)


def main() -> int:
    print("| source | size | max \\|Δlogit\\|, relative | max \\|Δfeature\\|, relative | top-1 | grey levels |")
    print("|---|---|---|---|---|---|")
    failed = False
    for row in sys.argv[1:] or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            report = check_row(row, Path(folder))
        failed |= not report["passed"]
        for found in report["from_tensors"]:
            figures = [f"{found[kind]['relative']:.0e}" if kind in found else "–" for kind in ("logit", "feature")]
            size, top1 = "×".join(map(str, found["size"])), found.get("top1", "–")
            grey = f"{report['from_pixels']['grey_levels']:.2f}"
            print(f"| {row} | {size} | {' | '.join(figures)} | {top1} | {grey} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
