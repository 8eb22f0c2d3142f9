"""A saved checkpoint measured on a labelled data set: `vit-custom evaluate`.

Shapes: N examples, C classes, T regression targets.
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ..data.examples import MULTI_LABEL, REGRESSION, Examples, Splits
from ..data.options import add_table_options, table_options
from ..data.raw import listed, printable
from ..data.sources import load_eval_examples
from ..inference.claims import FILES, STAMP, digest_of, sha256_of
from ..inference.environment import versions
from ..inference.forward import PreparedImages, run_batches
from ..inference.json_files import write_json
from ..inference.loading import load_classifier, problem_type_of
from ..inference.outputs import check_replaceable, is_stream, report_file
from .calibration import ECE_BINS, expected_calibration_error, fit_temperature, negative_log_likelihood
from .metrics import ClassReport, MeanAveragePrecision, RegressionErrors, all_scores, check_outputs


@dataclass(frozen=True)
class Evaluation:
    """What a model did on a data set. Values that are 0/0 on these data are NaN here and null in JSON.

    logits: [N, C] or [N, T] float64.   labels: [N] | [N, C] int64 | [N, T] float64.   names: [N].
    metrics: the flat scores of `compute_metrics`.   per_label: one row for each class or target.
    confusion: [C, C] counts, rows true, columns predicted; calibration: ECE, NLL, temperature (both only for
    single-label).   skipped: name -> why that image could not be read.   notes: sentences to be read.
    """

    problem_type: str
    id2label: dict[int, str]
    logits: np.ndarray
    labels: np.ndarray
    names: list[str]
    metrics: dict[str, float]
    per_label: list[dict[str, Any]]
    confusion: np.ndarray | None = None
    calibration: dict[str, Any] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def report(self, **context: Any) -> dict[str, Any]:
        """Everything but the logits as one JSON-able dict that starts with `context`."""
        tables: dict[str, Any] = {"per_target" if self.problem_type == REGRESSION else "per_class": self.per_label}
        if self.calibration is not None:
            tables["calibration"] = self.calibration
        if self.confusion is not None:
            tables["confusion_matrix"] = {"rows": "true", "columns": "predicted", "counts": self.confusion}
        return {
            **context,
            "problem_type": self.problem_type,
            "n": len(self.names),
            "n_skipped": len(self.skipped),
            "metrics": self.metrics,
            **tables,
            "skipped": [{"name": name, "error": error} for name, error in self.skipped.items()],
            "notes": self.notes,
            "versions": versions(),
        }


def score_examples(logits: np.ndarray, examples: Examples, splits: Splits) -> Evaluation:
    """As `score_outputs`, of logits [N, C] for examples of these splits."""
    labels = np.asarray(examples.labels)
    return score_outputs(logits, labels, list(examples.names), splits.problem_type, splits.id2label)


def score_outputs(
    logits: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    problem_type: str,
    id2label: Mapping[int, str],
    skipped: Mapping[str, str] | None = None,
) -> Evaluation:
    """The `Evaluation` of outputs that are at hand. Raises ValueError as `check_outputs` does."""
    logits, labels = check_outputs(logits, labels, problem_type, len(id2label))
    metrics = all_scores(logits, labels, problem_type, id2label)
    notes = [f"{name} is undefined on these data (0/0)" for name, value in metrics.items() if np.isnan(value)]
    extra: dict[str, Any] = {}
    if problem_type == REGRESSION:
        per_label = RegressionErrors().compute(predictions=logits, references=labels)["per_target"]
    elif problem_type == MULTI_LABEL:
        per_label = ClassReport().compute(
            predictions=(logits > 0).astype(np.int64), references=labels, num_classes=len(id2label)
        )
        ranking = MeanAveragePrecision().compute(predictions=logits, references=labels)
        per_label["average_precision"] = ranking["average_precision"]
    else:
        predicted = logits.argmax(axis=1)
        classes = range(len(id2label))
        per_label = ClassReport().compute(predictions=predicted, references=labels, num_classes=len(id2label))
        extra["confusion"] = confusion_matrix(labels, predicted, labels=classes)
        extra["calibration"], note = calibrate(logits, labels)
        notes += [note]
    if problem_type != REGRESSION:
        notes += _class_notes(per_label, id2label)
    rows = [
        {"id": c, "label": id2label[c], **{column: values[c] for column, values in per_label.items()}}
        for c in range(len(id2label))
    ]
    if skipped:
        notes.append(f"{len(skipped)} image(s) could not be read and are not counted: {listed(list(skipped))}")
    return Evaluation(
        problem_type, dict(id2label), logits, labels, names, metrics, rows, skipped=dict(skipped or {}),
        notes=notes, **extra,
    )  # fmt: skip


def _class_notes(report: Mapping[str, np.ndarray], id2label: Mapping[int, str]) -> list[str]:
    """Sentences on the classes whose recall or precision is undefined."""
    notes = []
    for undefined, what in (("recall", "do not occur in these data"), ("precision", "are never predicted")):
        if names := [id2label[int(c)] for c in np.flatnonzero(np.isnan(report[undefined]))]:
            notes.append(f"{len(names)} of {len(id2label)} classes {what}, their {undefined} is undefined: ")
            notes[-1] += listed(names)
    return notes


def calibrate(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], str]:
    """({ece, nll, and both again with the best temperature}, a sentence on that temperature)."""
    temperature, problem = fit_temperature(logits, labels)
    result = {
        "bins": ECE_BINS,
        "ece": expected_calibration_error(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "temperature": temperature,
        "ece_with_temperature": None,
        "nll_with_temperature": None,
    }
    if temperature is None:
        return result, str(problem)
    result["ece_with_temperature"] = expected_calibration_error(logits, labels, temperature)
    result["nll_with_temperature"] = negative_log_likelihood(logits, labels, temperature)
    return result, "the temperature is fitted to and measured on these same images: on others it will do less"


def evaluate_model(
    model: PreTrainedModel,
    processor: Any,
    examples: Examples,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    on_error: str = "raise",
) -> Evaluation:
    """Runs `model` on every example and scores it by its config's problem_type and id2label.

    on_error: "raise" stops at an image that cannot be read, naming it; "skip" leaves it out and lists it in
    `Evaluation.skipped`. Raises ValueError besides for unlabelled examples and for NaN outputs.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'.")
    if examples.labels is None:
        raise ValueError("these examples have no labels; use predict for images without labels.")
    images = PreparedImages(examples.images, examples.names, processor)
    batches = [list(range(i, min(i + batch_size, len(images)))) for i in range(0, len(images), batch_size)]
    kept: list[int] = []
    logits: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    with tqdm(total=len(images), desc="evaluate", unit="img", disable=not progress) as bar:
        for batch in run_batches(model, images, batches, num_workers):
            for index, error in batch.errors.items():
                if on_error == "raise":
                    raise ValueError(f"{error} (--on_error skip leaves such images out and lists them)")
                skipped[examples.names[index]] = error
            kept += batch.indices
            logits.append(batch.logits.numpy())
            bar.update(len(batch.indices) + len(batch.errors))
    if not kept:
        raise ValueError(f"none of the {len(images)} images could be evaluated; the reasons: {skipped}")
    config: Any = model.config
    outputs, kept = np.concatenate(logits)[np.argsort(kept)], sorted(kept)
    names = [examples.names[index] for index in kept]
    return score_outputs(outputs, examples.labels[kept], names, problem_type_of(config), config.id2label, skipped)


