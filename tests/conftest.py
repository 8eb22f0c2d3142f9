"""Shared fixtures (a tiny configuration, a random model, a local Hub), and the rule that collects transformers' own
tests."""

import os
import shutil
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tiny import ARCHITECTURES, COMBINED, TINY
from transformers_suite import register_markers

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.common.cache_folders import COMPILERS, make_folders


def pytest_configure(config):
    register_markers(config)


def pytest_ignore_collect(collection_path, config):
    """Leave out test_transformers_*.py unless slow tests run: importing them downloads a source distribution."""
    if collection_path.name.startswith("test_transformers_") and "not slow" in config.option.markexpr:
        return True
    return None


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _image_cache(tmp_path_factory):
    """Keep the images of trainings and the files of compilers in temporary folders, not in the user's home."""
    os.environ["VIT_CUSTOM_CACHE"] = str(tmp_path_factory.mktemp("images"))
    run = tmp_path_factory.getbasetemp()  # the folder of the whole run: with xdist, each worker's folder lies in it
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    for variable, name in COMPILERS.items():  # torch has set these variables to its defaults by now
        os.environ[variable] = str(make_folders(run / name))


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def any_config(request) -> ViTCustomConfig:
    """Return the tiny configuration, once for each architecture."""
    return ViTCustomConfig(**{**TINY, **request.param})


@pytest.fixture(params=COMBINED.values(), ids=COMBINED.keys())
def combined_config(request) -> ViTCustomConfig:
    """Return the tiny configuration, once for each of the models that together take every branch."""
    return ViTCustomConfig(**{**TINY, **request.param})


@pytest.fixture
def tiny_config() -> ViTCustomConfig:
    """Return the tiny configuration."""
    return ViTCustomConfig(**TINY)


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Return three images of the tiny configuration's size."""
    return torch.randn(3, 3, 24, 32)


@pytest.fixture
def random_model():
    """Return a function that builds a model with random parameters, biases and norms too: no zero hides a mistake."""

    def build(config: ViTCustomConfig, cls=ViTCustomForImageClassification):
        model = cls(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    return build


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Return a published folder that passes every check; tests must not change it."""
    from published_models import publish_tiny

    return publish_tiny(tmp_path_factory.mktemp("published"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Run a Hub on loopback and point the real client at it; pauses between tries are short."""
    from hub_server import point_client_at, running_hub
    from huggingface_hub.utils import disable_progress_bars

    from modeling_vit_custom.publishing import upload

    disable_progress_bars()
    monkeypatch.setattr(upload, "PAUSES", (0.01, 0.02))
    with running_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def chromium():
    """Start a headless Chromium; skip without one, or fail if VIT_CUSTOM_REQUIRE_BROWSER is set."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None or find_spec("playwright") is None:
        reason = "needs the program chromium and the package playwright"
        assert not os.environ.get("VIT_CUSTOM_REQUIRE_BROWSER"), reason
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
