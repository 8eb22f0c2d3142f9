"""Training from other libraries' checkpoints: converted on the way, with the same rules for heads, labels and sizes."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from equal_runs import launch
from foreign_checkpoints import save_encoder, save_npz, save_vit
from fresh_process import run_without_package
from real_digits import write_class_folder
from safetensors.torch import load_file, save_file
from saved_models import save_resnet
from tiny_training import command, tiny_train, tiny_trainer
from transformers import AutoModelForImageClassification, Dinov2Model, ViTForImageClassification

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification, ViTCustomImageProcessor
from modeling_vit_custom.commands.train import main
from modeling_vit_custom.common.claims import weights_digest
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.position_vit_custom import sincos_table


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write 24 training and 6 validation images of two digits."""
    root = tmp_path_factory.mktemp("digits")
    for split, (count, first) in {"train": (12, 0), "validation": (3, 20)}.items():
        write_class_folder(root / split, {"0": count, "1": count}, first)
    return root


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """Save transformers' own ViT with the digits' labels in another order."""
    return save_vit(tmp_path_factory.mktemp("vit") / "vit", ["1", "0"])


def starting_from(source: object, *flags: object) -> list[str]:
    return ["--model_name_or_path", str(source), *map(str, flags)]


def test_a_checkpoint_that_is_not_there_is_no_matter_of_the_network(digits, tmp_path):
    with pytest.raises(UsageError, match="out/typo: no such folder") as refused:
        tiny_train(tmp_path / "o", "--train_dir", digits, model=starting_from("out/typo"))
    assert "internet" not in str(refused.value)


SERVE = """
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
print(classify(sys.argv[2], top_k=2))
"""


def test_a_folder_of_transformers_is_trained_served_and_resumed(vit, digits, tmp_path, capsys):
    out = tmp_path / "out"
    flags = command(out, "--train_dir", digits, "--num_train_epochs", 2, model=starting_from(vit))
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "converted from vit, family vit" in printed and "its ids are kept" in printed
    report = json.loads((out / "conversion.json").read_text())
    assert report["source"] == "vit" and all(note in printed for note in report["notes"])
    run = json.loads((out / "training_args.json").read_text())
    assert run["model"]["model_name_or_path"] == "vit"
    for file in out.glob("*.json"):
        assert str(vit.parent) not in file.read_text() and str(out) not in file.read_text()
    served = eval(run_without_package(SERVE, tmp_path / "fresh", out, next(digits.rglob("*.png"))))
    assert {each["label"] for each in served} == {"0", "1"}

    whole = load_file(out / "checkpoint-6" / "model.safetensors")
    shutil.rmtree(out / "checkpoint-6")  # as if it had been killed in the second epoch
    (out / "model.safetensors").unlink()
    assert main(flags) == 0
    assert json.loads((out / "metrics.json").read_text())["train"]["resumed"]
    for name, tensor in load_file(out / "checkpoint-6" / "model.safetensors").items():
        assert torch.equal(tensor, whole[name]), name


def test_the_same_labels_keep_the_head_and_every_number(vit, digits, tmp_path):
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, model=starting_from(vit))
    assert splits.id2label == {0: "1", 1: "0"}
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = ViTForImageClassification.from_pretrained(vit)(images).logits
        torch.testing.assert_close(trainer.model.eval()(images).logits, expected, rtol=1e-4, atol=1e-5)


def test_other_labels_get_a_new_head_on_the_same_features(vit, tmp_path):
    data = write_class_folder(tmp_path / "d", {"0": 6, "1": 6, "8": 6})
    model = starting_from(vit, "--method", "full")
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", data, model=model)
    assert any("NEW HEAD" in note and "knows 2 label(s) (1, 0)" in note for note in splits.notes)
    assert trainer.model.classifier.out_features == 3
    stored = load_file(vit / "model.safetensors")
    assert torch.equal(trainer.model.vit.layernorm.weight, stored["vit.layernorm.weight"])