def data_fingerprint(examples: Examples) -> str:
    """SHA-256 of the images' names and, of files, sizes, and of their labels: of other data it is another."""
    digest = hashlib.sha256()
    for name, image in zip(examples.names, examples.images, strict=True):
        size = os.path.getsize(image) if isinstance(image, str | os.PathLike) and os.path.isfile(image) else ""
        digest.update(f"{os.path.basename(name)}\0{size}\n".encode("utf-8", "surrogateescape"))
    digest.update(np.asarray(examples.labels).tobytes())
    return digest.hexdigest()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="Measure a saved image classifier on labelled images.",
        epilog="""examples:
  %(prog)s --model outputs/mnist --data_dir data/mnist/test --output metrics.json
  %(prog)s --model outputs/mnist --data_dir photos --html evaluation.html
  %(prog)s --model outputs/tags --data_dir photos/test.csv --on_error skip --num_workers 4

Writes the metrics as JSON and, for single-label models, confusion_matrix.png beside it; to /dev/stdout or
another stream the metrics alone.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="saved model folder, or a Hub id")
    parser.add_argument(
        "--data_dir", required=True, metavar="DIR", help="folder of class folders, or a CSV, TSV, JSON or Parquet file"
    )
    parser.add_argument(
        "--output", type=report_file, default="metrics.json", metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--html", type=report_file, metavar="FILE", help="write a page with pictures, one file that needs no other"
    )
    add_table_options(parser)
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument(
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="an image that cannot be read stops the run (default), or is left out and listed in the output",
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run other people's code in --model; of a Hub id, pin --revision",
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of a Hub id: commit, tag or branch (default: main)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 1 could not be done."""
    args = build_parser().parse_args(argv)
    disable_progress_bar()
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(printable(f"evaluate: {error}"), file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    picture = None if is_stream(args.output) else Path(args.output).with_name("confusion_matrix.png")
    if picture is not None:
        check_replaceable(picture)
    model, processor = load_classifier(args.model, args.trust_remote_code, revision=args.revision)
    config: Any = model.config
    examples = load_eval_examples(args.data_dir, config.id2label, problem_type_of(config), **table_options(args))
    start = time.perf_counter()
    result = evaluate_model(model, processor, examples, args.batch_size, args.num_workers, on_error=args.on_error)
    seconds = time.perf_counter() - start
    context: dict[str, Any] = {
        "model": args.model,
        "revision": args.revision,
        "data": args.data_dir,
        "data_fingerprint": data_fingerprint(examples),
        "device": str(model.device),
        "seconds": seconds,
    }
    written = []
    if result.confusion is not None and picture is not None:
        from .plots import plot_confusion_matrix

        labels = [result.id2label[c] for c in range(len(result.id2label))]
        written.append(plot_confusion_matrix(result.confusion, labels, picture))
    if digest := digest_of(args.model, args.revision):
        context[STAMP] = {"sha256": digest}
    pictures = {path.name: sha256_of(path) for path in written}
    written.insert(0, write_json(args.output, result.report(**context, **({FILES: pictures} if pictures else {}))))
    if args.html is not None:
        from .page import write_page

        written.append(write_page(args.html, result, examples, context))
    print(f"{len(result.names):,} images, {len(result.skipped):,} skipped, {seconds:.1f} s on {model.device}")
    for name, value in result.metrics.items():
        print(f"  {name:<24}{value:.4f}")
    for note in result.notes:
        print(printable(f"  note: {note}"))
    print("wrote " + ", ".join(map(str, written)))
