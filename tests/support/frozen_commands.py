"""How the commands end and what they write: exit codes, the names in each JSON, importable names. See `frozen`."""

import json
import shutil
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
from frozen import MODEL, ROOT, RUN, shape

import modeling_vit_custom
from modeling_vit_custom import ViTCustomConfig, ViTCustomImageProcessor
from modeling_vit_custom.cli import COMMANDS
from modeling_vit_custom.cli import main as vit_custom
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.serving.app import Service
from modeling_vit_custom.serving.limits import Limits
from modeling_vit_custom.serving.server import http_server
from modeling_vit_custom.training.arguments.recipes import recipe_names

# ---------- exit codes: arguments of each command, in a folder with `plain`, `digits` and what `prepare` adds

TRAINING = ("train", "pretrain", "quickstart")  # their parser is transformers'
ENDS: dict[str, list[str]] = {
    "no command": [],
    "an unknown command": ["trian"],
    "convert: a folder": ["convert", "plain", "plain-vit", "--to", "hf"],
    "convert: no source": ["convert", "nowhere", "converted-2"],
    "convert: a folder that is not empty": ["convert", "plain", "digits"],
    "convert: no output": ["convert", "plain"],
    "audit_data: clean": ["audit_data", "digits", "--num_workers", "0"],
    "audit_data: an unreadable image": ["audit_data", "spoilt", "--num_workers", "0"],
    "audit_data: no folder": ["audit_data", "nowhere"],
    "pretrain: no data": ["pretrain", *MODEL, "--output_dir", "out-1"],
    "train: no data": ["train", *MODEL, "--output_dir", "out-2"],
    "train: a flag without a value": ["train", "--learning_rate"],
    "train: diverged": ["train", *MODEL, *RUN, "--output_dir", "out-3", "--learning_rate", "1e30"],
    "train: a folder that is no run": ["train", *MODEL, *RUN, "--output_dir", "digits"],
    "evaluate": ["evaluate", "--model", "plain", "--data_dir", "digits", "--output", "e/metrics.json"],
    "evaluate: no model": ["evaluate", "--model", "nowhere", "--data_dir", "digits"],
    "evaluate: an unreadable image": ["evaluate", "--model", "plain", "--data_dir", "spoilt"],
    "predict": ["predict", "digits", "spoilt", "--model", "plain", "--output", "p/predictions.jsonl"],
    "predict: every image fails": ["predict", "spoilt/0/bad.png", "--model", "plain", "--output", "p/bad.jsonl"],
    "predict: no model": ["predict", "digits", "--model", "nowhere"],
    "predict: no images": ["predict", "empty", "--model", "plain", "--output", "p/none.jsonl"],
    "speed_table: no model": ["speed_table", "--model", "nowhere", "--data_dir", "digits"],
    "export: no model": ["export", "--model", "nowhere", "--output", "exported"],
    "export: a folder that is there": ["export", "--model", "plain", "--output", "digits"],
    "publish: no licence": ["publish", "plain", "someone/digits", "--dry_run"],
    "publish: no folder": ["publish", "nowhere", "someone/digits", "--license", "mit", "--dry_run"],
    "verify: a folder that is not published": ["verify", "plain"],
    "verify: no folder": ["verify", "./nowhere"],
    "demo: no commit": ["demo", "--model", "someone/digits"],
    "serve: no model": ["serve", "--model", "nowhere"],
    "quickstart: a seed that is no number": ["quickstart", "--seed", "x"],
    "benchmark: nothing": ["benchmark"],
    **{f"{name}: an unknown flag": [name, "--no_such_flag", "1"] for name in COMMANDS if name not in TRAINING},
}


def prepare(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "spoilt" / "0").mkdir(parents=True)
    (folder / "spoilt" / "0" / "bad.png").write_text("no image")


def exit_code(argv: list[str]) -> int:
    """Return the exit code of `vit-custom` in the current folder."""
    try:
        return vit_custom(argv)
    except SystemExit as ended:
        return int(ended.code or 0)


