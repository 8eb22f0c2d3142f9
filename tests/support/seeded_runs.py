"""The results of seeded trainings, to prove that a redesign changes none of them.

    python tests/support/seeded_runs.py FOLDER > before.json     # at the commit before
    python tests/support/seeded_runs.py OTHER > after.json       # at the commit after
    diff before.json after.json

Each line names a file that a run left and the SHA-256 of its content without durations, rates and memory; the curve of
the time spent waiting for data in report.html is kept.
To read what differs, compare the two folders: the files lie in `said/` as they were hashed. Python decides which
package
runs: set PYTHONPATH to a checkout.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

DATA = ["--dataset", "mnist5k", "--data_root", "data", "--max_train_samples", "192", "--max_eval_samples", "96"]
SAME = ["--seed", "3", "--per_device_train_batch_size", "16", "--dataloader_num_workers", "0", "--report_to", "none"]
SCRATCH = ["--variant", "nano/4", "--config_overrides", "num_channels=1"]
FROM = ["--model_name_or_path", "full", "--num_train_epochs", "1", "--learning_rate", "1e-3"]
TRAIN = ["train", *DATA, *SAME]
COMMANDS: dict[str, list[list[str]]] = {
    "full": [[*TRAIN, *SCRATCH, "--num_train_epochs", "2", "--mixup", "0.8", "--cutmix", "1", "--ema_decay", "0.9",
              "--auto_augment", "trivialaugment", "--layer_decay", "0.8", "--augmentation", "light"]],
    "resumed": [[*TRAIN, *SCRATCH, "--num_train_epochs", epochs, "--random_erasing", "0.3"] for epochs in "12"],
    "probe": [[*TRAIN, *FROM, "--method", "linear_probe"]],
    "lora": [[*TRAIN, *FROM, "--method", "lora", "--lora_rank", "2"]],
    "head_then_full": [[*TRAIN, *FROM, "--method", "head_then_full", "--muon", "true"]],
    "fitted_head": [[*TRAIN, *FROM[:2], "--method", "fitted_head"]],
    "distilled": [[*TRAIN, *SCRATCH, "--num_train_epochs", "1", "--teacher", "fitted_head"]],
    "pretrained": [["pretrain", *DATA, *SAME, *SCRATCH, "--num_train_epochs", "1"]],
    "from_pretrained": [[*TRAIN, "--model_name_or_path", "pretrained", "--method", "full", "--num_train_epochs", "1",
                         "--class_weights", "balanced"]],
}  # fmt: skip
CLASSIFIERS = [name for name in COMMANDS if name != "pretrained"]
OF_TIME = re.compile(
    r"seconds|runtime|per_second|data_wait|memory|images_per|throughput|flops|duration|^environment$|^versions$|sha256|began"
)
TIMES = re.compile(
    r"\d[\d.,]*( min)?( \d+)? ?(s|ms|seconds|minutes|images/s|MB|GB)\b"
    r"|[0-9a-f]{64}|[0-9a-f]{12}…|\d{4}-\d\d-\d\d( \d\d:\d\d)?"
)


def timeless(value):
    """Return a JSON value without the entries in which two equal runs may differ."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if not OF_TIME.search(name)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def said(path: Path) -> bytes:
    """Return the content of a file in a form that can be compared."""
    if path.suffix in (".json",):
        return json.dumps(timeless(json.loads(path.read_text())), indent=1, sort_keys=True).encode()
    if path.suffix in (".md", ".html"):
        return TIMES.sub("…", path.read_text()).encode()
    return path.read_bytes()


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tmp").mkdir()
    environment = os.environ | {
        "TMPDIR": str(folder / "tmp"), "VIT_CUSTOM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip

    def run(*words: str) -> str:
        line = [sys.executable, "-W", "ignore", "-m", "modeling_vit_custom.cli", *words]
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    for name, commands in COMMANDS.items():
        for words in commands:
            print(" ".join(words), file=sys.stderr, flush=True)
            run(*words, "--output_dir", name)
    for name in CLASSIFIERS:
        run("predict", "data/mnist5k/test", "--model", name, "--output", f"{name}/predictions.jsonl", "--embeddings")
    run("evaluate", "--model", "full", "--data_dir", "data/mnist5k/test", "--output", "evaluated/metrics.json",
        "--html", "evaluated/page.html")  # fmt: skip
    for name in ("full", "lora"):
        shown = run("publish", name, f"someone/{name}", "--license", "mit", "--dry_run")
        staged = re.search(r"staged, not uploaded: (\S+)", shown)
        assert staged is not None, shown
        shutil.move(staged[1], folder / f"published-{name}")
    sums = {}
    for parent in (*COMMANDS, "evaluated", "published-full", "published-lora"):
        for path in sorted((folder / parent).rglob("*")):
            known = path.suffix in (".json", ".safetensors", ".jsonl", ".md", ".html", ".png", ".yaml")
            if path.is_file() and known and "checkpoint-" not in str(path) and "trainer_state" not in path.name:
                name = str(path.relative_to(folder))
                copy = folder / "said" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(said(path))
                sums[name] = hashlib.sha256(copy.read_bytes()).hexdigest()
    print(json.dumps(sums, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
