"""The plots: the right kind of picture for the data, any label text, any number of classes."""

import numpy as np
import pytest
from PIL import Image

from modeling_vit_custom.reporting.confusion import plot_confusion_matrix, plot_confusions
from modeling_vit_custom.reporting.plots import plot_training_history


def size_of(path):
    with Image.open(path) as image:
        image.verify()
        return image.size


@pytest.mark.parametrize("classes", [1, 2, 10, 26, 100, 130])
def test_confusion_matrix_at_any_number_of_classes(tmp_path, classes):
    matrix = np.eye(classes, dtype=int) * 9 + 1
    path = plot_confusion_matrix(matrix, [f"class {i}" for i in range(classes)], tmp_path / "new" / "matrix.png")
    width, height = size_of(path)
    # A readable name takes 15 pixels; above 100 classes, no names are drawn.
    assert min(width, height) >= 15 * min(classes, 100)


def test_of_many_classes_the_most_frequent_mistakes_are_drawn(tmp_path):
    names = [f"$class_{i}" for i in range(10_000)]
    right = [[1, i, i] for i in range(2000)]
    for pairs in ([*right, [7, 3, 9_999], [1, 2, 5]], right):
        width, height = size_of(plot_confusions(np.array(pairs), names, tmp_path / "m.png"))
        assert width < 3000 and height < 1500
    matrix = np.eye(1001, dtype=int)
    assert size_of(plot_confusion_matrix(matrix, names[:1001], tmp_path / "m.png"))[1] < 1000


def test_a_class_without_images_and_odd_names(tmp_path):
    labels = ["$\\frac{1$", "\x1b[2J a name far too long for an axis of a picture", ""]
    size_of(plot_confusion_matrix([[3, 0, 0], [1, 2, 0], [0, 0, 0]], labels, tmp_path / "m.png"))


def test_darker_means_more(tmp_path):
    path = plot_confusion_matrix([[9, 1], [1, 9]], ["a", "b"], tmp_path / "m.png")
    colours, counts = np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    white, *cells = colours[np.argsort(-counts)[:3]].astype(int)
    assert white.tolist() == [255, 255, 255]
    assert sorted(sum(cell) > 400 for cell in cells) == [False, True]  # a dark diagonal, light mistakes


def test_a_mismatch_of_matrix_and_labels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2, 2\) with 3 labels"):
        plot_confusion_matrix(np.eye(2), ["a", "b", "c"], tmp_path / "m.png")


def history(*, metric="accuracy", learning_rate=True):
    for epoch in range(1, 4):
        rate = {"learning_rate": 1e-3 / epoch} if learning_rate else {}
        yield {"epoch": epoch, "step": epoch * 10, "loss": 2 / epoch, "grad_norm": 1.0, **rate}
        yield {
            "epoch": epoch,
            "step": epoch * 10,
            "eval_loss": 2.1 / epoch,
            f"eval_{metric}": 1 - 0.5 / epoch,
        }
    yield {"epoch": 3, "step": 30, "train_runtime": 1.0, "train_loss": 1.0}


def test_training_history_has_one_panel_for_each_kind_of_data(tmp_path):
    three = size_of(plot_training_history(list(history()), tmp_path / "3.png"))
    two = size_of(plot_training_history(list(history(learning_rate=False)), tmp_path / "2.png"))
    one = size_of(plot_training_history([{"loss": 1.0, "step": step} for step in (1, 2)], tmp_path / "1.png"))
    assert one[0] < two[0] < three[0]


def test_training_history_of_a_regression(tmp_path):
    size_of(plot_training_history(list(history(metric="mae")), tmp_path / "m.png"))


@pytest.mark.parametrize("log", [[], [{"epoch": 1, "train_runtime": 3.0}], [{"loss": 1.0, "step": 1}]])
def test_a_history_without_data_is_refused(tmp_path, log):
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_training_history(log, tmp_path / "m.png")
