"""Tables of flags follow from the flags' declarations: a new flag needs no other entry."""

import ast
import json
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_training import command, tiny_train

import modeling_vit_custom
from modeling_vit_custom.commands.pretrain import main as pretrain_command
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.publishing.facts import OF_DATA, recipe_rows
from modeling_vit_custom.training.arguments.data_arguments import DataArguments
from modeling_vit_custom.training.arguments.model_arguments import ModelArguments
from modeling_vit_custom.training.arguments.tables import FLAGS, GROUPS, RECORDED
from modeling_vit_custom.training.arguments.trainer_fields import FIELDS
from modeling_vit_custom.training.arguments.training_arguments import ViTTrainingArguments


def test_every_flag_of_ours_is_declared_with_its_facts_and_a_heading():
    own = {field.name for group in (ModelArguments, DataArguments) for field in fields(group) if field.init}
    own |= {field.name for field in fields(ViTTrainingArguments)} - FIELDS.keys()
    assert own <= FLAGS.keys() and all(GROUPS[name] for name in own)


def test_no_table_of_flags_is_kept_by_hand():
    """Exceptions: changes that a run survives, and records of data, are listed in rooms below the declarations."""
    package, known = Path(modeling_vit_custom.__file__).parent, {"changes.py": 6, "facts.py": len(OF_DATA)}
    for path in [*package.glob("training/**/*.py"), *package.glob("reporting/*.py"), *package.glob("publishing/*.py")]:
        if path.parent.name == "arguments" and path.stem.endswith(("_arguments", "fields")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                named = [each.value for each in node.elts if isinstance(each, ast.Constant) and each.value in FLAGS]
                assert len(named) <= known.get(path.name, 4), f"{path.name}: {named}"


def test_a_new_augmentation_is_its_declaration_and_its_use(digits, tmp_path, capsys):
    asked = ("--train_dir", digits, "--max_steps", 2, "--random_grayscale")
    metrics = tiny_train(tmp_path / "o", *asked, 0.5)
    run = json.loads((tmp_path / "o" / "training_args.json").read_text())
    assert "random_grayscale" in RECORDED and run["data"]["random_grayscale"] == 0.5
    assert recipe_rows(run, metrics)["further augmentation"] == "random_grayscale 0.5"
    with pytest.raises(UsageError, match=r"other settings .*--random_grayscale 0\.5 there, 0\.7 now"):
        tiny_train(tmp_path / "o", *asked, 0.7)
    with pytest.raises(UsageError, match=r"--random_grayscale 2\.0: give a number from 0 to 1"):
        tiny_train(tmp_path / "p", *asked, 2)
    assert pretrain_command(command(tmp_path / "q", "--train_dir", digits, "--random_grayscale", 0.5)) == 2
    assert "--random_grayscale has no meaning in pre-training" in capsys.readouterr().err
