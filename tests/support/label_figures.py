"""The figures of docs/benchmarks.md on labels.

`python tests/support/label_figures.py errors|next --data DIR --model DIR`; DIR of --data holds
train-*.parquet and test-*.parquet with the columns image and label, such as CIFAR-10's.

errors: labels are made wrong at random, or to the next class alone. Printed are the shares of wrong ones among as many
worst ones, by several rankings, and estimates of their number.
next: the accuracy of a head that is fitted to labelled images and to those that are chosen next.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from modeling_vit_custom.api.encoders import open_encoder
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.features.closed_forms import Scaling
from modeling_vit_custom.features.fitted import fit
from modeling_vit_custom.features.label_errors import estimate_errors, find_label_errors
from modeling_vit_custom.features.label_next import choose_next, margins, typicality
from modeling_vit_custom.features.selection import fit_head, held_out_logits

HEAD = "discriminant"
INJECTED = [("none", 0.0, 1), ("random", 0.1, 2), ("next class", 0.1, 1), ("random", 0.05, 1), ("random", 0.2, 1)]
LABELLED, BUDGETS, SEEDS = 50, (20, 50, 100, 200), 5
T_QUANTILE = {5: 2.776, 10: 2.262}  # of Student's distribution, two-sided 95 %, by the number of seeds


def read(folder: Path, split: str, count: int) -> tuple[list[bytes], np.ndarray]:
    """Return (encoded images, class ids) of `count` rows, drawn with seed 0."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(f"{split}-*.parquet"))])
    rows = table.take(pa.array(np.sort(np.random.default_rng(0).permutation(len(table))[:count])))
    ids = np.unique(np.array(rows["label"].to_pylist()), return_inverse=True)[1]
    return [image["bytes"] for image in rows["image"].to_pylist()], ids


def spoil(labels: np.ndarray, how: str, share: float, seed: int) -> np.ndarray:
    """Return the labels with a share of them made wrong."""
    rng, classes = np.random.default_rng(seed), labels.max() + 1
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    spoilt = labels.copy()
    spoilt[chosen] = (labels[chosen] + (1 if how == "next class" else rng.integers(1, classes, len(chosen)))) % classes
    return spoilt


def error_rows(features, labels: np.ndarray) -> None:
    """Print a line for each way to make labels wrong."""
    from cleanlab.filter import find_label_issues

    classes = int(labels.max()) + 1
    print(
        "injected | ours | confident learning's set | margin | most confident mistakes | cleanlab, default | listed, "
        "expected wrong, wrong | estimate | confident learning's count | counted as another class by ours, also by "
        "cleanlab's default, by this"
    )
    for how, share, seeds in INJECTED:
        rows = []
        for seed in range(seeds):
            given = spoil(labels, how, share, seed)
            bad, count = given != labels, round(share * len(labels))
            fitted = fit(features, ClassIds(given), classes, HEAD)
            taken = features.of(fitted.tap)

            def held_out(some: np.ndarray, seed: int, taken=taken, fitted=fitted) -> np.ndarray:
                logits = held_out_logits(taken, some, classes, HEAD, fitted.head.strength, seed=seed)
                return logits.softmax(dim=1).numpy()

            found = held_out(given, 0)
            errors, estimate = find_label_errors(given, found), estimate_errors(given, classes, held_out)
            mistakes = np.where(found.argmax(axis=1) != given, -found.max(axis=1), 1)
            issues = find_label_issues(given, found, return_indices_ranked_by="self_confidence", n_jobs=1)

            def first(*ranked: np.ndarray, bad=bad, count=count) -> float:
                order = list(dict.fromkeys(int(i) for part in ranked for i in part))
                return float(bad[order[:count]].mean()) if count else float("nan")

            by_own = np.argsort(errors.own, kind="stable")
            listed = errors.suspects[: min(round(estimate.wrong), len(errors.suspects))]
            expected = estimate.among(errors.own[listed[-1]]) if len(listed) else 0
            rows.append(
                [
                    first(by_own), first(by_own[errors.confident[by_own]], by_own),
                    first(np.argsort(errors.own - errors.likely_probability)),
                    first(np.argsort(mistakes, kind="stable")), first(issues, by_own), len(listed), expected,
                    bad[listed].sum(), estimate.wrong, errors.counted, errors.confident.sum(),
                    errors.confident[issues].sum(), len(issues),
                ]
            )  # fmt: skip
        mean = np.mean(rows, axis=0)
        shares, counts = [f"{value:.3f}" for value in mean[:5]], [f"{value:.0f}" for value in mean[5:]]
        print(f"{how} {share:.0%} ({seeds}) | " + " | ".join(shares + counts), flush=True)


