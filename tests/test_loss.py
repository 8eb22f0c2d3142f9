"""The loss of each problem type; accumulated batches equal one large batch."""

import copy

import pytest
import torch
import torch.nn.functional as F

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.loss_vit_custom import image_classification_loss


def config(num_labels: int = 5, problem_type: str | None = None) -> ViTCustomConfig:
    return ViTCustomConfig(num_labels=num_labels, problem_type=problem_type)


HARD = torch.tensor([0, 4, 2, 2, 1, 3, 0, 0])
SOFT = torch.softmax(torch.randn(8, 5, generator=torch.Generator().manual_seed(1)), dim=-1)
MULTI = (SOFT > 0.2).float()
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
CASES = {
    "hard": (5, None, HARD),
    "hard, explicit": (5, "single_label_classification", HARD),
    "soft": (5, None, SOFT),
    "soft, explicit": (5, "single_label_classification", SOFT),
    "multi-label": (5, "multi_label_classification", MULTI),
    "regression": (1, "regression", SOFT[:, 0]),
    "regression, inferred": (1, None, SOFT[:, :1]),
    "regression, several": (5, "regression", SOFT),
}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(2))


def test_values_against_the_definitions(logits):
    probabilities = logits.softmax(-1)
    hard = image_classification_loss(HARD, logits, config())
    torch.testing.assert_close(hard, -probabilities[range(8), HARD].log().mean())
    soft = image_classification_loss(SOFT, logits, config())
    torch.testing.assert_close(soft, -(SOFT * probabilities.log()).sum(1).mean())
    multi = image_classification_loss(MULTI, logits, config(problem_type="multi_label_classification"))
    p = logits.sigmoid()
    torch.testing.assert_close(multi, -(MULTI * p.log() + (1 - MULTI) * (1 - p).log()).mean())
    squared = image_classification_loss(SOFT, logits, config(problem_type="regression"))
    torch.testing.assert_close(squared, ((logits - SOFT) ** 2).mean())


def test_one_hot_soft_labels_equal_hard_labels(logits):
    one_hot = F.one_hot(HARD, 5).float()
    torch.testing.assert_close(
        image_classification_loss(one_hot, logits, config()), image_classification_loss(HARD, logits, config())
    )


@pytest.mark.parametrize(("num_labels", "problem_type", "labels"), CASES.values(), ids=CASES.keys())
def test_the_config_is_never_written(num_labels, problem_type, labels, logits):
    settings = config(num_labels, problem_type)
    before = copy.deepcopy(settings.to_dict())
    image_classification_loss(labels, logits[:, :num_labels], settings)
    assert settings.to_dict() == before


@pytest.mark.parametrize(("num_labels", "problem_type", "labels"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("parts", [(4, 4), (2, 5, 1)])
def test_accumulated_batches_equal_one_large_batch(num_labels, problem_type, labels, parts, logits):
    """Trainer gives each part the number of label entries in all parts, and adds the losses."""
    settings, logits = config(num_labels, problem_type), logits[:, :num_labels]
    whole = image_classification_loss(labels, logits, settings)
    pieces = zip(labels.split(parts), logits.split(parts), strict=True)
    total = sum(image_classification_loss(part, out, settings, labels.numel()) for part, out in pieces)
    torch.testing.assert_close(total, whole)


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels"),
    [
        (5, None, SOFT[:, :3]),
        (5, None, MULTI.long()),
        (5, "multi_label_classification", HARD),
        (5, "regression", SOFT[:, 0]),
        (5, "regression", SOFT.T),
        (5, "regression", SOFT.flatten()),
        (5, "multi_label_classification", MULTI.T),
        (5, None, SOFT.T),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_both_shapes(num_labels, problem_type, labels, logits):
    with pytest.raises(ValueError, match=r"labels of shape .* do not fit logits \(8, 5\)"):
        image_classification_loss(labels, logits, config(num_labels, problem_type))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_class_ids_of_any_integer_type(dtype, logits):
    expected = image_classification_loss(HARD, logits, config())
    assert torch.equal(image_classification_loss(HARD.to(dtype), logits, config()), expected)
    assert torch.equal(image_classification_loss(HARD[:, None].to(dtype), logits, config()), expected)


def test_a_model_without_a_head_has_no_loss(logits):
    with pytest.raises(ValueError, match="num_labels=0: there is no head to train"):
        image_classification_loss(HARD, logits, config(num_labels=0))


@pytest.mark.parametrize(("shift", "shown"), [(1, r"\[5\]"), (-1, r"\[-1\]"), (-101, r"\[-101, -99, -98, -97\]")])
def test_ids_of_no_class_are_refused_by_name(shift, shown, logits):
    with pytest.raises(ValueError, match=rf"labels={shown}: .* class ids from 0 to 4 \(num_labels=5\)"):
        image_classification_loss(HARD + shift, logits, config())


def test_an_image_without_an_id_is_left_out(logits):
    ids = HARD.index_fill(0, torch.tensor([1]), -100)
    others = [0, *range(2, 8)]
    expected = image_classification_loss(HARD[others], logits[others], config())
    torch.testing.assert_close(image_classification_loss(ids, logits, config()), expected)


def test_compiled_it_is_one_graph_that_asserts_the_ids(logits):
    compiled = torch.compile(image_classification_loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(HARD, logits, config()), image_classification_loss(HARD, logits, config()))
    with pytest.raises(RuntimeError, match="class ids from 0 to 4"):
        compiled(HARD + 1, logits, config())
