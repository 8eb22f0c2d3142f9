"""Freezes this version: `python tests/golden/freeze.py`, which writes `frozen-VERSION`. Run once, before code moves.

Models, exports, half-finished runs and a published tree, each with what it answers; names of flags and of JSON keys.
"""

import json
import os
import shutil
import sys
import tempfile
import zipfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from command_parsers import commands
from faults import around, at_step, die
from frozen import (
    BACKENDS,
    CODE,
    EXPORTED,
    EXPORTS,
    FROZEN,
    MODEL,
    MODELS,
    PREDICT,
    RUN,
    RUNS,
    answers,
    flag_rows,
    inside,
    outputs,
    pixels,
    write_digits,
)
from frozen_commands import documents, exit_codes, names
from ranks import fork, log_to
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomImageProcessor,
    ViTCustomModel,
    resize_input,
)
from modeling_vit_custom.cli import main as vit_custom
from modeling_vit_custom.common.json_files import write_json
from modeling_vit_custom.inference import predict as prediction
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.speed.export import ExportOptions, export
from modeling_vit_custom.speed.table import store

KEPT = (".json", ".safetensors", ".pt", ".pth")
SMALL = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8,
    "patch_size": 4, "num_channels": 1, "id2label": {0: "0", 1: "1"},
}  # fmt: skip


def run(*argv: object) -> None:
    assert vit_custom([str(word) for word in argv]) == 0, argv


