"""Commands that meet an image beyond --max_pixels name the image and the flag, not internal parts of the code."""

import warnings

import pytest
from image_files import huge_png
from real_digits import write_class_folder
from saved_models import save_ours
from tiny_training import command

from modeling_vit_custom.commands import audit_data, evaluate, predict, train

SIDES = {"refused here": 12_000, "refused by Pillow": 30_000}
COMMANDS = {
    "predict": lambda model, data, out: predict.main(["--model", model, data, "--output", f"{out}/lines.jsonl"]),
    "evaluate": lambda model, data, out: evaluate.main(
        ["--model", model, "--data_dir", data, "--on_error", "skip", "--output", f"{out}/metrics.json"]
    ),
    "evaluate, stopped": lambda model, data, out: evaluate.main(
        ["--model", model, "--data_dir", data, "--output", f"{out}/metrics.json"]
    ),
    "train": lambda model, data, out: train.main(command(f"{out}/run", "--train_dir", data)),
    "audit_data": lambda model, data, out: audit_data.main(
        [data, "--json", f"{out}/audit.json", "--html", f"{out}/audit.html", "--num_workers", "0"]
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_ours(tmp_path_factory.mktemp("model") / "m", num_labels=2, id2label={0: "0", 1: "1"}))


@pytest.fixture(scope="module", params=SIDES.values(), ids=SIDES)
def data(request, tmp_path_factory) -> str:
    """Write two classes, one with an image that is too large; return the folder."""
    folder = write_class_folder(tmp_path_factory.mktemp("data"), {"0": 6, "1": 6})
    (folder / "0" / "huge.png").write_bytes(huge_png(request.param))
    return str(folder)


@pytest.mark.parametrize("run", COMMANDS.values(), ids=COMMANDS)
def test_a_command_names_the_image_and_its_flag(model, data, tmp_path, capfd, run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(model, data, tmp_path)
    said = "".join(capfd.readouterr()) + "".join(
        path.read_text() for path in tmp_path.iterdir() if path.suffix in (".jsonl", ".json", ".html")
    )
    assert "huge.png" in said and "refused before decoding" in said and "raise --max_pixels if you trust it" in said
    assert "ImageLimits" not in said and "PIL" not in said
    assert not [warning for warning in caught if "pixels" in str(warning.message)]
