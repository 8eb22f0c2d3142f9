"""Measures what a student learns from an encoder's features; prints the table of docs/benchmarks.md.

    python tests/support/distillation_figures.py --data DIR --work DIR

DIR of --data holds train-*.parquet and test-*.parquet with the columns image and label, such as CIFAR-10's. The teacher
is the ViT-S/14 of `real_dinov2`. Every way of pre-training takes about BUDGET CPU seconds of one thread, its teacher's
forwards included: the steps are counted from the costs below, so that other work on the machine changes nothing. A
second run continues.
"""

import argparse
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from real_dinov2 import write_dinov2_folder

from modeling_vit_custom.api.converting import convert
from modeling_vit_custom.api.training import pretrain, train
from modeling_vit_custom.data.views import PixelValues
from modeling_vit_custom.features.taps import Taps
from modeling_vit_custom.training.inputs.augmentation import BatchAugmentation
from modeling_vit_custom.training.objectives.feature_distillation import FeatureLoss
from modeling_vit_custom.training.objectives.teacher_features import EncoderTeacher
from modeling_vit_custom.training.objectives.teacher_loading import Teacher
from modeling_vit_custom.training.trainer import feature_teacher
from modeling_vit_custom.training.trainer.batches import BatchTrainer

STUDENT, SIZE = "nano/4", 98
IMAGES, TEST, BATCH = 4000, 2000, 32
LABELLED = {0.01: 80, 0.1: 150, 1.0: 250}  # share of the images that have labels: steps of fine-tuning
BUDGET = 160.0  # CPU seconds
# CPU milliseconds an image: the teacher's forward, in bfloat16; a step of the student.
TEACHER, FEATURES, MASKED, LOGITS = 12.5, 4.8, 4.2, 4.2
FIXED = {
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "augmentation": "shift",
    "per_device_train_batch_size": BATCH, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
}  # fmt: skip


def write_images(data: Path, work: Path) -> dict[str, Path]:
    """Write class folders: {"train": all images, "test": …, "0.01": those with labels, …}; the shares are nested."""
    folders = {name: work / name for name in ("train", "test", *map(str, LABELLED))}
    for split, count in (("train", IMAGES), ("test", TEST)):
        if folders[split].is_dir():
            continue
        table = pa.concat_tables([pq.read_table(path) for path in sorted(data.glob(f"{split}-*.parquet"))])
        seen: dict[str, int] = {}
        for i, row in enumerate(table.to_pylist()):
            label = str(row["label"])
            each = count // 10
            if (place := seen.get(label, 0)) == each:
                continue
            seen[label] = place + 1
            shares = [str(share) for share in LABELLED if split == "train" and place < round(share * each)]
            for name in (split, *shares):
                path = folders[name] / label / f"{i:05}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(row["image"]["bytes"])
    return folders


class SameView:
    """Gives a student's training the teacher's features of its own augmented images, computed at each step."""

    def __init__(self, teacher: EncoderTeacher):
        self.teacher, self.whole = teacher, BatchTrainer._prepare_inputs

    def __enter__(self) -> None:
        teacher, whole, to_pixel_values = self.teacher, self.whole, PixelValues(self.teacher.processor)

        def prepare(trainer, inputs):
            prepared = whole(trainer, inputs)
            if "draws" in inputs and isinstance(trainer.measure, FeatureLoss):
                own, config = trainer.processing_class, trainer.net.config
                mean, std = (torch.tensor(values)[:, None, None] for values in (own.image_mean, own.image_std))
                images = ((prepared["pixel_values"] * std + mean) * 255).clamp(0, 255)
                images = F.interpolate(images, teacher.model.config.image_hw, mode="bicubic", antialias=True)
                rows = teacher(to_pixel_values(images.clamp(0, 255)))
                plain = BatchAugmentation(None, config.image_hw, to_pixel_values)
                grid = config.grid_of(prepared["pixel_values"].shape[2:])
                prepared["teacher"] = trainer.measure.targets(rows, lambda grids: plain.follow(grids, grid))
            return prepared

        BatchTrainer._prepare_inputs = prepare

    def __exit__(self, *_) -> None:
        BatchTrainer._prepare_inputs = self.whole


def steps(seconds: float, milliseconds: float) -> int:
    return round(1000 * seconds / milliseconds / BATCH)


