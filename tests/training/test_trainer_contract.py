"""Trainer's accumulated batches equal one large batch, for every kind of labels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification

N = 16
SCORES = torch.rand(N, 5, generator=torch.Generator().manual_seed(1))
LABELS = {
    "hard": ({}, SCORES.argmax(1)),
    "soft": ({}, SCORES.softmax(1)),
    "multi-label": ({"problem_type": "multi_label_classification"}, (SCORES > 0.5).float()),
    "regression": ({"num_labels": 1}, SCORES[:, 0]),
    "regression, several": ({"problem_type": "regression"}, SCORES),
}


class RandomImages(Dataset):
    def __init__(self, labels: torch.Tensor):
        self.images = torch.randn(N, 3, 24, 32, generator=torch.Generator().manual_seed(2))
        self.labels = labels

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def train(model, labels, folder, batch_size: int, accumulation: int) -> list[float]:
    """Return the logged losses of four plain gradient steps, each over all images."""
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=4,
        logging_steps=1,
        optim="sgd",
        learning_rate=0.05,
        max_grad_norm=1e9,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=RandomImages(labels))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("fields", "labels"), LABELS.values(), ids=LABELS.keys())
def test_accumulation_equals_one_large_batch(tmp_path, random_model, fields, labels):
    start = random_model(ViTCustomConfig(**{**TINY, **fields}))
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    expected = train(whole, labels, tmp_path, batch_size=N, accumulation=1)
    assert train(parts, labels, tmp_path, batch_size=2, accumulation=N // 2) == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        assert expected[0] == pytest.approx(start(RandomImages(labels).images, labels=labels).loss.item(), rel=1e-4)
    assert len(expected) == 4 and not torch.equal(whole.classifier.weight, start.classifier.weight)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert parts.config.problem_type == fields.get("problem_type")


def test_label_smoothing_is_that_of_cross_entropy(tmp_path, random_model, tiny_config, pixel_values):
    model, labels = random_model(tiny_config), torch.tensor([0, 4, 2])
    arguments = TrainingArguments(tmp_path, label_smoothing_factor=0.1, use_cpu=True, report_to=[])
    loss = Trainer(model, arguments).compute_loss(model, {"pixel_values": pixel_values, "labels": labels})
    expected = F.cross_entropy(model(pixel_values).logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_trainer_knows_what_the_model_takes(tmp_path):
    """Trainer then divides by the labels of all accumulated batches, and passes labels on in evaluation."""
    model = ViTCustomForImageClassification(ViTCustomConfig(**TINY))
    trainer = Trainer(model, TrainingArguments(tmp_path, use_cpu=True, report_to=[]))
    assert trainer.model_accepts_loss_kwargs and trainer.label_names == ["labels"]


def test_the_table_of_hooks_names_each_that_is_overridden_and_by_whom():
    from modeling_vit_custom.training import trainer as room
    from modeling_vit_custom.training.trainer.trainer import ViTCustomTrainer

    rows = [line.strip("| ").split(" | ") for line in str(room.__doc__).splitlines() if line.startswith("| ")]
    named = {
        (hook, owner) for hooks, owners, _ in rows[1:] for hook in hooks.split(", ") for owner in owners.split(", ")
    }
    layers = [each for each in ViTCustomTrainer.__mro__ if each.__module__.startswith(room.__name__)]
    defined = {(name, layer.__name__) for layer in layers for name in vars(layer) if not name.startswith("__")}
    hooks = {(name, owner) for name, owner in defined if hasattr(Trainer, name)}  # older transformers lack some hooks
    assert hooks <= named <= defined
