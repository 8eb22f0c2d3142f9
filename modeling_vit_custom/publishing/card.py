"""The model card README.md: written from the files in the folder, and read back as a check.

Metadata are made by `huggingface_hub.ModelCardData`, the text by the template card.md.j2. All values in the template
are escaped for Markdown and HTML unless they are marked safe: labels and file names are written by others.
"""

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

from ..common.claims import card_line, check_claims, weights_digest
from ..common.json_files import read_json
from ..common.model_files import CARD, CONFIG, CONVERSION, FILES, GOLDEN, METRICS, RUN_FILE, SPEEDS
from ..labels_vit_custom import JOINERS
from ..reporting.confused import MATRIX_CLASSES
from ..reporting.formatting import METRIC_TITLES, number, title
from ..speed.section import marked_section
from ..tasks.hub import Listing
from .converted import conversion_facts
from .facts import SPLITS, model_facts, recipe_rows, result_facts, sentence
from .forms import CUSTOM, TIMM, Form, form_of, listing_for

TEMPLATE = Path(__file__).with_name("card.md.j2")
USED = (METRICS, RUN_FILE, CONVERSION, SPEEDS, GOLDEN)  # the sources of the card
ACTIVE = re.compile(r"""[!"#$&'*:<>@\[\]\\^_`{|}~]""")  # characters with a meaning in a line of Markdown or in HTML


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
    described_by: str | Path | None = None,
) -> Path:
    """Write README.md into `folder` and return its path. Call it last: the card shows the files in the folder.

    Args:
        folder: a saved classifier or encoder; pictures, golden.json, examples/ and conversion.json are shown if they
            are there.
        repo_id: the future repository, "owner/name".
        metrics, run: the contents of metrics.json and training_args.json as training leaves them.
        license: the Hub's identifier, such as "apache-2.0".
        datasets, base_model: Hub ids of the training data and of the model that was fine-tuned.
        revision: the tag or commit that the snippet pins; without it the snippet says where to find one.
        described_by: the folder of ours that says what the model is, if `folder` holds it as another library's.

    Raises ValueError for an id or revision of invalid form, for a golden.json that names files that are not in
    examples/, for a conversion.json of another form, and if the metadata read back from the written file differ from
    the given ones.
    Raises ClaimError, a ValueError, if a record belongs to other weights than those in `folder`.
    """
    folder = Path(folder)
    ours = Path(described_by or folder)
    check_claims(folder, USED, {METRICS: metrics or {}, RUN_FILE: run or {}})
    for name in (repo_id, *datasets, *([base_model] if base_model else [])):
        validate_repo_id(name)
    if revision is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}", revision):
        raise ValueError(f"revision={revision!r}: give a branch, tag or commit (letters, digits, . _ / -).")
    config = read_json(folder / CONFIG)
    task, form = listing_for(config), form_of(config)
    model, results, converted = model_facts(ours), result_facts(metrics or {}), conversion_facts(folder)
    if converted and not metrics:
        results["parameters"] = converted["parameters"]
    data = card_data(repo_id, task, metrics or {}, license, datasets, base_model, form)
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
        "form": form,
        "class_name": config["architecture"] if form is TIMM else (config.get("architectures") or [None])[0],
        "score": {"multi_label_classification": "sigmoid()", "regression": "flatten(1)"}.get(
            str(config.get("problem_type")), "softmax(-1)"
        ),
        "converted": converted,
        "speeds": Markup(marked_section(read_json(folder / SPEEDS))) if (folder / SPEEDS).is_file() else None,
        "sentence": sentence(model, results),
        "recipe": recipe_rows(run or {}, metrics or {}),
        "examples": examples(folder),
        "drawn": (folder / GOLDEN).is_file() and read_json(folder / GOLDEN).get("drawn", False),
        "files": list_files(folder),
        "number": number,
        "matrix_classes": MATRIX_CLASSES,
        "claim": Markup(card_line(digest)) if (digest := weights_digest(folder)) else None,
    }
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)
    path = folder / CARD
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n").save(path)
    if (read := metadata_load(path)) != data.to_dict():
        raise ValueError(f"{path}: the metadata came back as {read}, {data.to_dict()} was given.")
    return path


def card_data(
    repo_id: str,
    task: Listing,
    metrics: Mapping[str, Any],
    license: str | None,
    datasets: Sequence[str],
    base_model: str | None,
    form: Form = CUSTOM,
) -> ModelCardData:
    """Return the card's metadata: how to load the model, where it comes from, every score with its split and n."""
    results = [
        EvalResult(
            task_type=task.name,
            dataset_type=datasets[0] if datasets else "imagefolder",
            dataset_name=datasets[0] if datasets else "an image folder without a public name",
            dataset_split=split,
            dataset_args={"num_examples": metrics[split]["n"]},
            metric_type=METRIC_TITLES.get(name, (name, name))[0],
            metric_name=f"{title(name)} ({split}, n = {metrics[split]['n']})",
            metric_value=value,
        )
        for split in SPLITS
        for name, value in metrics.get(split, {}).items()
        if name != "n" and value is not None
    ]
    return ModelCardData(
        license=license,
        library_name=form.library,
        pipeline_tag=task.name,
        tags=["vision", "vision-transformer", *(["vit_custom"] if form.has_code else [])],
        base_model=base_model,
        base_model_relation="finetune" if base_model else None,
        datasets=list(datasets) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def examples(folder: Path) -> list[dict[str, Any]]:
    """Return the images of golden.json as [{"path", "label", "score"}], with their expected best label.

    "unknown" is there too for a model that says so. For an encoder there is only "path"; without golden.json the list
    is empty.
    """
    if not (folder / GOLDEN).is_file():
        return []
    golden = read_json(folder / GOLDEN)
    for path in golden["images"]:
        if not re.fullmatch(r"examples/[A-Za-z0-9_-][A-Za-z0-9._-]*", path) or not (folder / path).is_file():
            raise ValueError(f"golden.json: images names {path!r}, which is no file in examples/. Write it again.")
    answers = golden.get("pipeline", [[{}]] * len(golden["images"]))
    return [{"path": path, **best[0]} for path, best in zip(golden["images"], answers, strict=True)]


def list_files(folder: Path) -> dict[str, str]:
    """Return {name or pattern: description} of everything in the folder except the card."""
    names = sorted(path.name for path in folder.iterdir() if path.name != CARD)
    known = {pattern: what for pattern, what in FILES.items() if any(fnmatch(name, pattern) for name in names)}
    return known | {name: "" for name in names if not any(fnmatch(name, pattern) for pattern in FILES)}


# ---------- text


def escape(value: Any) -> Markup:
    """Escape text so that Markdown and HTML show exactly that text, on one line; text marked safe stays as it is.

    Character references never act as Markdown (CommonMark 6.2). Invisible characters and those that reorder text are
    shown by their number; the two joiners that scripts and emoji need are kept.
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
