"""A repository's own code of version 0.1.0 and a newer package in one process; run as a file, in a fresh process.

Arguments: which of the two comes first, the repository, a folder for what is saved. Prints the answers of both.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

IMAGE = "examples/0.png"


def remote(folder: Path) -> tuple:
    """Load the repository's classes, with the flag that allows its code."""
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    return model, processor, pipeline("image-classification", model=str(folder), trust_remote_code=True)


def package(folder: Path) -> tuple:
    """Load the package's classes, which need no flag once the package is imported."""
    import modeling_vit_custom

    assert modeling_vit_custom.__version__ == "9.9.9"
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    return model, processor, pipeline("image-classification", model=str(folder))


def main(first: str, repository: str, out: str) -> None:
    folder, ways = Path(repository), {"remote": remote, "package": package}
    opened = {name: ways[name](folder) for name in sorted(ways, key=lambda name: name != first)}
    answered = {}
    for _ in range(2):  # the second time, everything has been used before
        for name, (model, processor, classify) in opened.items():
            with torch.no_grad():
                logits = model(**processor(Image.open(folder / IMAGE), return_tensors="pt")).logits[0].tolist()
            modules = [type(part).__module__ for part in (model, processor, classify.model, classify)]
            best = classify(str(folder / IMAGE))[0]
            answered[name] = {"logits": logits, "modules": modules, "best": best}
            model.save_pretrained(Path(out) / name)
            processor.save_pretrained(Path(out) / name)
    print(json.dumps(answered))


if __name__ == "__main__":
    main(*sys.argv[1:])
