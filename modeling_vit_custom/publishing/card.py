"""The model card: README.md, written from what lies in the folder and read back to prove it.

Metadata go through `huggingface_hub.ModelCardData`, the text through the template card.md.j2. Whatever the template
prints is escaped for Markdown and HTML unless it is marked safe: labels and file names are other people's text.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..configuration_vit_custom import ViTCustomConfig
from ..data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..evaluation.figures import METRICS, figure, number, title
from ..inference.claims import card_line, check_claims, weights_digest
from ..speed.section import PICTURE as SPEEDS_PICTURE
from ..speed.section import REPORT as SPEEDS
from ..speed.section import marked_section
from .converted import conversion_facts
from .course import course_rows
from .tasks import CLASSIFICATION, Task, task_of

TEMPLATE = Path(__file__).with_name("card.md.j2")
FEATURES = "features"
SPLITS = ("cross_validation", "validation", "test")  # the last that there is counts most
# Rows of the recipe that say nothing of a head that was fitted.
OF_STEPS = ("loss", "batch", "optimiser", "learning rate", "schedule", "warm-up", "weight decay", "label smoothing")
METRICS_FILE, RUN_FILE = "metrics.json", "training_args.json"
USED = (METRICS_FILE, RUN_FILE, "conversion.json", SPEEDS, "golden.json")  # what the card says is taken from
MAX_ROWS = 100  # a longer table of classes is left to metrics.json
VERSIONS = ("vit_custom", "transformers", "torch", "python")
FILES = {
    "model.safetensors": "weights",
    "config.json": "architecture and labels",
    "preprocessor_config.json": "what is done to an image before the model sees it",
    "*_vit_custom.py": "the code of model and processor, which transformers runs",
    "golden.json": "the outputs that the example images must give",
    "examples": "example images",
    "metrics.json": "all figures, exact",
    "training_args.json": "all settings of the training",
    "conversion.json": "where the weights come from, and what was assumed in converting them",
    SPEEDS: "what each speed setting gains and costs",
    SPEEDS_PICTURE: "the same as a picture",
    "confusion_matrix.png": "the confusion matrix",
    "training.png": "the course of the training",
    "LICENSE": "the licence",
    ".gitattributes": "which files Git LFS stores",
}
MUON = ", Muon for the matrices of the blocks"
ACTIVE = re.compile(r"""[!"#$&'*:<>@\[\]\\^_`{|}~]""")  # what can mean something to Markdown inside a line, or to HTML
JOINERS = "\u200c\u200d"


def write_card(
    folder: str | Path,
    repo_id: str,
    *,
    metrics: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    revision: str | None = None,
) -> Path:
    """Writes README.md into `folder` and returns its path; call it last, for it shows what lies in the folder.

    Args:
        folder: a saved classifier or encoder; pictures, golden.json, examples/ and conversion.json are shown if they
            are there.
        repo_id: the repository it will be, "owner/name".
        metrics, run: the contents of metrics.json and training_args.json as training leaves them.
        license: the Hub's identifier, "apache-2.0".
        datasets, base_model: Hub ids of what it was trained on and fine-tuned from.
        revision: the tag or commit that the snippet pins; without it the snippet says where to find one.

    Raises ValueError for an id or revision that cannot be one, for a golden.json that names other files than those in
    examples/, for a conversion.json of another form, and if the metadata do not come back from the written file as they
    were given; ClaimError, one too, where one of the records is of other weights than those in `folder`.
    """
    folder = Path(folder)
    check_claims(folder, USED, {METRICS_FILE: metrics or {}, RUN_FILE: run or {}})
    for name in (repo_id, *datasets, *([base_model] if base_model else [])):
        validate_repo_id(name)
    if revision is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}", revision):
        raise ValueError(f"revision={revision!r}: give a branch, tag or commit (letters, digits, . _ / -).")
    task = task_of(read_json(folder / "config.json"))
    model, results, converted = model_facts(folder), result_facts(metrics or {}), conversion_facts(folder)
    if converted and not metrics:
        results["parameters"] = converted["parameters"]
    data = card_data(repo_id, task, metrics or {}, license, datasets, base_model)
    environment = Environment(
        autoescape=True, finalize=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    facts = {
        "repo_id": repo_id,
        "revision": revision,
        "license": license,
        "datasets": datasets,
        "base_model": base_model,
        "citation_key": re.sub(r"\W", "_", repo_id),
        "year": date.today().year,
        **model,
        **results,
        "use": task,
        "converted": converted,
        "speeds": Markup(marked_section(read_json(folder / SPEEDS))) if (folder / SPEEDS).is_file() else None,
        "sentence": sentence(model, results),
        "recipe": recipe_rows(run or {}, metrics or {}),
        "examples": examples(folder),
        "files": list_files(folder),
        "number": number,
        "claim": Markup(card_line(digest)) if (digest := weights_digest(folder)) else None,
    }
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)
    path = folder / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n").save(path)
    if (read := metadata_load(path)) != data.to_dict():
        raise ValueError(f"{path}: the metadata came back as {read}, {data.to_dict()} was given.")
    return path


