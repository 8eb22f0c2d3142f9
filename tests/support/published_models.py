"""A small classifier of photographs in its published form: staged, with golden outputs and a card."""

from pathlib import Path

from image_files import CHINA, FLOWER
from safetensors.torch import load_file, save_file
from saved_models import save_ours

from modeling_vit_custom.publishing.golden import write_golden
from modeling_vit_custom.publishing.staging import stage

NAMES = {0: "palace", 1: "flower", 2: "digit"}
CARD = """---
library_name: transformers
pipeline_tag: image-classification
license: apache-2.0
---
# A tiny model
"""


def publish_tiny(root: Path) -> Path:
    """Write a complete `root`/published; a fresh process computes the golden outputs."""
    folder = root / "published"
    stage(save_ours(root / "trained", num_channels=3, id2label=NAMES, num_labels=3), folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 0.3  # keeps scores away from 0 and 1, so that changes show
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "README.md").write_text(CARD)
    write_golden(folder, [CHINA, FLOWER])
    return folder
