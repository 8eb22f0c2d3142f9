"""What the quick start shows of a saved folder. Run as a file in a fresh process, never imported.

Arguments: the model's folder, then image files DIR/<truth>/name.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.utils.logging import disable_progress_bar


def main(folder: str, files: list[str]) -> None:
    disable_progress_bar()
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = model(processor(files, return_tensors="pt")["pixel_values"]).logits
    named = [model.config.id2label[i] for i in logits.argmax(-1).tolist()]

    classify = pipeline("image-classification", model=folder, trust_remote_code=True)
    print("truth  predicted  score  file")
    for file, name, results in zip(files, named, classify(files, top_k=1), strict=True):
        best, truth = results[0], Path(file).parent.name
        if best["label"] != name:
            raise SystemExit(f"{file}: the model says {name}, the pipeline {best['label']}")
        place = "/".join(Path(file).parts[-3:])
        print(f"{truth:>5}  {best['label']:>9}  {best['score']:.3f}  {place}{'' if truth == name else '   WRONG'}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