def test_linear_probe_of_an_encoder(digits, tmp_path):
    encoder = save_encoder(tmp_path / "dinov2")
    model = starting_from(encoder, "--method", "linear_probe")
    trainer, splits = tiny_trainer(tmp_path / "p", "--train_dir", digits, model=model)
    assert "NEW HEAD, trained from zero: the checkpoint is an encoder, without a head" in splits.notes
    with torch.no_grad():
        images = torch.randn(2, 3, 8, 8)
        expected = Dinov2Model.from_pretrained(encoder)(images).pooler_output
        torch.testing.assert_close(trainer.model.eval().vit(images).pooler_output, expected, rtol=1e-4, atol=1e-5)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    tiny_train(tmp_path / "o", "--train_dir", digits, "--num_train_epochs", 1, model=model)
    after = load_file(tmp_path / "o" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_live_model_at_another_size(digits, tmp_path, monkeypatch):
    """The source is timm:NAME, without the download of its weights."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    tiny_train(
        tmp_path / "o", "--train_dir", digits, "--num_train_epochs", 1,
        model=starting_from("timm:test_vit", "--image_size", 48, 64),
    )  # fmt: skip
    assert json.loads((tmp_path / "o" / "conversion.json").read_text())["source"] == "timm:test_vit"
    run = json.loads((tmp_path / "o" / "training_args.json").read_text())
    assert run["model"]["model_name_or_path"] == "timm:test_vit"
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "o")
    assert tuple(loaded.config.image_size) == (48, 64) and loaded.config.id2label == {0: "0", 1: "1"}


def test_what_a_file_does_not_say_is_asked_for_and_given(digits, tmp_path):
    path = save_npz(tmp_path / "sincos.npz", positions="", pool="mean")
    with pytest.raises(UsageError, match=r"sincos.npz cannot be converted: .* --source_config image_size=…"):
        tiny_trainer(tmp_path / "o", "--train_dir", digits, model=starting_from(path, "--image_size", 12))
    given = ("--source_config", "image_size=8,hidden_act=gelu", "--image_size", 12)
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, model=starting_from(path, *given))
    assert trainer.model.config.image_hw == (12, 12) and trainer.model.config.hidden_act == "gelu"
    assert any("sine-cosine ones are computed" in note for note in splits.notes)
    width = trainer.model.config.hidden_size
    assert torch.equal(trainer.model.vit.embeddings.position_embeddings[0], sincos_table((3, 3), width))


def test_half_precision_is_trained_in_single(vit, digits, tmp_path):
    half = {name: tensor.half() for name, tensor in load_file(vit / "model.safetensors").items()}
    save_file(half, tmp_path / "half.safetensors")
    model = starting_from(tmp_path / "half.safetensors", "--source_config", "num_attention_heads=2")
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, model=model)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert any("torch.float16" in note and "float32" in note for note in splits.notes)


def test_the_report_is_handed_down_and_does_not_outlive_its_weights(vit, digits, tmp_path):
    ours, out = tmp_path / "ours", tmp_path / "out"
    report = convert(str(vit), ours, {}, check=True)
    flags = ("--train_dir", digits, "--num_train_epochs", 1)
    tiny_train(out, *flags, model=starting_from(ours))
    handed = json.loads((out / "conversion.json").read_text())
    assert handed.pop("before_training") == report["weights"] == {"sha256": weights_digest(ours)}
    assert handed == {**json.loads(json.dumps(report)), "weights": {"sha256": weights_digest(out)}}
    tiny_train(out, *flags, "--resume_from_checkpoint", "false")
    assert not (out / "conversion.json").exists()


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def cut_off(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04" * 10)
    return path


REFUSED = {
    "a convolutional net": (lambda root: save_resnet(root / "resnet"), "are of no known family"),
    "an empty folder": (lambda root: empty(root / "empty"), "holds no config.json"),
    "a damaged file": (lambda root: cut_off(root / "cut.npz"), r"cut\.npz cannot be read"),
    "another library": (lambda root: "keras:vit", "does not begin with timm:, torchvision:"),
    "an unknown name": (lambda root: "timm:vit_gigantic_patch1", "vit_gigantic_patch1"),
    "no checkpoint at all": (
        lambda root: root / "nowhere",
        r"nowhere cannot be used: (.|\n)*a source that `vit-custom convert` reads",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_source_is_refused_before_the_data_is_read(tmp_path, what):
    make, message = REFUSED[what]
    with pytest.raises(UsageError, match=message):
        tiny_train(tmp_path / "o", "--train_dir", tmp_path / "no data", model=starting_from(make(tmp_path)))
    assert not list((tmp_path / "o").iterdir())


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        ("vit", "heads=2", "heads unknown; it takes .*num_attention_heads"),
        ("vit", "family=resnet", "--source_config family=… resnet is unknown"),
        ("vit", "num_attention_heads=3", "must divide hidden_size=16"),
        ("vit", "image_size", "'image_size' is not name=value"),
        ("ours", "image_size=8", "is ours, see --config_overrides"),
    ],
)
def test_source_config_is_checked(vit, tmp_path, source, given, message):
    path = vit
    if source == "ours":
        convert(str(vit), path := tmp_path / "ours", {})
    flags = ("--train_dir", tmp_path / "no data")
    with pytest.raises(UsageError, match=message):
        tiny_train(tmp_path / "o", *flags, model=starting_from(path, "--source_config", given))
    with pytest.raises(UsageError, match="--variant has none"):
        tiny_train(tmp_path / "o", *flags, "--source_config", given)


@pytest.mark.slow
def test_two_processes_convert_for_themselves_and_train_as_one(vit, digits, tmp_path):
    """As in test_equivalence, 24 images make whole batches."""
    logs = []
    for count in (1, 2):
        flags = ["--train_dir", digits, "--num_train_epochs", 1, "--logging_steps", 1, "--augmentation", "none"]
        flags += ["--per_device_train_batch_size", 8 // count]
        logs.append(launch(tmp_path / str(count), count, *flags, model=starting_from(vit)))
        assert (tmp_path / str(count) / "conversion.json").is_file()
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in logs]
    assert len(losses[0]) == 3
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)


def test_a_model_whose_processor_makes_other_sizes_is_resampled_for_it(digits, tmp_path):
    """The case is DINOv2's: positions for 518 pixels, images of 224."""
    config = ViTCustomConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=24, patch_size=4
    )
    ViTCustomForImageClassification(config).save_pretrained(tmp_path / "ours")
    crop = {"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}
    ViTCustomImageProcessor.for_model(config, **crop).save_pretrained(tmp_path / "ours")
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, model=starting_from(tmp_path / "ours"))
    assert trainer.model.config.image_hw == (8, 8)
    assert any("makes 8x8 pixels of each image, the weights are for 24x24" in note for note in splits.notes)
    whole = trainer.model.vit.embeddings.position_embeddings
    assert whole.shape == (1, 4, 16) and trainer.evaluate()["eval_loss"] > 0
