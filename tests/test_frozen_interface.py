"""Users' scripts for 0.1.0 still work: flags, names, exit codes, the keys of each JSON.

New ones may be added; none disappears, and a default changes only with a note in CHANGELOG.
"""

import json
import shutil

import pytest
from command_parsers import parser_of
from frozen import FROZEN, ROOT, inside, parsed, plain, shape, vanished, write_digits
from frozen_commands import DOCUMENTS, SLOW, exit_code, names, prepare
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import modeling_vit_custom

FLAGS, ENDS, KEYS, NAMES = (
    json.loads((FROZEN / f"{name}.json").read_text()) for name in ("flags", "exit_codes", "json_keys", "names")
)


# (command, flag): its default now; CHANGELOG says so under Changed.
CHANGED = {
    ("train", "--method"): None,  # search from a checkpoint, unless flags say how to train
    ("train", "--train_val_split"): None,  # 0.15, except for methods that cross-validate
    ("pretrain", "--method"): None,  # full, the only one
    ("pretrain", "--train_val_split"): None,  # 0.15
}
# Exit codes that have changed; CHANGELOG calls them Breaking.
ENDS_SINCE = {
    "predict": 1,  # an image could not be read
    # the exit code of every command that could not do what was asked
    "evaluate: no model": 2,
    "evaluate: an unreadable image": 2,
    "publish: no licence": 2,
    "publish: no folder": 2,
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_is_there_with_its_names_default_and_choices(command):
    """Guards the parsers: they accept the same flags after they were moved, grouped or derived from one declaration."""
    parser = parser_of(command.split())
    for row in FLAGS[command]:
        wanted = row["names"] or [row["dest"]]
        action = next((each for each in parser._actions if {*wanted} <= {each.dest, *each.option_strings}), None)
        assert action is not None, f"{command}: {wanted} has vanished"
        assert not action.required or row["required"], f"{command} {row['names']} must now be given"
        if "default" in row:
            wanted = next(
                (CHANGED[command, name] for name in row["names"] if (command, name) in CHANGED), row["default"]
            )
            assert plain(action.default) == wanted, f"{command} {row['names']} has another default"
            assert set(row["choices"] or ()) <= {*plain(list(action.choices or row["choices"] or ()))}, row["names"]
            assert action.choices is None or row["choices"] is not None, f"{command} {row['names']} took any value"
        assert parsed(parser, action, row["example"]) == row["becomes"], f"{command} {row['example']}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with the frozen models, the digits, a model of transformers, and what the exit codes need."""
    folder = tmp_path_factory.mktemp("place")
    for model in ("plain", "speeds"):
        shutil.copytree(FROZEN / "models" / model, folder / model)
        (folder / model / "expected.json").unlink()
    write_digits(folder)
    prepare(folder)
    theirs = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        num_channels=1,
    )  # fmt: skip
    ViTForImageClassification(theirs).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder / "vit")
    return folder


@pytest.mark.parametrize("name", ENDS)
def test_commands_end_with_the_same_exit_code(place, name):
    """Guards the exit codes that a shell script tests after a command."""
    with inside(place):
        assert exit_code(ENDS[name]["argv"]) == ENDS_SINCE.get(name, ENDS[name]["code"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in KEYS])
def test_the_keys_of_a_json_are_there(place, name):
    """Guards metrics.json and the other records, which users' scripts read."""
    with inside(place):
        assert not list(vanished(KEYS[name], shape(DOCUMENTS[name]())))


def test_frozen_records_still_have_the_keys_that_are_made_now():
    """Guards golden.json, which takes a separate process to make: its reader checks the keys it needs."""
    from modeling_vit_custom.publishing.golden import read_golden

    assert read_golden(FROZEN / "published")["images"] == ["examples/0.png", "examples/1.png", "examples/2.png"]


def test_names_can_be_imported_and_started():
    """Guards imports of the package and of its published modules, recipes, commands and scripts."""
    now = names()
    for what, frozen in NAMES.items():
        if isinstance(frozen, dict):
            assert {name: plain(now[what].get(name, "vanished")) for name in frozen} == frozen, what
        else:
            assert not set(frozen) - set(now[what]), what
    assert all(hasattr(modeling_vit_custom, name) for name in NAMES["modeling_vit_custom"])
    assert all((ROOT / script).is_file() for script in NAMES["scripts"])