# ---------- what to label next: rules to compare with. All: features of length 1, the labelled, the others, the budget


def k_center(unit: np.ndarray, labelled: np.ndarray, others: np.ndarray, budget: int) -> np.ndarray:
    """Return the images farthest from all that are chosen or labelled, one after the other (core-set)."""
    distance = (2 - 2 * unit @ unit[labelled].T).min(axis=1) if len(labelled) else 2 - 2 * unit @ unit[others[0]]
    chosen: list[int] = []
    while len(chosen) < budget:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, 2 - 2 * unit @ unit[chosen[-1]])
    return np.array(chosen)


def typiclust(unit: np.ndarray, labelled: np.ndarray, others: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Return the most typical image of each of the largest clusters without a label."""
    from sklearn.cluster import KMeans

    clusters = KMeans(len(labelled) + budget, n_init=1, max_iter=50, random_state=seed).fit(unit).labels_
    sizes = np.bincount(clusters, minlength=len(labelled) + budget)
    held = np.bincount(clusters[labelled], minlength=len(sizes)) if len(labelled) else np.zeros_like(sizes)
    chosen = []
    for cluster in np.lexsort((-sizes, held))[:budget]:
        members = np.setdiff1d(np.flatnonzero(clusters == cluster), labelled)
        if len(members):
            chosen.append(members[typicality(unit[members]).argmax()])
    return np.array(chosen)


def next_rows(features, labels: np.ndarray, test, test_labels: np.ndarray, count: int, seeds: int) -> None:
    """Print the accuracy, and its difference from random choice, of each rule, budget and number of labels before."""
    classes, everyone = int(labels.max()) + 1, np.arange(count)
    results: dict[tuple, list[float]] = {}
    for before in (LABELLED, 0):
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            labelled = rng.permutation(count)[:before]
            others = rng.permutation(np.setdiff1d(everyone, labelled))
            tap, chance = features.taps.taps[0], np.full((count, classes), 1 / classes)
            if before:
                fitted = fit(features, ClassIds(labels), classes, HEAD, indices=labelled)
                tap = fitted.tap
                logits = features.of(tap, everyone.tolist()).double() @ fitted.head.weight.T + fitted.head.bias
                chance = logits.softmax(dim=1).numpy()
            rows, held_out = features.of(tap, everyone.tolist()), test.of(tap)
            unit = torch.nn.functional.normalize(Scaling(rows)(rows), dim=1).float().numpy()
            for budget in BUDGETS:
                chosen = {
                    "random": others[:budget],
                    "margin": others[np.argsort(margins(chance[others]), kind="stable")[:budget]],
                    "k-center": k_center(unit, labelled, others, budget),
                    "TypiClust": typiclust(unit, labelled, others, budget, seed),
                    "ours": others[choose_next(rows[others].numpy(), chance[others], budget, seed)],
                }
                for rule, picked in chosen.items():
                    known = np.concatenate([labelled, picked])
                    head = fit_head(rows[known], ClassIds(labels[known]), classes, HEAD)
                    right = (held_out.double() @ head.weight.T + head.bias).argmax(dim=1).numpy() == test_labels
                    results.setdefault((before, budget, rule), []).append(100 * right.mean())
        for (held, budget, rule), values in results.items():
            if held == before:
                more = np.array(values) - np.array(results[held, budget, "random"])
                wide = T_QUANTILE.get(seeds, 1.96) * more.std(ddof=1) / len(more) ** 0.5
                print(
                    f"{held} + {budget} | {rule} | {np.mean(values):.1f} | {more.mean():+.1f} ± {wide:.1f}", flush=True
                )


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["errors", "next"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a folder of ours, of the input size that is wanted")
    parser.add_argument("--images", type=int, default=10_000, help="of train")
    parser.add_argument("--test_images", type=int, default=3_000)
    parser.add_argument("--pool", type=int, default=10_000, help="images to choose from")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of next")
    parser.add_argument("--image_cache", default="auto")
    args = parser.parse_args()
    encoder = open_encoder(args.model)

    def features(split: str, count: int):
        images, labels = read(args.data, split, count)
        return encoder.features(Examples(images, [f"{split} {i}" for i in range(count)]), args.image_cache, True)[
            0
        ], labels

    known, labels = features("train", args.images)
    if args.what == "errors":
        error_rows(known, labels)
    else:
        next_rows(known, labels, *features("test", args.test_images), min(args.pool, args.images), args.seeds)


if __name__ == "__main__":
    main()
