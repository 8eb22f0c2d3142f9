"""The chosen recipe follows from the data, the time and the hardware, and is printed, recorded and used again."""

import numpy as np
import pytest
import yaml
from PIL import Image
from real_digits import write_class_folder
from sklearn.datasets import load_sample_image
from tiny_training import QUICK

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.training.arguments.completion import complete_arguments
from modeling_vit_custom.training.runs.auto_choice import Checkpoint, Facts, choose, operations
from modeling_vit_custom.training.runs.train import train

DIGITS = Facts(images=3_600, side=28, grey=True, single_label=True, minutes=None, cores=2)
PHOTOS = Facts(
    images=100_000, side=375, grey=False, single_label=True, minutes=600, cores=16, accelerator="cuda",
    memory=80 * 2**30,
)  # fmt: skip
BASE = Checkpoint(86_000_000, ViTCustomConfig.from_variant("b/16"))


def chosen(facts: Facts, **changes) -> dict:
    choices = choose(Facts(**{**vars(facts), **changes}))
    assert all(len(choice.why) > 5 for choice in choices)
    assert len({choice.flag for choice in choices}) == len(choices)
    return {choice.flag: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("facts", "changes", "expected"),
    [
        (DIGITS, {}, {"variant": "micro/8", "image_size": 32, "config_overrides": "num_channels=1",
                      "augmentation": "light", "num_train_epochs": 100}),
        (DIGITS, {"minutes": 0.5}, {"variant": "nano/8"}),
        (DIGITS, {"minutes": 120}, {"variant": "mini/8"}),
        (DIGITS, {"images": 60_000, "minutes": 5}, {"variant": "nano/8", "per_device_train_batch_size": 64}),
        (DIGITS, {"grey": False, "images": 20_000, "minutes": 300}, {"augmentation": "shift", "cutmix": 1.0}),
        (PHOTOS, {}, {"variant": "s/16", "image_size": 224, "augmentation": "standard", "learning_rate": 1e-3}),
        (PHOTOS, {"images": 10**7, "minutes": 10}, {"variant": "ti/16", "augmentation": "none", "eval_steps": 0.1}),
        (PHOTOS, {"checkpoint": BASE}, {"method": "full", "layer_decay": 0.75}),
        (PHOTOS, {"checkpoint": BASE, "memory": 2 * 2**30}, {"method": "lora"}),
        (PHOTOS, {"checkpoint": BASE, "images": 2_000}, {"method": "search", "learning_rate": None}),
        (PHOTOS, {"checkpoint": BASE, "images": 2_000, "memory": 2 * 2**30}, {"method": "lora"}),
        (PHOTOS, {"checkpoint": BASE, "images": 2_000, "in_steps": True}, {"method": "head_then_full"}),
        (PHOTOS, {"checkpoint": BASE, "images": 2_000, "method": "linear_probe"}, {"method": "linear_probe"}),
        (PHOTOS, {"checkpoint": BASE, "accelerator": None, "cores": 2, "images": 1_000, "minutes": 10},
         {"image_size": 128, "method": "search"}),
        (PHOTOS, {"checkpoint": BASE, "accelerator": None, "cores": 2, "images": 9_000, "minutes": 1, "in_steps": True},
         {"image_size": 128, "method": "linear_probe"}),
    ],
)  # fmt: skip
def test_the_rules(facts, changes, expected):
    recipe = chosen(facts, **changes)
    assert {name: recipe.get(name) for name in expected} == expected


def test_what_is_chosen_are_flags_that_go_together(tmp_path):
    for facts in (DIGITS, PHOTOS, Facts(**{**vars(PHOTOS), "checkpoint": BASE})):
        recipe = chosen(facts)
        words = [str(word) for name, value in recipe.items() for word in (f"--{name}", value)]
        source = ["--model_name_or_path", "somewhere"] if facts.checkpoint else []
        complete_arguments(*parse_args([*words, *source, "--train_dir", "d", "--output_dir", str(tmp_path / "o")]))


def test_operations_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from modeling_vit_custom import ViTCustomForImageClassification

    config = ViTCustomConfig.from_variant("ti/16", image_size=64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ViTCustomForImageClassification(config).eval()(torch.zeros(1, 3, 64, 64))
    assert operations(config) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_command_chooses_keeps_and_keeps_to_it(tmp_path, capsys):
    images = write_class_folder(tmp_path / "digits", {"0": 12, "1": 12})
    run = ["--train_dir", str(images), "--output_dir", str(tmp_path / "o"), *map(str, QUICK), "--max_steps", "3"]
    run += [
        "--variant",
        "nano/4",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
    ]
    for words in (["--recipe", "auto", *run], ["auto", *run]):
        args = parse_args(words)
        out = capsys.readouterr().out
        assert "chosen by --recipe auto" in out and "image_size: 32" in out and "variant:" not in out
        assert args[0].image_size == [32] and args[0].variant == "nano/4"
    train(*args)
    kept = yaml.safe_load((tmp_path / "o" / "recipe.yaml").read_text())
    assert kept["image_size"] == 32 and "variant" not in kept
    (tmp_path / "o" / "recipe.yaml").write_text("# mine\nimage_size: 24\n")
    args = parse_args(["auto", *run])
    assert args[0].image_size == [24] and "as chosen before" in capsys.readouterr().out


def test_colours_and_sizes_are_read_off_the_images(tmp_path, capsys):
    photo = Image.fromarray(load_sample_image("china.jpg"))
    for split, name in enumerate(("a", "b")):
        for number in range(4):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = photo.rotate(90 * split, expand=True).resize((60 + number, 80))
            (turned if name == "a" else turned.convert("L")).save(path)
    args = parse_args(["auto", "--train_dir", str(tmp_path / "photos"), "--output_dir", str(tmp_path / "o"), *QUICK])
    assert args[0].image_size == [64] and args[0].config_overrides is None
    grey = np.zeros((30, 30, 3), np.uint8) + 100
    for path in (tmp_path / "photos").rglob("*.png"):
        Image.fromarray(grey + path.stat().st_size % 7).save(path)
    args = parse_args(["auto", "--train_dir", str(tmp_path / "photos"), "--output_dir", str(tmp_path / "o"), *QUICK])
    assert args[0].image_size == [32] and args[0].config_overrides == "num_channels=1"


def test_a_stream_has_no_images_to_look_at(tmp_path):
    with pytest.raises(UsageError, match="--recipe auto looks at the images"):
        parse_args(["auto", "--streaming", "true", "--train_dir", "d", "--output_dir", str(tmp_path / "o")])
