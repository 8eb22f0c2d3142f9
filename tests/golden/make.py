"""Writes the golden repository of this version: `python tests/golden/make.py`. Run once, at a release."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from golden_digits import digits

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomImageProcessor,
    ViTCustomImageProcessorPil,
    __version__,
)

ARCHITECTURES = {
    "patch": {"num_register_tokens": 1, "pooling": "cls_mean", "layer_scale_init_value": 0.5},
    "conv": {"stem": "conv", "pooling": "mean", "use_cls_token": False, "position_embedding": "sincos2d"},
}


def main():
    for name, fields in ARCHITECTURES.items():
        torch.manual_seed(0)
        config = ViTCustomConfig(
            hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=(16, 12),
            patch_size=4, num_channels=1, id2label={0: "zero", 1: "one", 2: "two"}, **fields,
        )  # fmt: skip
        model = ViTCustomForImageClassification(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        folder = Path(__file__).parent / f"{name}-{__version__}"
        model.save_pretrained(folder)
        expected = {}
        for processor in (ViTCustomImageProcessor.for_model(config), ViTCustomImageProcessorPil.for_model(config)):
            processor.save_pretrained(folder)
            with torch.no_grad():
                expected[processor.backend] = model(**processor(digits(), return_tensors="pt")).logits.tolist()
        (folder / "expected_logits.json").write_text(json.dumps(expected, indent=1) + "\n")
        for module in folder.glob("*.py"):
            module.unlink()  # later versions load it with their own code


if __name__ == "__main__":
    main()
