"""Facts about a model and its training, as sentences and table rows for cards and reports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.json_files import read_json
from ..common.model_files import CONFIG, PROCESSOR
from ..configuration_vit_custom import ViTCustomConfig
from ..data.names import in_order
from ..reporting.course import course_rows
from ..reporting.formatting import figure, number, title
from ..tasks.registry import TASKS, task_named, task_stored
from ..unknown_vit_custom import CONFIDENCE, proven_bound

SPLITS = ("cross_validation", "validation", "test")  # the last one present gives the headline
# Rows of the recipe that do not apply to a fitted head.
OF_STEPS = ("loss", "batch", "optimiser", "learning rate", "schedule", "warm-up", "weight decay", "label smoothing")
# Recorded settings of the data that the row "further augmentation" does not list.
OF_DATA = (
    "examples", "labels", "fingerprint", "teacher", "masks", "augmentation", "view_size", "mix_probability",
    "progressive_resizing", "balanced_sampling", "streaming", "shuffle_buffer", "shots", "folds", "reject", "max_error",
)  # fmt: skip
MAX_ROWS = 100  # a longer table of classes stays in metrics.json only
VERSIONS = ("vit_custom", "transformers", "torch", "python")
MUON = ", Muon for the matrices of the blocks"


# ---------- facts for the template


def model_facts(folder: Path) -> dict[str, Any]:
    """Return labels, task and input of a model from config.json and preprocessor_config.json."""
    config = read_json(folder / CONFIG)
    processor = folder / PROCESSOR
    resized = read_json(processor).get("size") or {} if processor.is_file() else {}
    size = config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    id2label = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers omits these defaults
    labels = in_order({int(i): name for i, name in id2label.items()})
    task = task_stored(config, len(labels))
    channels = config["num_channels"]
    facts = {
        "labels": labels,
        "task": task.name,
        "width": None if labels else ViTCustomConfig.from_dict(config).pooled_size,
        "size": f"{width} × {height}",
        "grey": channels == 1,
        "kind": {1: "grey images", 3: "colour images"}.get(channels, f"{channels}-channel images"),
        "stretched": "height" in resized,
        "words": task.words,
        "named": task.targets.named,
        "unknown": promise(config["unknown"]) if config.get("unknown") else "",
    }
    return facts | {"limits": task.limits(facts)}


def promise(options: Mapping[str, Any]) -> str:
    """Return when a model with these `config.unknown` answers "unknown", in words."""
    images, folds = f"calibrated on {sum(options['images']):,} images", len(options["images"])
    if options["promise"] == "max_error":
        return (
            f"where the probability is at most {options['level']:.3f}, so that at most {options['asked']:.1%} of the "
            f"other answers are wrong, with a confidence of {CONFIDENCE:.0%} ({images})"
        )
    if folds == 1:
        return f"for at most {options['asked']:.1%} of images of its classes, on average ({images})"
    bound = proven_bound(options)
    return (
        f"for about {options['asked']:.1%} of images of its classes, provably at most {bound:.1%} on average "
        f"({images}, in {folds} folds)"
    )


def sentence(model: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the card's first sentence: what the model is, what it does, and how well."""
    images = f"{model['kind']} of {model['size']} pixels"
    does = task_named(model["task"]).does(images, model)
    parameters, last = results["parameters"], results["last"]
    size = f" of {parameters / 1e6:.2g} million parameters" if parameters else ""
    right = results["headline"] and f" and got {results['headline']} of {results['splits'][last]:,} {shown(last)} right"
    return f"A Vision Transformer{size} that {does}{right or ''}."


def shown(split: str) -> str:
    """Return the words by which a sentence calls the images of a split."""
    return "images in cross-validation" if split == "cross_validation" else f"{split} images"


def result_facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of metrics.json as text: a row for each metric, a column for each split."""
    splits = {split: metrics[split]["n"] for split in SPLITS if split in metrics}
    names = dict.fromkeys(name for split in splits for name in metrics[split] if name != "n")
    rows = metrics.get("per_label", {}).get("rows", [])
    last = list(splits)[-1] if splits else None
    accuracy = metrics[last].get("accuracy") if last else None
    task = TASKS.get(metrics.get("problem_type", ""))
    comparable = metrics.get("per_label", {}).get("split") == last
    return {
        "splits": splits,
        "last": last,
        "last_images": last and shown(last),
        "headline": None if accuracy is None else f"{accuracy:.1%}",
        "results": {title(name): [figure(name, metrics[split], n) for split, n in splits.items()] for name in names},
        "per_label": rows if len(rows) <= MAX_ROWS else [],
        "columns": [name for name in (rows[0] if rows else {}) if name not in ("id", "label")],
        "baseline": task.comparison(rows) if task and comparable else None,
        "rarest": min((row["support"] for row in rows if "support" in row), default=None),
        "best": chosen_by_validation(metrics),
        "train_n": metrics.get("train", {}).get("n"),
        "parameters": metrics.get("parameters"),
    }


def chosen_by_validation(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return "best" of metrics.json if the weights of its step were kept, else None.

    Earlier versions do not record the kept step; there, the step of "best" counts as kept.
    """
    best = metrics.get("best") or {}
    kept = metrics.get("train", {}).get("kept_step", best.get("step"))
    return best if best.get("step") and best["step"] == kept else None


def recipe_rows(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return table rows on the training, from training_args.json and metrics.json.

    Settings that were not recorded are left out.
    """
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
    """Result of a search: the setting by which the model was fine-tuned, or that none was better."""
    if search is None:
        return None
    kept, gain = search["kept"], f"{search['gain']:+.3f} in score on held-out images"
    if kept is None:
        return f"tried in {len(search['trials'])} settings, not better than the fitted head ({gain})"
    what = f"adapters of rank {kept['rank']}" if kept.get("rank") else f"last {kept['blocks']} blocks"
    return f"{what}, learning rate {kept['learning_rate']:g}, from the fitted head ({gain})"


def warm_up(steps: float | None) -> str | None:
    """Return the warm-up in words; as in TrainingArguments, a value below 1 is a share of all steps."""
    return None if not steps else f"{100 * steps:g}% of all steps" if steps < 1 else f"{steps:g} steps"
