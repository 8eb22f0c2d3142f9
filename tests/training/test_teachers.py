"""A teacher of any library gives its own logits for the data's classes; what cannot be a teacher is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from real_digits import write_class_folder
from real_teachers import TEACHERS, Teachers, write_noughts_and_ones
from safetensors.torch import save_file
from tiny_training import tiny_train, tiny_trainer

from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.training.objectives import distillation
from modeling_vit_custom.training.objectives.distillation import TeacherLogits
from modeling_vit_custom.training.objectives.teacher_classes import open_teacher


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_noughts_and_ones(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def teachers(digits, tmp_path_factory):
    return Teachers(digits / "train", tmp_path_factory)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_says_what_it_says_in_its_own_library(digits, teachers, tmp_path, name, capsys):
    """Preprocessing and forward are the library's; logits come by index, in the order of the data's classes."""
    model, prepare, flags = teachers(name)
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    said = capsys.readouterr().out
    assert "accuracy on the 16 validation images is 1.0000" in said
    assert ("in this order, 0, 1" if name in ("timm", "torchvision") else "by name") in said
    chosen = [17, 3, 30]
    batch = trainer.train_dataset.__getitems__(chosen)
    files = [splits.train.images[i] for i in chosen]
    with torch.no_grad():
        expected = model(torch.stack([prepare(Image.open(file).convert("RGB")) for file in files]))
    # Pillow rounds resized pixels to whole grey levels; torch rounds a little differently
    torch.testing.assert_close(batch["teacher"], expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    assert batch["teacher"].argmax(1).tolist() == batch["labels"].tolist()


def test_one_of_ours_teaches_another(digits, tmp_path, capsys):
    flags = ["--train_dir", digits, "--learning_rate", 1e-2]
    tiny_train(tmp_path / "teacher", *flags, "--num_train_epochs", 6)
    capsys.readouterr()
    metrics = tiny_train(tmp_path / "o", *flags, "--num_train_epochs", 6, "--teacher", tmp_path / "teacher")
    assert "classes are the data's by name" in capsys.readouterr().out
    assert metrics["validation"]["accuracy"] > 0.8
    described = json.loads((tmp_path / "o" / "training_args.json").read_text())
    assert described["data"]["teacher"]["name"] == "teacher" and len(described["data"]["teacher"]["weights"]) == 64
    assert described["training"]["distillation"] == "soft"
    assert str(tmp_path) not in json.dumps(described)


def grey_resnet(path: Path) -> list[str]:
    """Save a torchvision resnet18 whose first layer takes one channel; return its flags."""
    import torchvision

    model = torchvision.models.resnet18(num_classes=2)
    model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save({"model_state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, path)
    return ["--teacher", "torchvision:resnet18", "--teacher_weights", path, "--teacher_config", "image_size=16"]


def test_a_teacher_of_grey_images_is_shown_grey_ones(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "check_accuracy", lambda *_: "a random teacher")
    trainer, _splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, *grey_resnet(tmp_path / "w.pt"))
    assert trainer.train_dataset.__getitems__([0])["teacher"].shape == (1, 2)
    assert trainer.train_dataset.views([0]).shape[1] == 3, "the student's images must keep their colours"


REFUSED = [
    (["--teacher", "timm:test_resnet"], "needs --teacher_weights"),
    (["--teacher", "no/where"], "no folder with a config.json.*Nothing is downloaded"),
    (["--teacher_weights", "w.pth"], "--teacher_weights w.pth needs a teacher"),
    (["--distillation", "hard"], "--distillation hard needs a teacher"),
    (["--teacher", "timm", "--teacher_config", "size=3"], "size unknown; it takes image_size"),
    (["--teacher", "timm", "--distillation_alpha", "1.5"], "--distillation_alpha 1.5: give a number from 0 to 1"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_flags_that_do_not_go_together_are_refused(digits, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)


def test_it_is_for_single_labels():
    with pytest.raises(UsageError, match="--teacher is for single_label_classification, but the data is regression"):
        open_teacher("t", None, {}, SimpleNamespace(problem_type="regression"))  # type: ignore[arg-type]


def test_classes_that_do_not_match_are_refused_with_both_lists(digits, teachers, tmp_path):
    other = write_class_folder(tmp_path / "d", {"0": 8, "7": 8})
    _, _, by_name = teachers("transformers")
    with pytest.raises(UsageError, match=r"does not know 7: it has 2 class\(es\) \(1, 0\), the data has 2 \(0, 7\)"):
        tiny_trainer(tmp_path / "o", "--train_dir", other, *by_name)
    three = write_class_folder(tmp_path / "e", {"0": 8, "1": 8, "7": 8})
    _, _, by_number = teachers("timm")
    with pytest.raises(UsageError, match=r"2 classes without names, the data has 3 \(0, 1, 7\)"):
        tiny_trainer(tmp_path / "o", "--train_dir", three, *by_number)


def test_names_given_for_its_classes_reorder_them_and_wrong_ones_show_in_its_accuracy(digits, teachers, tmp_path):
    _, _, flags = teachers("timm")
    right, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    turned = [*flags[:-1], f"{flags[-1]},labels=[1,0]"]
    with pytest.raises(UsageError, match=r"accuracy on the 16 validation images is 0.0000, no better than.*by name"):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, *turned)
    named, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags[:-1], f"{flags[-1]},labels=[0,1]")
    assert torch.equal(named.train_dataset.teacher([0, 20]), right.train_dataset.teacher([0, 20]))


def test_a_teacher_that_knows_more_classes_is_asked_for_the_datas(digits, teachers, tmp_path, capsys):
    more = write_class_folder(tmp_path / "d", {"0": 16, "1": 16, "7": 16})
    _model, _, flags = TEACHERS["transformers"](more, tmp_path)
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    assert "by name, 1 others are left out" in capsys.readouterr().out
    assert trainer.train_dataset.teacher([0]).shape == (1, 2)
    assert trainer.train_dataset.teacher.source.read(range(32))[0].shape == (32, 3)


def test_pickled_code_is_not_run(digits, tmp_path):
    class Opens:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 3)}, "args": Opens()}, tmp_path / "evil.pth")
    flags = ["--teacher", "timm:test_resnet", "--teacher_weights", tmp_path / "evil.pth"]
    with pytest.raises(UsageError, match="nothing in it was executed"):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_are_refused(digits, tmp_path):
    save_file({"fc.weight": torch.zeros(2, 512), "conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "w.safetensors")
    flags = ["--teacher", "torchvision:resnet18", "--teacher_weights", tmp_path / "w.safetensors"]
    with pytest.raises(UsageError, match=r"torchvision:resnet18 cannot be used: Error.* Missing key"):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)


def test_a_teacher_of_another_size_is_built_at_it(digits, tmp_path, monkeypatch):
    import timm

    model = timm.create_model("test_vit", img_size=48, num_classes=2).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    flags = ["--train_dir", digits, "--teacher", "timm:test_vit", "--teacher_weights", tmp_path / "w.safetensors"]
    with pytest.raises(UsageError, match=r"timm:test_vit cannot be used: Error.* size mismatch for pos_embed"):
        tiny_trainer(tmp_path / "o", *flags)
    monkeypatch.setattr(distillation, "check_accuracy", lambda *_: "a random teacher")
    trainer, _ = tiny_trainer(tmp_path / "o", *flags, "--teacher_config", "image_size=48")
    assert trainer.train_dataset.teacher([0]).isfinite().all()


def test_images_that_a_teacher_cannot_take_are_said_to_be_so(digits, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = ViTConfig(image_size=16, patch_size=8, id2label={0: "0", 1: "1"}, **small)
    ViTForImageClassification(config).save_pretrained(tmp_path / "t")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "t")
    with pytest.raises(UsageError, match=r"--teacher t cannot take images of \(3, 32, 32\): Input image size"):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, "--teacher", tmp_path / "t")


def test_a_teacher_near_chance_is_a_warning_or_an_error():
    labels = np.array([0, 1] * 8)
    examples = SimpleNamespace(targets=ClassIds(labels))
    teacher = SimpleNamespace(name="t", notes=["n"])

    def judged(right: int) -> str:
        rows = np.eye(2, dtype=np.float32)[np.where(np.arange(16) < right, labels, 1 - labels)]
        return distillation.check_accuracy(teacher, TeacherLogits(rows, [0, 1]), examples, "validation")  # type: ignore[arg-type]

    assert not judged(16).startswith("WARNING") and judged(10).startswith("WARNING")
    with pytest.raises(UsageError, match=r"0\.5000, no better"):
        judged(8)
