"""Measurement of how a folder of timm's behaves on another machine. Run as a file in a fresh process, never imported.

Arguments and report are those of `fresh_check`: timm prepares the images, and gives the outputs and the scores.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file

LIBRARIES = ("torch", "torchvision", "timm", "pillow")
SCORES = {"multi_label_classification": torch.sigmoid, "regression": lambda outputs: outputs}


def load_strictly(folder, task):
    """Load the model; return it with the names of the tensors on which file and model differ."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    stored: dict = {}
    for path in Path(folder).glob("*.safetensors"):
        stored |= load_file(path)
    loaded = model.state_dict()
    differing = [
        name for name in stored.keys() & loaded.keys() if not torch.equal(stored[name].to(loaded[name]), loaded[name])
    ]
    return model, {
        "missing_keys": sorted(loaded.keys() - stored.keys()),
        "unexpected_keys": sorted(stored.keys() - loaded.keys()),
        "mismatched_keys": sorted(differing),
    }


def run_model(model, images):
    """Return the outputs [images, numbers], one image at a time, prepared by timm's transform."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    mode = "L" if model.pretrained_cfg["input_size"][0] == 1 else "RGB"
    with torch.no_grad():
        return [
            model.float()(transform(Image.open(image, formats=["PNG"]).convert(mode)).unsqueeze(0))[0].tolist()
            for image in images
        ]


def answers(model, task, rows):
    """Return [{"label", "score"}] for each image, best first; without labels, the outputs."""
    names = model.pretrained_cfg.get("label_names")
    if not names:
        return rows
    score = SCORES.get(task["problem_type"], lambda outputs: outputs.softmax(-1))
    scored = [zip(names, score(torch.tensor(row)).tolist(), strict=True) for row in rows]
    pairs = [[{"label": label, "score": value} for label, value in row] for row in scored]
    return [sorted(row, key=lambda each: -each["score"]) for row in pairs]


def main(folder, report, task, *images):
    measured: dict = {"outputs": {}, "versions": {name: version(name) for name in LIBRARIES}}
    task = json.loads(task)
    try:
        model, measured["load"] = load_strictly(folder, task)
        measured["classes"] = [f"{type(model).__module__}.{type(model).__name__}", "timm's transform"]
        if images:
            measured["outputs"]["timm"] = run_model(model, images)
            measured["pipeline"] = answers(model, task, measured["outputs"]["timm"])
    except BaseException as error:
        failed = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        measured |= {"classes": failed, **({} if "load" in measured else {"load": failed}), "pipeline": failed}
        measured["outputs"].setdefault("timm", failed)
    Path(report).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
