"""One small model, its server and the answers it must give, for each file of tests."""

from pathlib import Path

import pytest
from saved_models import save_ours
from served import make_service, running
from serving_load import expected_predictions, good_images


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    return save_ours(tmp_path_factory.mktemp("served") / "m", num_channels=3)


@pytest.fixture(scope="module")
def service(model_dir):
    return make_service(model_dir)


@pytest.fixture(scope="module")
def url(service):
    with running(service) as (url, _):
        yield url


@pytest.fixture(scope="module")
def expected(model_dir):
    return expected_predictions(model_dir, good_images())
