"""What to do after a training: what its figures say is missing, and the commands that follow."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...audit.findings import Finding
from ...publishing.facts import SPLITS

FEW_PASSES = {True: 5, False: 1}  # over the images; from random weights, from a checkpoint
FEW_IMAGES = 2_000  # below, a checkpoint does better than random weights
FEW_MEASURED = 100  # below, the 95% interval of a share is wider than ±8 points
UNEVEN = 0.05  # by which accuracy exceeds macro F1 where rare classes are learned badly

Step = tuple[str, str]  # a sentence, and a command or nothing


def next_steps(
    folder: Path, run: Mapping[str, Any], metrics: Mapping[str, Any], findings: Sequence[Finding]
) -> list[Step]:
    """Return what to do next, the most important first.

    run, metrics: contents of training_args.json and metrics.json.   findings: of the audit before training.
    """
    model = shlex.quote(str(folder))
    return [
        *_longer(run, metrics),
        *_data(run, metrics, findings),
        ("Classify images:", f"vit-custom predict --model {model} PHOTO.jpg"),
        (
            "Measure it on other images:",
            f"vit-custom evaluate --model {model} --data_dir FOLDER --html page.html",
        ),
        ("Publish it:", f"vit-custom publish --model {model} --repo_id NAME/MODEL"),
    ]


def _longer(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Step]:
    train, model, best = metrics["train"], run.get("model", {}), metrics.get("best") or {}
    passes = train.get("epochs")
    if passes is None or "fitted" in train:
        return []
    scratch = not model.get("model_name_or_path")
    if passes < FEW_PASSES[scratch]:
        start = "from random weights" if scratch else "from a checkpoint"
        return [(f"{passes:.2g} passes over the images {start}: far from finished. Give it more:", "--max_minutes")]
    if best.get("step") and best["step"] == train.get("steps") and train.get("stopped_by") != "early stopping":
        return [("The last validation was the best one: a longer training may be better:", "--num_train_epochs")]
    return []


def _data(run: Mapping[str, Any], metrics: Mapping[str, Any], findings: Sequence[Finding]) -> list[Step]:
    train, training, data = metrics["train"], run.get("training", {}), run.get("data", {})
    steps: list[Step] = []
    if not run.get("model", {}).get("model_name_or_path") and train["n"] < FEW_IMAGES:
        few = f"{train['n']:,} images are few for random weights. Start from a checkpoint:"
        steps.append((few, "--model_name_or_path"))
    last: Mapping[str, Any] = next((metrics[split] for split in reversed(SPLITS) if split in metrics), {})
    weighed = training.get("class_weights") == "balanced" or data.get("balanced_sampling")
    gap = last.get("accuracy", 0.0) - last.get("macro_f1", 1.0)
    if gap > UNEVEN and not weighed and any(one.code == "imbalance" for one in findings):
        steps.append(("Rare classes are recognised worse than frequent ones:", "--class_weights balanced"))
    if 0 < last.get("n", 0) < FEW_MEASURED and run.get("model", {}).get("model_name_or_path"):
        steps.append((f"{last['n']} images measure it roughly. Measure it on all of them in turn:", "--folds 5"))
    return steps
