"""Compare what transformers' own classes and ours do without being asked: fetch, follow and write.

`python tests/support/attack_behaviours.py` prints both results side by side.
"""

import contextlib
import http.server
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from attacks import WEIGHTS, fields, table_cell, weights
from datasets import load_dataset
from loaded_splits import load_splits
from real_digits import write_class_folder, write_digit
from saved_models import save_ours, save_transformers_vit
from tiny_training import tiny_train, tiny_trainer
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessor

from modeling_vit_custom import ViTCustomConfig, ViTCustomImageProcessor

TOKEN = "hf_" + "n0tAreal" + "Token" * 5
HOSTILE_KEYS = {
    "_attn_implementation_internal": "someone/internal", "attn_implementation": "someone/kernel",
    "transformers_weights": "../other.safetensors", "_auto_class": "os.system", "fusion_config": {"a": True},
}  # fmt: skip


@contextlib.contextmanager
def counting_server() -> Iterator[tuple[str, list[str]]]:
    """Run a server on this machine; yield its address and the list of paths that are requested from it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/private.png", asked
    finally:
        server.shutdown()
        server.server_close()


def files_holding(folder: Path, secret: str) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes())


def outcome(action) -> str:
    """Return the result of `action`, or its error as text."""
    try:
        return action()
    except Exception as error:
        return table_cell(error, 0).replace(", 0.00 s", "")


def fetched(processor_class) -> str:
    with counting_server() as (url, asked):
        with contextlib.suppress(Exception):
            processor_class()(url)
        return f"{len(asked)} request(s) sent"


def kept_keys(folder: Path, config_class) -> str:
    fields("config.json", **HOSTILE_KEYS)(folder)
    config = config_class.from_pretrained(folder)
    kept = [name for name, value in HOSTILE_KEYS.items() if vars(config).get(name) == value]
    if config._attn_implementation == "someone/kernel":
        kept.append("and attention set to someone/kernel")
    return f"taken over: {', '.join(kept) or 'none'}"


def stock_trainer(folder: Path, **arguments) -> Trainer:
    arguments = TrainingArguments(output_dir=str(folder / "o"), report_to="none", use_cpu=True, **arguments)
    return Trainer(model=ViTForImageClassification.from_pretrained(folder), args=arguments)


def stock_token(folder: Path) -> str:
    trainer = stock_trainer(folder, hub_token=TOKEN)
    trainer.save_model()
    return f"written to {', '.join(files_holding(folder / 'o', TOKEN)) or 'no file'}"


def our_token(folder: Path, digits: Path) -> str:
    os.environ["HF_TOKEN"] = TOKEN
    with contextlib.redirect_stdout(sys.stderr):
        tiny_train(folder / "o", "--train_dir", digits, "--num_train_epochs", 1)
    refused = outcome(lambda: tiny_train(folder / "p", "--train_dir", digits, "--hub_token", TOKEN))
    return f"HF_TOKEN written to {', '.join(files_holding(folder, TOKEN)) or 'no file'}; --hub_token: {refused}"


def saved_nan(trainer: Trainer, folder: Path) -> str:
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    trainer.save_model()
    return "saved" if (folder / WEIGHTS).exists() else "not saved"


def resumed(trainer: Trainer, folder: Path) -> str:
    """Try to resume from a checkpoint whose keys are all renamed."""
    weights(lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})(folder)
    trainer._load_from_checkpoint(str(folder))
    return "**accepted**, a warning"


def main():
    print("| behaviour | today: transformers, datasets | ours |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        vit, ours = save_transformers_vit(root / "vit"), save_ours(root / "ours")
        digits = write_class_folder(root / "digits", {"0": 12, "1": 12})
        private = write_digit(root / "private.png", 3)
        linked = Path(shutil.copytree(digits, root / "linked"))
        (linked / "0" / "link.png").symlink_to(private)
        table = root / "table" / "t.csv"
        table.parent.mkdir()
        table.write_text("image,label\n../private.png,0\n")
        trainer, _ = tiny_trainer(root / "t", "--train_dir", digits)
        rows = {
            "keys of a stored configuration that are no field": (
                lambda: kept_keys(Path(shutil.copytree(vit, root / "vit-keys")), ViTConfig),
                lambda: kept_keys(Path(shutil.copytree(ours, root / "our-keys")), ViTCustomConfig),
            ),
            "an address given as an image": (
                lambda: fetched(ViTImageProcessor),
                lambda: fetched(ViTCustomImageProcessor),
            ),
            "a link out of the image folder": (
                lambda: f"followed: {load_dataset('imagefolder', data_dir=str(linked), cache_dir=str(root / 'cache'))}",
                lambda: str(len(load_splits(linked).train)),
            ),
            "a table row ../private.png": (lambda: "no such table reader", lambda: str(len(load_splits(table).train))),
            "a token while training": (
                lambda: stock_token(Path(shutil.copytree(vit, root / "vit-token"))),
                lambda: our_token(root / "our-token", digits),
            ),
            "saving NaN weights": (
                lambda: saved_nan(stock_trainer(vit), vit / "o"),
                lambda: saved_nan(trainer, root / "t"),
            ),
            "resuming with every key renamed": (
                lambda: resumed(stock_trainer(vit), Path(shutil.copytree(vit, root / "vit-renamed"))),
                lambda: resumed(
                    tiny_trainer(root / "u", "--train_dir", digits)[0],
                    Path(shutil.copytree(ours, root / "our-renamed")),
                ),
            ),
        }
        for name, (today, our) in rows.items():
            print(f"| {name} | {' '.join(outcome(today).split())} | {outcome(our)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
