"""What a model is and what came of its training, as sentences and rows for cards and reports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.json_files import read_json
from ..common.model_files import CONFIG, PROCESSOR
from ..configuration_vit_custom import ViTCustomConfig
from ..tasks.hub import CLASSIFICATION, listing_of
from ..tasks.registry import task_named
from .course import course_rows
from .formatting import figure, number, title

FEATURES = "features"
SPLITS = ("cross_validation", "validation", "test")  # the last that there is counts most
# Rows of the recipe that say nothing of a head that was fitted.
OF_STEPS = ("loss", "batch", "optimiser", "learning rate", "schedule", "warm-up", "weight decay", "label smoothing")
# What is recorded of the data besides augmentations that were asked for, or is told with them.
OF_DATA = (
    "examples", "labels", "fingerprint", "teacher", "masks", "augmentation", "view_size", "mix_probability",
    "progressive_resizing", "balanced_sampling", "streaming", "shuffle_buffer", "shots", "folds",
)  # fmt: skip
MAX_ROWS = 100  # a longer table of classes is left to metrics.json
VERSIONS = ("vit_custom", "transformers", "torch", "python")
MUON = ", Muon for the matrices of the blocks"


# ---------- facts for the template


def model_facts(folder: Path) -> dict[str, Any]:
    """What config.json and preprocessor_config.json say: labels, task, input."""
    config = read_json(folder / CONFIG)
    processor = folder / PROCESSOR
    resized = read_json(processor).get("size") or {} if processor.is_file() else {}
    size = config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    id2label = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # which transformers leaves out
    labels = [id2label[key] for key in sorted(id2label, key=int)]
    task = task_named(config.get("problem_type"), len(labels)).name
    encoder = listing_of(config) is not CLASSIFICATION
    return {
        "labels": labels,
        "task": FEATURES if encoder else task,
        "width": ViTCustomConfig.from_dict(config).pooled_size if encoder else None,
        "size": f"{width} × {height}",
        "grey": config["num_channels"] == 1,
        "stretched": "height" in resized,
    }


def sentence(model: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The card's first: what the model is, does, and how well."""
    images = f"{'grey' if model['grey'] else 'colour'} images of {model['size']} pixels"
    if model["task"] == FEATURES:
        does = f"turns {images} into vectors of {model['width']} numbers"
    else:
        does = task_named(model["task"]).does(images, model["labels"])
    parameters, last = results["parameters"], results["last"]
    size = f" of {parameters / 1e6:.2g} million parameters" if parameters else ""
    right = results["headline"] and f" and got {results['headline']} of {results['splits'][last]:,} {shown(last)} right"
    return f"A Vision Transformer{size} that {does}{right or ''}."


def shown(split: str) -> str:
    """The images of a split, as they are called in a sentence."""
    return "images in cross-validation" if split == "cross_validation" else f"{split} images"


def result_facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of metrics.json, written out: a row for each metric, a column for each split."""
    splits = {split: metrics[split]["n"] for split in SPLITS if split in metrics}
    names = dict.fromkeys(name for split in splits for name in metrics[split] if name != "n")
    rows = metrics.get("per_label", {}).get("rows", [])
    last = list(splits)[-1] if splits else None
    accuracy = metrics[last].get("accuracy") if last else None
    return {
        "splits": splits,
        "last": last,
        "last_images": last and shown(last),
        "headline": None if accuracy is None else f"{accuracy:.1%}",
        "results": {title(name): [figure(name, metrics[split], n) for split, n in splits.items()] for name in names},
        "per_label": rows if len(rows) <= MAX_ROWS else [],
        "columns": [name for name in (rows[0] if rows else {}) if name not in ("id", "label")],
        "rarest": min((row["support"] for row in rows if "support" in row), default=None),
        "best": chosen_by_validation(metrics),
        "train_n": metrics.get("train", {}).get("n"),
        "parameters": metrics.get("parameters"),
    }


def chosen_by_validation(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """metrics.json's "best", where its step is the one that was kept; earlier versions do not say which was."""
    best = metrics.get("best") or {}
    kept = metrics.get("train", {}).get("kept_step", best.get("step"))
    return best if best.get("step") and best["step"] == kept else None


def recipe_rows(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """How it was trained, from training_args.json; what was not recorded is left out."""
    model, data, training = (run.get(part, {}) for part in ("model", "data", "training"))
    environment, train = run.get("environment", {}), metrics.get("train", {})
    precision = next((name for name in ("bf16", "fp16") if training.get(name)), "float32" if training else None)
    device, cores, course = environment.get("device"), environment.get("cpu_cores"), course_rows(training, train)
    fitted = train.get("fitted")
    rows = {
        "started from": f"random weights, variant {model['variant']}"
        if "variant" in model
        else model.get("model_name_or_path"),
        "settings of the source": model.get("source_config"),
        "configuration": model.get("config_overrides"),
        "method": model.get("method"),
        "features": fitted and f"{fitted['pooling']} of block {fitted['block']}, computed once",
        "head": fitted and f"{fitted['head']}, strength {fitted['strength']:g}, chosen by cross-validation",
        "fine-tuning": _fine_tuning(train.get("search")),
        "training images": train.get("n", data.get("examples")),
        "augmentation": data.get("augmentation"),
        "further augmentation": ", ".join(f"{name} {data[name]}" for name in data if name not in OF_DATA),
        "loss": "binary cross-entropy" if training.get("loss") == "bce" else None,
        "teacher": data.get("teacher") and f"{data['teacher']['name']}, {training.get('distillation')} distillation",
        "classes": ", ".join(
            text
            for text, on in (
                ("weighted equally in the loss", training.get("class_weights") == "balanced"),
                ("drawn equally often", data.get("balanced_sampling")),
            )
            if on
        ),
        **{name: course[name] for name in ("epochs", "steps", "images seen", "weights kept", "batch")},
        "optimiser": training.get("optim") and f"{training['optim']}{MUON if training.get('muon') else ''}",
        "learning rate": training.get("learning_rate"),
        "schedule": course["schedule"],
        "warm-up": warm_up(training.get("warmup_steps")),
        "weight decay": training.get("weight_decay"),
        "label smoothing": training.get("label_smoothing_factor") or None,
        "precision": precision,
        "seed": training.get("seed"),
        "hardware": device and f"{device}, {cores} CPU cores",
        "time": course["time"],
        "sittings": course["sittings"],
        "versions": ", ".join(f"{name} {environment[name]}" for name in VERSIONS if name in environment),
    }
    if model.get("method") in ("fitted_head", "search"):
        rows = {name: value for name, value in rows.items() if name not in OF_STEPS}
    return {name: number(value) for name, value in rows.items() if value not in (None, "")}


def _fine_tuning(search: Mapping[str, Any] | None) -> str | None:
    """What a search came to: the setting by which the model was fine-tuned, or that none was better."""
    if search is None:
        return None
    kept, gain = search["kept"], f"{search['gain']:+.3f} in score on held-out images"
    if kept is None:
        return f"tried in {len(search['trials'])} settings, not better than the fitted head ({gain})"
    what = f"adapters of rank {kept['rank']}" if kept.get("rank") else f"last {kept['blocks']} blocks"
    return f"{what}, learning rate {kept['learning_rate']:g}, from the fitted head ({gain})"


def warm_up(steps: float | None) -> str | None:
    """As TrainingArguments means it: steps, or below 1 a share of all steps."""
    return None if not steps else f"{100 * steps:g}% of all steps" if steps < 1 else f"{steps:g} steps"
