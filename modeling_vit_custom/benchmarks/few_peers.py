"""scikit-learn baselines as a user would write them: a classifier fitted to the features of a frozen encoder.

`python -m modeling_vit_custom.commands.few_peers logistic_regression --train DIR --test DIR --checkpoint DIR`
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision.datasets import ImageFolder

BATCH, FOLDS, NEIGHBOURS = 32, 5, (1, 3, 5, 10, 20)


@torch.inference_mode()
def features(folder: str, model: Any, processor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Compute the pooled features [N, D] of the images of a folder; return them and the labels [N]."""
    dataset, pooled = ImageFolder(folder), []
    for begin in range(0, len(dataset), BATCH):
        images = [dataset[i][0] for i in range(begin, min(begin + BATCH, len(dataset)))]
        pooled.append(model(**processor(images, return_tensors="pt")).pooler_output)
    return torch.cat(pooled).numpy(), np.array(dataset.targets)


def logistic_regression(train: Any, labels: Any) -> tuple[Any, dict[str, Any]]:
    """Fit a logistic regression with scikit-learn's default regularisation to the features as they are."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(train, labels), {}


def knn(train: Any, labels: Any) -> tuple[Any, dict[str, Any]]:
    """Fit a k-nearest-neighbours classifier by cosine distance; k is chosen by cross-validation."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    rarest = int(np.bincount(labels).min())
    if rarest == 1:  # cross-validation is impossible
        return KNeighborsClassifier(1, metric="cosine").fit(train, labels), {"n_neighbors": 1}
    tried = {"n_neighbors": [k for k in NEIGHBOURS if k <= rarest]}
    search = GridSearchCV(KNeighborsClassifier(metric="cosine"), tried, cv=min(FOLDS, rarest)).fit(train, labels)
    return search, dict(search.best_params_)


CLASSIFIERS: dict[str, Callable[[Any, Any], tuple[Any, dict[str, Any]]]] = {
    "logistic_regression": logistic_regression,
    "knn": knn,
}