def timed(name: str, run) -> dict:
    """Return the metrics of a run; print its CPU seconds and what it says of its validation images."""
    start = time.process_time()
    metrics = run().metrics
    known = {key: round(value, 4) for key, value in metrics.get("validation", {}).items() if isinstance(value, float)}
    took = metrics["train"].get("steps"), round(time.process_time() - start)
    print(f"# {name}: steps {took[0]}, CPU seconds {took[1]}, {known}", flush=True)
    return metrics


def main() -> None:
    """Print a row for each way, share of labels, and seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for images, runs and caches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="ways to measure")
    parser.add_argument("--shares", nargs="*", type=float, default=[*LABELLED], help="of the images that have labels")
    args = parser.parse_args()
    work, seed = args.work, args.seed
    folders = write_images(args.data, work)
    source, big = work / "dinov2", work / "s14"
    if not (big / "config.json").is_file():
        source.mkdir(exist_ok=True)
        convert(write_dinov2_folder(source), big)
    common = {**FIXED, "seed": seed, "image_cache": str(work / "cache")}
    unlabelled = {**common, "variant": STUDENT, "train_dir": folders["train"], "train_val_split": 0.1}
    taught = {**unlabelled, "teacher": str(big), "teacher_config": f"image_size={SIZE}"}
    left = BUDGET - IMAGES * TEACHER / 1000
    ways = {
        "features": (FEATURES, left, taught),
        "features, same view": (FEATURES + TEACHER, BUDGET, taught),
        "masked": (MASKED, BUDGET, unlabelled),
    }

    def out(*parts) -> Path:
        return work / "runs" / "-".join(str(part).replace(" ", "_").replace(",", "") for part in (*parts, seed))

    def score(way: str, share: float, metrics: dict) -> None:
        print(f"{way} | {share:.0%} | {100 * metrics['test']['accuracy']:.1f}", flush=True)

    for one in (Taps, Teacher):  # in bfloat16 as for features, so that the costs are equal
        one.__call__ = torch.autocast("cpu", torch.bfloat16)(one.__call__)
    teacher = None
    for way, (cost, seconds, flags) in ways.items():
        if args.only and way not in args.only:
            continue
        run = {**flags, "max_steps": steps(seconds, cost), "output_dir": out(way)}
        if way == "features, same view":
            teacher = teacher or open_teacher(big)
            with SameView(teacher):
                timed(way, lambda run=run: pretrain(**run))
        else:
            timed(way, lambda run=run: pretrain(**run))
        for share in args.shares:
            on = {**common, "train_dir": folders[str(share)], "test_dir": folders["test"]}
            head = {key: on[key] for key in on if key not in FIXED or key in ("use_cpu", "report_to", "disable_tqdm")}
            fitted = {**head, "model_name_or_path": str(out(way)), "method": "fitted_head"}
            score(f"{way}, fitted head", share, train(**fitted, output_dir=out(way, "head", share)).metrics)
    for way in ("features", "masked", "from scratch"):
        if args.only and way not in args.only:
            continue
        for share in args.shares:
            on = {**common, "train_dir": folders[str(share)], "test_dir": folders["test"], "max_steps": LABELLED[share]}
            start = {"variant": STUDENT, "learning_rate": 1e-3}
            if way != "from scratch":
                start = {"model_name_or_path": str(out(way)), "method": "full", "learning_rate": 5e-4}
            score(f"{way}, fine-tuned", share, train(**on, **start, output_dir=out(way, "fine", share)).metrics)
    if args.only and "logits" not in args.only:
        return
    for share in args.shares:
        on = {**common, "train_dir": folders[str(share)], "test_dir": folders["test"]}
        head = {key: on[key] for key in on if key not in FIXED or key in ("use_cpu", "report_to", "disable_tqdm")}
        folder = out("teacher", share)
        fitted = {**head, "model_name_or_path": str(big), "image_size": SIZE, "method": "fitted_head"}
        score("the teacher, fitted head", share, train(**fitted, output_dir=folder).metrics)
        number = steps(left, LOGITS) + LABELLED[share]
        flags = {**unlabelled, "test_dir": folders["test"], "teacher": str(folder), "distillation_alpha": 1.0}
        score("logits", share, train(**flags, max_steps=number, output_dir=out("logits", share)).metrics)


def open_teacher(folder: Path) -> EncoderTeacher:
    """Return the teacher at the experiment's size, as `pretrain` makes it."""
    net, processor, _ = feature_teacher.load_frozen(feature_teacher.Start(str(folder), image_size=SIZE))
    return EncoderTeacher("teacher", net.vit, processor, "")


if __name__ == "__main__":
    main()