def card_data(
    repo_id: str,
    task: Task,
    metrics: Mapping[str, Any],
    license: str | None,
    datasets: Sequence[str],
    base_model: str | None,
) -> ModelCardData:
    """The metadata of the card: how to load it, where it comes from, every figure with its split and n."""
    results = [
        EvalResult(
            task_type=task.name,
            dataset_type=datasets[0] if datasets else "imagefolder",
            dataset_name=datasets[0] if datasets else "an image folder without a public name",
            dataset_split=split,
            dataset_args={"num_examples": metrics[split]["n"]},
            metric_type=METRICS.get(name, (name, name))[0],
            metric_name=f"{title(name)} ({split}, n = {metrics[split]['n']})",
            metric_value=value,
        )
        for split in SPLITS
        for name, value in metrics.get(split, {}).items()
        if name != "n" and value is not None
    ]
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=task.name,
        tags=["vision", "vision-transformer", "vit_custom"],
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=list(datasets) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


# ---------- facts for the template


def model_facts(folder: Path) -> dict[str, Any]:
    """What config.json and preprocessor_config.json say: labels, task, input."""
    config = read_json(folder / "config.json")
    processor = folder / "preprocessor_config.json"
    resized = read_json(processor).get("size") or {} if processor.is_file() else {}
    size = config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    id2label = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # which transformers leaves out
    labels = [id2label[key] for key in sorted(id2label, key=int)]
    task = config.get("problem_type") or (REGRESSION if len(labels) == 1 else SINGLE_LABEL)
    encoder = task_of(config) is not CLASSIFICATION
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
    count, images = len(model["labels"]), f"{'grey' if model['grey'] else 'colour'} images of {model['size']} pixels"
    does = {
        SINGLE_LABEL: f"sorts {images} into {count} classes",
        MULTI_LABEL: f"gives each of {count} labels its probability for {images}",
        REGRESSION: f"estimates {count} number{'s' if count > 1 else ''} from {images}",
        FEATURES: f"turns {images} into vectors of {model['width']} numbers",
    }[model["task"]]
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
        "further augmentation": ", ".join(
            f"{name} {data[name]}" for name in ("auto_augment", "random_erasing", "mixup", "cutmix") if name in data
        ),
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


def examples(folder: Path) -> list[dict[str, Any]]:
    """[{"path", "label", "score"}]: the images of golden.json with their expected best label; an encoder has none."""
    if not (folder / "golden.json").is_file():
        return []
    golden = read_json(folder / "golden.json")
    for path in golden["images"]:
        if not re.fullmatch(r"examples/[A-Za-z0-9_-][A-Za-z0-9._-]*", path) or not (folder / path).is_file():
            raise ValueError(f"golden.json: images names {path!r}, which is no file in examples/. Write it anew.")
    answers = golden.get("pipeline", [[{}]] * len(golden["images"]))
    return [{"path": path, **best[0]} for path, best in zip(golden["images"], answers, strict=True)]


def list_files(folder: Path) -> dict[str, str]:
    """Name or pattern -> what it is, for all that lies in the folder but the card itself."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "README.md")
    known = {pattern: what for pattern, what in FILES.items() if any(fnmatch(name, pattern) for name in names)}
    return known | {name: "" for name in names if not any(fnmatch(name, pattern) for pattern in FILES)}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# ---------- text


def escape(value: Any) -> Markup:
    """Any text as Markdown and HTML that show just that text, on one line; what is marked safe stays as it is.

    Character references never act as Markdown (CommonMark 6.2). Invisible characters and those that reorder text
    are shown by their number; the two joiners that scripts and emoji need are kept.
    """
    if isinstance(value, Markup):
        return value
    shown = "".join(
        f"U+{ord(character):04X}"
        if unicodedata.category(character)[0] == "C" and character not in JOINERS
        else character
        for character in " ".join(str(value).split())
    )
    return Markup(ACTIVE.sub(lambda match: f"&#{ord(match[0])};", shown))