def save(folder: Path, model, processor=None, dtype=torch.float32) -> None:
    """A model that is random in every parameter."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.to(dtype).save_pretrained(folder)
    (processor or ViTCustomImageProcessor.for_model(model.config)).save_pretrained(folder)


def make_models() -> None:
    """All of MODELS, in folders of these names."""
    short = [*RUN[:-2], "--max_steps", "4", "--save_strategy", "no", "--eval_strategy", "no"]
    run("train", *MODEL, *short, "--max_steps", -1, "--num_train_epochs", 12, "--learning_rate", 1e-2,
        "--output_dir", "plain")  # fmt: skip
    run("train", "--model_name_or_path", "plain", "--method", "lora", *short, "--lora_rank", 2, "--output_dir", "lora")
    token = ",pooling=cls_register,use_cls_token=true,num_register_tokens=1"
    taught = ["--teacher", "plain", "--distillation", "hard", "--output_dir", "distilled"]
    run("train", *MODEL[:-1], MODEL[-1] + token, *short, *taught)
    run("pretrain", *MODEL, *short, "--output_dir", "pretrained")

    torch.manual_seed(0)
    rope = {"position_embedding": "none", "rope_theta": 100.0, "num_register_tokens": 1, "use_qk_norm": True}
    gated = {"use_gated_mlp": True, "hidden_act": "silu", "pooling": "map", "embedding_norm": True}
    config = ViTCustomConfig(**SMALL, **rope, **gated, pre_logits_size=6)
    save(Path("rope"), ViTCustomForImageClassification(config))
    oblong = ViTCustomConfig(**{**SMALL, "image_size": (8, 12), "position_interpolation": "bilinear"})
    model, processor = ViTCustomForImageClassification(oblong), ViTCustomImageProcessor.for_model(oblong)
    resize_input(model, processor, (12, 16))
    save(Path("half"), model, processor, torch.float16)
    save(Path("encoder"), ViTCustomModel(ViTCustomConfig(**{**SMALL, "id2label": {}}, num_register_tokens=2)))

    save(Path("speeds"), ViTCustomForImageClassification(ViTCustomConfig(**{**SMALL, "image_size": 16})))
    run("speed_table", "--model", "speeds", "--data_dir", "digits", "--seconds", 0.05, "--token_merging", "1.5x",
        "--sizes", 0.5)  # fmt: skip
    report = json.loads(Path("speeds/speeds.json").read_text())
    _, merging, smaller, *_ = report["rows"]  # named whatever this machine measured
    store(Path("speeds"), report | {"speeds": {"1.5x": merging, "2x": smaller}})

    theirs = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
        num_channels=1, id2label=SMALL["id2label"],
    )  # fmt: skip
    ViTForImageClassification(theirs).save_pretrained("vit")
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained("vit")
    with redirect_stdout(StringIO()):
        run("convert", "vit", "converted", "--check")


def freeze_models() -> None:
    for name, (auto, compared) in MODELS.items():
        keep(Path(name), FROZEN / "models" / name)
        expected = answers(Path(name), auto, compared)
        if name == "speeds":
            expected["speeds"] = {speed: answers(Path(name), auto, compared, speed=speed) for speed in ("1.5x", "2x")}
        write_json(FROZEN / "models" / name / "expected.json", expected)


def keep(source: Path, target: Path) -> None:
    """Copies what of a saved folder is no code, picture or page."""
    for path in sorted(source.rglob("*")):
        if path.suffix in KEPT and path.name != "recipe.yaml":
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.relative_to(source))


def freeze_code() -> None:
    packed(CODE, Path("plain"), sorted(Path("plain").glob("*.py")))


def freeze_exports() -> None:
    for name, (form, dtype, _) in EXPORTS.items():
        folder = Path("exports") / name
        export(
            "plain",
            folder,
            ExportOptions(form, dtype),
            "digits" if dtype == "int8" else None,
            max_accuracy_drop=100,
            seconds=0.05,
        )
        for path in folder.glob("*.py"):
            path.unlink()
        exported, _ = load_classifier(str(folder), trust_remote_code=True)
        expected = {backend: outputs(exported, ("logits",), pixels(folder, backend)) for backend in BACKENDS}
        write_json(folder / "expected.json", expected)
    packed(EXPORTED, Path("exports"), sorted(Path("exports").rglob("*.*")))


def packed(target: Path, folder: Path, files: list[Path]) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for path in files:
            named = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            archive.writestr(named, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)


def _dies_at_step_6(environment: dict, command) -> None:
    log_to("log")
    at_step(6)()
    sys.exit(command([*MODEL, *RUN]))


def _dies_after_7_images(environment: dict) -> None:
    log_to("log")
    calls = [0]

    def third(*_: object, **__: object) -> None:
        calls[0] += 1
        if calls[0] == 3:
            die()

    around(prediction, "lines_of", before=third)
    vit_custom(PREDICT)


def freeze_runs() -> None:
    for name, command in RUNS.items():
        assert fork(_dies_at_step_6, [{}], command) == [-9], Path("log").read_text()
        keep(Path("run"), FROZEN / "runs" / name / "run")
        shutil.rmtree("run")
        assert command([*MODEL, *RUN]) == 0
        shutil.copy("run/model.safetensors", FROZEN / "runs" / name / "final.safetensors")
        shutil.rmtree("run")
    folder = FROZEN / "predict"
    folder.mkdir()
    assert fork(_dies_after_7_images, [{}]) == [-9], Path("log").read_text()
    (part,) = Path().glob("predictions.jsonl.part-*")
    (folder / part.name).write_bytes(part.read_bytes()[:-20])  # its last line torn
    shutil.move("predictions.jsonl.meta.json", folder)
    part.unlink()
    run(*PREDICT)
    shutil.copy("predictions.jsonl", folder / "expected.jsonl")


def freeze_published() -> None:
    said = StringIO()
    for picture in Path("plain").glob("*.png"):
        Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(picture, optimize=True)
    with redirect_stdout(said):
        run("publish", "plain", "someone/digits", "--license", "apache-2.0", "--dry_run")
    staged = Path(said.getvalue().split("staged, not uploaded: ")[1].splitlines()[0])
    target = FROZEN / "published"
    shutil.copytree(staged / "model", target, ignore=shutil.ignore_patterns("*.py"))
    (target / ".gitattributes").rename(target / "gitattributes")
    shutil.rmtree(staged)


def main() -> None:
    assert not FROZEN.exists(), f"{FROZEN} is never changed"
    FROZEN.mkdir()
    with tempfile.TemporaryDirectory() as scratch, inside(Path(scratch)):
        write_digits(Path())
        make_models()
        freeze_code()
        freeze_models()
        freeze_exports()
        freeze_runs()
        freeze_published()
        write_json(FROZEN / "exit_codes.json", exit_codes(Path()))
        write_json(FROZEN / "json_keys.json", documents())
    write_json(FROZEN / "flags.json", {" ".join(command): flag_rows(command) for command in commands()})
    write_json(FROZEN / "names.json", names())


if __name__ == "__main__":
    main()
