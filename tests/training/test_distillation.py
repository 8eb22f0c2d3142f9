"""A teacher's logits reach the loss as in the papers, whichever library it is from, and are computed once."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from equal_runs import EVERYTHING, launch, run
from real_teachers import Teachers, pictures, write_noughts_and_ones
from safetensors.torch import load_file, save_file
from tiny_training import TINY, tiny_train, tiny_trainer

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.common.model_files import WEIGHTS
from modeling_vit_custom.data.mnist5k import write_mnist5k
from modeling_vit_custom.data.sealed_rows import find_or_build
from modeling_vit_custom.training.inputs.mixing import Mix
from modeling_vit_custom.training.objectives import distillation
from modeling_vit_custom.training.objectives.distillation import DistillationLoss, TeacherLogits
from modeling_vit_custom.training.objectives.loss import ClassificationLoss

WITH_TOKEN = f"{TINY},pooling=cls_register,use_cls_token=true,num_register_tokens=1"
TOKEN = ["--distillation", "hard", "--config_overrides", WITH_TOKEN]
EXACT = WITH_TOKEN.replace("hidden_dropout_prob=0.1", "hidden_dropout_prob=0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_noughts_and_ones(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def teachers(digits, tmp_path_factory):
    return Teachers(digits / "train", tmp_path_factory)


# ---------- the loss


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_soft_is_the_formula_of_hinton_et_al():
    """The loss is (1 - a) CE(labels, student) + a T² KL(teacher_T ‖ student_T), computed by numpy in float64."""
    student, teacher, labels = logits(1, 5, 4), logits(2, 5, 4), torch.tensor([0, 3, 1, 1, 2])
    loss = DistillationLoss(ClassificationLoss(), "soft", alpha=0.3, temperature=2.5)
    actual = loss({"logits": student}, labels, 8, teacher=loss.targets(teacher))
    s, t = student.double().numpy(), teacher.double().numpy()
    cross_entropy = -log_softmax(s)[np.arange(5), labels]
    p, log_q = log_softmax(t / 2.5), log_softmax(s / 2.5)
    expected = 0.7 * cross_entropy + 0.3 * 2.5**2 * (np.exp(p) * (p - log_q)).sum(1)
    assert actual.item() == pytest.approx(expected.sum() / 8, rel=1e-6)


def test_hard_by_the_token_is_the_formula_of_touvron_et_al():
    """(1 - a) CE(labels, class token) + a CE(teacher's decisions, distillation token); the heads' mean is unused."""
    cls, dist, teacher, labels = logits(1, 5, 4), logits(2, 5, 4), logits(3, 5, 4), torch.tensor([0, 3, 1, 1, 2])
    loss = DistillationLoss(ClassificationLoss(), "hard", alpha=0.5, by_token=True)
    outputs = {"logits": torch.full((5, 4), torch.nan), "cls_logits": cls, "distillation_logits": dist}
    decided = teacher.argmax(1)
    by_labels = -log_softmax(cls.double().numpy())[np.arange(5), labels]
    by_teacher = -log_softmax(dist.double().numpy())[np.arange(5), decided]
    actual = loss(outputs, labels, teacher=loss.targets(teacher))
    assert actual.item() == pytest.approx((by_labels + by_teacher).mean() / 2, rel=1e-6)
    one_head = DistillationLoss(ClassificationLoss(), "hard", alpha=0.5)
    actual = one_head({"logits": cls}, labels, teacher=one_head.targets(teacher))
    by_teacher = -log_softmax(cls.double().numpy())[np.arange(5), decided]
    assert actual.item() == pytest.approx((by_labels + by_teacher).mean() / 2, rel=1e-6)


def test_at_high_temperature_it_is_the_distance_of_centred_logits():
    """Hinton et al., section 2.1: T² KL → Σ ((z_s - mean) - (z_t - mean))² / 2L."""
    student, teacher = logits(1, 6, 5), logits(2, 6, 5)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = centred.square().sum(1) / (2 * 5)
    errors = []
    for temperature in (4.0, 16.0, 64.0):
        loss = DistillationLoss(ClassificationLoss(), "soft", 1.0, temperature)
        errors.append((loss.of_teacher(student, loss.targets(teacher)) - expected).abs().max().item())
    assert errors[2] < 0.1 * expected.max() and errors[0] > 2 * errors[1] > 4 * errors[2]


def test_class_weights_count_for_both_parts_and_smoothing_for_the_labels_alone():
    student, teacher, labels = logits(1, 2, 3), logits(2, 2, 3), torch.tensor([0, 2])
    weights = torch.tensor([4.0, 1.0, 0.5])
    loss = DistillationLoss(ClassificationLoss("ce", 0.2, weights), "soft", 0.4, 2.0)
    targets = loss.targets(teacher)
    smoothed = torch.nn.functional.cross_entropy(student, labels, label_smoothing=0.2, reduction="none")
    expected = (weights[labels] * (0.6 * smoothed + 0.4 * loss.of_teacher(student, targets))).sum() / 2
    torch.testing.assert_close(loss({"logits": student}, labels, teacher=targets), expected)


@pytest.mark.parametrize("settings", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_a_teacher_that_says_the_labels_is_mixed_as_they_are(settings):
    mix, labels = Mix(*settings, num_labels=3), torch.tensor([0, 1, 2, 2, 0, 1, 1])
    images, draws = torch.randn(7, 3, 8, 12), torch.rand(7, 24)
    _, mixed = mix(images, labels, draws)
    loss = DistillationLoss(ClassificationLoss(), "hard")
    targets = mix.mix_targets(loss.targets(5.0 * torch.nn.functional.one_hot(labels, 3)), draws, (8, 12))
    assert torch.equal(targets, mixed) and not torch.equal(mixed, mixed.round())


def test_in_training_the_teacher_is_mixed_as_the_labels_at_every_size(digits, teachers, tmp_path):
    """The teacher always decides for the label, so its decisions must be mixed in a batch exactly as the labels are."""
    flags = ["--distillation", "hard", "--mixup", 0.8, "--cutmix", 1, "--progressive_resizing", 0.5]
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *teachers("timm")[2], *flags)
    trainer.state.max_steps = 10
    for step in (0, 10):
        trainer.state.global_step = step
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        assert batch["pixel_values"].shape[-1] == (4 if step == 0 else 8)
        assert torch.equal(batch["teacher"], batch["labels"]) and ((batch["labels"] % 1) > 0).any()


# ---------- the model's two heads


def test_the_mean_of_the_two_heads_is_what_serves(random_model):
    config = ViTCustomConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        pooling="cls_register", num_register_tokens=1, id2label={0: "a", 1: "b", 2: "c"},
    )  # fmt: skip
    model = random_model(config, ViTCustomForImageClassification).double().eval()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    plain, asked = model(images), model(images, output_token_logits=True)
    assert list(plain.keys()) == ["logits", "pooler_output"] and torch.equal(plain.logits, asked.logits)
    torch.testing.assert_close((asked.cls_logits + asked.distillation_logits) / 2, plain.logits)
    tokens = model.vit(images).last_hidden_state
    for token, half, seen in ((0, slice(0, 16), asked.cls_logits), (1, slice(16, 32), asked.distillation_logits)):
        weight = model.classifier.weight[:, half]
        torch.testing.assert_close(seen, 2 * tokens[:, token] @ weight.T + model.classifier.bias)


def test_other_models_have_no_such_heads(tiny_config, pixel_values):
    model = ViTCustomForImageClassification(tiny_config)
    with pytest.raises(ValueError, match='pooling="cls_register"'):
        model(pixel_values, output_token_logits=True)


# ---------- the cache


def test_found_built_and_fresh_logits_give_the_same_training(digits, teachers, tmp_path, capsys):
    flags = ["--train_dir", digits, *teachers("timm")[2], *EVERYTHING]
    cached = ["--image_cache", tmp_path / "cache"]
    results, ways = [], {"computed for this run alone": ["--image_cache", "off"], "kept in": cached, "found in": cached}
    for said, cache in ways.items():
        results.append(run(tmp_path / said.split()[0], *flags, *cache))
        assert f"the teacher's logits are {said}" in capsys.readouterr().out
    for losses, weights in results[1:]:
        assert torch.equal(losses, results[0][0]) and torch.equal(weights, results[0][1])
    assert {path.suffix for path in (tmp_path / "cache").glob("teacher-*")} <= {"", ".lock"}


def test_an_interrupted_computation_resumes_after_its_last_batch(digits, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "BATCH", 10)
    flags = ["--train_dir", digits, *teachers("timm")[2]]
    tiny_trainer(tmp_path / "o", *flags, "--image_cache", tmp_path / "whole")
    forwards, whole = [], distillation._of_all_sizes

    def killed(teacher, images, device):
        forwards.append(len(images))
        if len(forwards) == 5:  # the 16 validation images are two batches
            raise KeyboardInterrupt
        return whole(teacher, images, device)

    monkeypatch.setattr(distillation, "_of_all_sizes", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "o", *flags, "--image_cache", tmp_path / "cut")
    (partial,) = (tmp_path / "cut").glob("teacher-*.building")
    with open(partial / "logits.npy", "r+b") as file:
        file.seek(128)
        file.write(b"torn")  # as after a power loss: the row is marked, but not on disk
    tiny_trainer(tmp_path / "o", *flags, "--image_cache", tmp_path / "cut")
    assert forwards == [10, 6, 10, 10, 10, 10, 10, 2]
    for path in (tmp_path / "whole").glob("teacher-*/*"):
        assert (tmp_path / "cut" / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_other_weights_other_preprocessing_and_other_images_are_computed_again(digits, teachers, tmp_path):
    _, _, flags = teachers("timm")
    more = shutil.copytree(digits, tmp_path / "more")
    state = torch.load(flags[3], weights_only=True)["state_dict"]
    torch.save({name: t + 1e-3 if name == "fc.bias" else t for name, t in state.items()}, tmp_path / "w.pth")
    weights = [*flags[:3], tmp_path / "w.pth", *flags[4:]]
    prepared = [*flags[:-1], flags[-1].replace("crop_pct=0.875", "crop_pct=1")]
    for data, given in ((digits, flags), (digits, weights), (digits, prepared), (more, flags), (digits, flags)):
        tiny_trainer(tmp_path / "o", "--train_dir", data, *given, "--image_cache", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("teacher-*/seal"))) == 8


def kept_logits(folder: Path, columns: list[int], count: int = 100_000) -> TeacherLogits:
    """Write the logits of a teacher of 3 classes: 0, 1, 2, …"""
    values = np.arange(3 * count, dtype=np.float32).reshape(-1, 3)

    def build(rows):
        rows.write(range(count), values)

    return TeacherLogits(find_or_build(folder, "logits.npy", {}, values.shape, "<f4", build)[0], columns)


def test_a_loading_process_is_handed_the_name_of_the_file(tmp_path):
    rows = kept_logits(tmp_path / "rows", [2, 0])
    assert rows([1, 99_999]).tolist() == [[5, 3], [299_999, 299_997]]
    sent = pickle.dumps(rows)
    assert len(sent) < 1000 and torch.equal(pickle.loads(sent)([7]), rows([7]))


@pytest.mark.parametrize("damage", ["cut", "not a number"])
def test_a_damaged_file_is_computed_again(digits, teachers, tmp_path, caplog, damage):
    flags = ["--train_dir", digits, *teachers("timm")[2], "--image_cache", tmp_path / "cache"]
    trainer, _ = tiny_trainer(tmp_path / "o", *flags)
    logits = trainer.train_dataset.teacher
    expected, file = logits(range(32)), logits.source.folder / "logits.npy"
    content = file.read_bytes()
    nan = np.float32(np.nan).tobytes()
    with open(file, "r+b") as opened:  # the file that the training has open
        opened.write({"cut": content[:-4], "not a number": content[:-4] + nan}[damage])
        opened.truncate(len(content) - 4 * (damage == "cut"))
    assert torch.equal(logits(range(31)), expected[:31])
    with pytest.raises(DataError, match=r"teacher-.* does not hold what .* said of image 31 .*Remove it and run"):
        logits([3, 31])
    again, _ = tiny_trainer(tmp_path / "o", *flags)
    assert torch.equal(again.train_dataset.teacher(range(32)), expected) and "is damaged" in caplog.text


def test_logits_that_were_written_but_are_not_finite_teach_nothing(tmp_path):
    def build(rows):
        rows.write(range(4), np.array([[0, 1], [np.nan, 1], [1, np.inf], [1, 2]], np.float32))

    logits = TeacherLogits(find_or_build(tmp_path / "rows", "logits.npy", {}, (4, 2), "<f4", build)[0], [0, 1])
    assert logits([0, 3]).tolist() == [[0, 1], [1, 2]]
    for row in (1, 2):
        with pytest.raises(DataError, match=f"what the teacher said of image {row}"):
            logits([0, row])


def test_logits_that_were_removed_are_still_read(tmp_path):
    rows = kept_logits(tmp_path / "rows", [0], count=10)
    by_name = pickle.dumps(rows)
    shutil.rmtree(tmp_path / "rows")
    assert rows([9]).item() == 27
    with pytest.raises(DataError, match="rows does not hold what the teacher said of image 9"):
        pickle.loads(by_name)([9])
    kept_logits(tmp_path / "rows", [0], count=12)  # by another run, of other images
    with pytest.raises(DataError, match="rows does not hold"):
        pickle.loads(by_name)([9])


def test_a_full_disk_keeps_no_logits(digits, teachers, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "cache"))
    flags = ["--train_dir", digits, *teachers("timm")[2]]
    trainer, _ = tiny_trainer(tmp_path / "o", *flags, "--image_cache", "auto")
    assert "the teacher's logits are not kept: [Errno 28] No space left on device" in capsys.readouterr().out
    assert trainer.train_dataset.teacher(range(32)).isfinite().all()
    assert not [path for path in (tmp_path / "cache" / "images").iterdir() if path.is_dir()], "nothing is left behind"


# ---------- training


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_without_a_share_of_the_loss_it_changes_nothing(digits, teachers, tmp_path, kind):
    flags = ["--train_dir", digits, *EVERYTHING]
    plain = run(tmp_path / "1", *flags)
    taught = [*teachers("timm")[2], "--distillation", kind]
    nothing = run(tmp_path / "2", *flags, *taught, "--distillation_alpha", 0)
    assert torch.equal(plain[0], nothing[0]) and torch.equal(plain[1], nothing[1])
    something = run(tmp_path / "3", *flags, *taught, "--distillation_alpha", 0.1)
    assert not torch.equal(plain[1], something[1])


@pytest.mark.parametrize("kind", [["--distillation", "soft"], [*TOKEN[:-1], EXACT]], ids=["soft", "by token"])
def test_accumulation_equals_one_large_batch(digits, teachers, tmp_path, kind):
    flags = ["--train_dir", digits, *EVERYTHING, *teachers("timm")[2], *kind]
    whole = run(tmp_path / "1", *flags, "--per_device_train_batch_size", 8)
    parts = run(tmp_path / "2", *flags, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2)
    torch.testing.assert_close(parts[0], whole[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(parts[1], whole[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "kind", [[], [*TOKEN, "--ema_decay", "0.5", "--progressive_resizing", "0.5"]], ids=["soft", "by token, averaged"]
)
def test_resuming_gives_the_same_model_bit_for_bit(digits, teachers, tmp_path, kind):
    flags = ["--train_dir", digits, *EVERYTHING, *teachers("timm")[2], *kind, "--num_train_epochs", 3]
    flags += ["--save_total_limit", 10]
    tiny_train(tmp_path / "whole", *flags)
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(tmp_path / "whole" / "training_args.json", cut)
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", cut / "checkpoint-4")
    assert tiny_train(cut, *flags)["train"]["resumed"]
    last = [load_file(path / "checkpoint-12" / WEIGHTS) for path in (tmp_path / "whole", cut)]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())
    other = write_other_weights(tmp_path / "w.pth", flags)
    prepared = [str(flag).replace("crop_pct=0.875", "crop_pct=1") for flag in flags]
    for others in (other, prepared):
        with pytest.raises(UsageError, match=r"other settings \(teacher\)"):
            tiny_train(cut, *others)


def write_other_weights(path: Path, flags: list) -> list:
    at = flags.index("--teacher_weights") + 1
    state = torch.load(flags[at], weights_only=True)["state_dict"]
    torch.save({name: tensor * 2 if name == "fc.bias" else tensor for name, tensor in state.items()}, path)
    return [*flags[:at], path, *flags[at + 1 :]]


def test_both_heads_learn_by_the_token_and_what_is_saved_is_plain(digits, teachers, tmp_path):
    flags = ["--train_dir", digits, *teachers("timm")[2], *TOKEN, "--learning_rate", 1e-2]
    trainer, _ = tiny_trainer(tmp_path / "s", *flags)
    before = trainer.model.classifier.weight.detach().clone()
    metrics = tiny_train(tmp_path / "o", *flags, "--num_train_epochs", 4)
    after = load_file(tmp_path / "o" / WEIGHTS)
    assert all((half != 0).all() for half in (after["classifier.weight"] - before).chunk(2, dim=1))
    assert metrics["validation"]["accuracy"] > 0.8
    assert trainer.model.state_dict().keys() == after.keys()
    with pytest.raises(UsageError, match="--distillation_alpha 1 would leave one of the model's two heads untrained"):
        tiny_trainer(tmp_path / "s", *flags, "--distillation_alpha", 1)


def test_adapters_learn_from_a_teacher(digits, teachers, tmp_path):
    flags = ["--train_dir", digits, "--num_train_epochs", 2]
    tiny_train(tmp_path / "base", *flags)
    model = ["--model_name_or_path", str(tmp_path / "base"), "--method", "lora", "--lora_rank", "2"]
    tiny_train(tmp_path / "o", *flags, *teachers("timm")[2], "--ema_decay", 0.5, model=model)
    base, tuned = load_file(tmp_path / "base" / WEIGHTS), load_file(tmp_path / "o" / WEIGHTS)
    assert base.keys() == tuned.keys()
    assert not torch.equal(base["vit.layers.0.mlp.fc1.weight"], tuned["vit.layers.0.mlp.fc1.weight"])


@pytest.mark.slow
def test_two_processes_equal_one(digits, teachers, tmp_path):
    flags = ["--train_dir", digits, *EVERYTHING, *teachers("timm")[2], *TOKEN, "--num_train_epochs", 2]
    flags += ["--logging_steps", 1, "--image_cache", tmp_path / "cache", "--config_overrides", EXACT]
    two = launch(tmp_path / "two", 2, *flags, "--per_device_train_batch_size", 4)
    one = launch(tmp_path / "one", 1, *flags, "--per_device_train_batch_size", 8)
    losses = [torch.tensor([entry["loss"] for entry in log if "loss" in entry]) for log in (one, two)]
    assert len(losses[0]) == 8
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)


# ---------- does it help?

CNN = "image_size=32,image_mean=[0.5,0.5,0.5],image_std=[0.5,0.5,0.5],crop_pct=1,interpolation=bilinear"


def few_digits(root: Path) -> Path:
    """Split MNIST 5k: of each digit 40 train the student, 20 validate, 340 train the teacher; test stays."""
    whole = write_mnist5k(root / "whole")
    for digit in map(str, range(10)):
        files = sorted((whole / "train" / digit).iterdir())
        for split, part in {"train": files[:40], "validation": files[40:60], "teacher": files[60:]}.items():
            folder = root / ("teacher" if split == "teacher" else f"student/{split}") / digit
            folder.mkdir(parents=True)
            for file in part:
                shutil.copy(file, folder)
    shutil.copytree(whole / "test", root / "student" / "test")
    return root


def fitted_cnn(root: Path, path: Path, epochs: int = 3) -> None:
    """Train timm's smallest ResNet on the 3,400 digits of the teacher, at 32 x 32 pixels; save it."""
    import timm

    model, (images, labels, _) = timm.create_model("test_resnet", num_classes=10), pictures(root)
    prepare = timm.data.create_transform(
        input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, interpolation="bilinear"
    )
    batch, steps = torch.stack([prepare(image) for image in images]), epochs * (len(labels) // 64)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps + 1)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64)[: len(labels) // 64]:
            loss = torch.nn.functional.cross_entropy(model(batch[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    save_file(model.state_dict(), path)


@pytest.mark.slow
def test_a_student_of_few_digits_learns_more_from_a_good_teacher(tmp_path):
    """The same small ViT, seed and steps on 400 labelled MNIST digits, without and with a CNN's logits."""
    root = few_digits(tmp_path)
    fitted_cnn(root / "teacher", tmp_path / "cnn.safetensors")
    model = ["--variant", "nano/4", "--image_size", "28"]
    flags = ["--train_dir", root / "student", "--augmentation", "none", "--per_device_train_batch_size", 32]
    flags += ["--num_train_epochs", 20, "--learning_rate", 3e-3, "--eval_strategy", "no", "--save_strategy", "no"]
    flags += ["--load_best_model_at_end", "false"]
    teacher = ["--teacher", "timm:test_resnet", "--teacher_weights", tmp_path / "cnn.safetensors"]
    teacher += ["--teacher_config", CNN, "--distillation_alpha", 0.9, "--distillation_temperature", 4]
    alone = tiny_train(tmp_path / "alone", *flags, model=model)["test"]["accuracy"]
    taught = tiny_train(tmp_path / "taught", *flags, *teacher, model=model)["test"]["accuracy"]
    assert taught > alone + 0.02, (alone, taught)