def exit_codes(folder: Path) -> dict[str, dict[str, Any]]:
    prepare(folder)
    return {name: {"argv": argv, "code": exit_code(argv)} for name, argv in ENDS.items()}


# ---------- the JSON of each command, in a folder with the frozen models and `digits`


def _left(file: str, *argv: str) -> Callable[[], Any]:
    def run() -> Any:
        with redirect_stdout(StringIO()):
            exit_code([str(word) for word in argv])
        text = Path(file).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()] if file.endswith("jsonl") else json.loads(text)

    return run


def _trained(command: str) -> Callable[[], Any]:
    """Return a function that merges both records of a run."""

    def run() -> Any:
        metrics = _left("run/metrics.json", command, *MODEL, *RUN)()
        settings = json.loads(Path("run/training_args.json").read_text(encoding="utf-8"))
        shutil.rmtree("run")
        return {"metrics.json": metrics, "training_args.json": settings}

    return run


def _speeds() -> Any:
    flags = ["--seconds", "0.05", "--token_merging", "1.5x", "--sizes", "0.5"]
    report = _left("speeds/speeds.json", "speed_table", "--model", "speeds", "--data_dir", "digits", *flags)()
    return report | {"speeds": None}  # its names depend on the measurement


def served() -> dict[str, Any]:
    """Return the answers of a real server in a thread of this process: to an image, other bytes, /health and /info."""
    server = http_server(Service(*load_classifier("plain"), "plain", None, Limits()))
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            image = {"content": Path("digits/0/0.png").read_bytes(), "headers": {"content-type": "image/png"}}
            return {
                "/predict": http.post("/predict?top_k=2", **image).json(),
                "/predict, no image": http.post("/predict", **(image | {"content": b"no image"})).json(),
                "/health": http.get("/health").json(),
                "/info": http.get("/info").json(),
            }
    finally:
        server.should_exit = True
        thread.join(30)


DOCUMENTS: dict[str, Callable[[], Any]] = {
    "train": _trained("train"),
    "pretrain": _trained("pretrain"),
    "lines of predict": _left(
        "j.jsonl", "predict", "digits", "spoilt", "--model", "plain", "--embeddings", "--output", "j.jsonl"
    ),
    "evaluate --output": _left("j.json", "evaluate", "--model", "plain", "--data_dir", "digits", "--output", "j.json"),
    "audit_data --json": _left("audit.json", "audit_data", "spoilt", "--num_workers", "0", "--json", "audit.json"),
    "conversion.json": _left("vit-2/conversion.json", "convert", "vit", "vit-2", "--check"),
    "speeds.json": _speeds,
    "HTTP": served,
    "export.json": _left(
        "exported/export.json", "export", "--model", "plain", "--output", "exported", "--format", "torch_export",
        "--data_dir", "digits", "--max_lost", "100",
    ),
}  # fmt: skip
SLOW = ("export.json",)


def documents() -> dict[str, Any]:
    return {name: shape(make()) for name, make in DOCUMENTS.items()}


# ---------- names


def names() -> dict[str, Any]:
    """Return what can be imported, named and started."""
    config = json.loads((ROOT / "config.json").read_text())
    return {
        "modeling_vit_custom": sorted(modeling_vit_custom.__all__),
        "auto_map of the checkout": {name: target.rpartition(".")[2] for name, target in config["auto_map"].items()},
        "fields of ViTCustomConfig, and their defaults": {
            name: getattr(ViTCustomConfig(), name) for name in ViTCustomConfig.__annotations__ if name[0] != "_"
        },
        "settings of ViTCustomImageProcessor, and their defaults": {
            name: value for name, value in ViTCustomImageProcessor().to_dict().items() if not isinstance(value, dict)
        },
        "commands": sorted(COMMANDS),
        "recipes": recipe_names(),
        "scripts": sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts").rglob("[!_]*.*")),
    }
