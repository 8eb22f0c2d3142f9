"""Saved image processors: complete folders that load and save again on machines without this package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from image_files import CHINA
from transformers import AutoImageProcessor

from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil

BACKENDS = {"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil}
CODE = [
    f"image_{part}_vit_custom.py"
    for part in (
        "arrays", "bands", "decoding", "download", "files", "limits", "processing_base", "processing", "resizing",
    )
]  # fmt: skip
SETTINGS = {"num_channels": 1, "size": (20, 30), "background_color": (10, 20, 30), "image_mean": 0.25}


def assert_complete(folder):
    """Check that the folder is flat and holds all the code, and that auto_map names classes of files in it."""
    assert sorted(os.listdir(folder)) == [*CODE, "preprocessor_config.json"]
    saved = json.loads((folder / "preprocessor_config.json").read_text())
    assert set(saved["auto_map"]["AutoImageProcessor"]) == set(BACKENDS)
    for reference in saved["auto_map"]["AutoImageProcessor"].values():
        module, class_name = reference.split(".")
        assert f"class {class_name}(" in (folder / f"{module}.py").read_text()
    assert not [key for key in saved if key.startswith("_")]
    assert saved["image_processor_type"] == "ViTCustomImageProcessor"
    return saved


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_equals_loaded(backend, tmp_path):
    processor = BACKENDS[backend](**SETTINGS, device="cpu", return_tensors="np")
    processor.save_pretrained(tmp_path / "one")
    saved = assert_complete(tmp_path / "one")
    assert not {"device", "return_tensors"} & set(saved)  # settings of a call, not of a model
    for other in BACKENDS.values():
        loaded = other.from_pretrained(tmp_path / "one")
        assert loaded.to_dict() == processor.to_dict()
        loaded.save_pretrained(tmp_path / "two")
        for name in os.listdir(tmp_path / "one"):
            assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    changed = other.from_pretrained(tmp_path / "one", size=64)
    assert dict(changed.size) == {"height": 64, "width": 64} and changed.num_channels == 1


FRESH_PROCESS = """
import sys
sys.modules["modeling_vit_custom"] = None  # importing the package fails
if {without_torchvision}:
    sys.modules["torchvision"] = None
import numpy as np
from transformers import AutoImageProcessor

source, photograph, out, *backend = sys.argv[1:]
chosen = dict(backend=backend[0]) if backend else dict()
processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True, **chosen)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
print(type(processor).__name__)
np.save(out + ".npy", processor(photograph, return_tensors="np")["pixel_values"])
processor.save_pretrained(out)
"""


def in_a_fresh_process(source, out, *backend, without_torchvision=False):
    """Load, process and save again in a process that cannot import the package; return the class name."""
    empty = out.parent / "empty"
    empty.mkdir(exist_ok=True)
    script = FRESH_PROCESS.format(without_torchvision=without_torchvision)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(out.parent / "modules")}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, "-c", script, str(source), str(CHINA), str(out), *backend],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[-1]


def test_saved_folders_load_and_save_where_the_package_is_not_importable(tmp_path):
    processors = {name: cls(**SETTINGS) for name, cls in BACKENDS.items()}
    expected = {name: processor(CHINA, return_tensors="np")["pixel_values"] for name, processor in processors.items()}
    processors["pil"].save_pretrained(tmp_path / "saved")

    name = in_a_fresh_process(tmp_path / "saved", tmp_path / "by_pil", "pil")
    assert name == "ViTCustomImageProcessorPil" and np.array_equal(np.load(tmp_path / "by_pil.npy"), expected["pil"])
    assert assert_complete(tmp_path / "by_pil") == assert_complete(tmp_path / "saved")

    name = in_a_fresh_process(tmp_path / "by_pil", tmp_path / "by_default")  # torchvision, if it is installed
    assert name == "ViTCustomImageProcessor"
    assert np.array_equal(np.load(tmp_path / "by_default.npy"), expected["torchvision"])
    assert assert_complete(tmp_path / "by_default") == assert_complete(tmp_path / "saved")

    name = in_a_fresh_process(tmp_path / "by_default", tmp_path / "again", without_torchvision=True)
    assert name == "ViTCustomImageProcessorPil" and np.array_equal(np.load(tmp_path / "again.npy"), expected["pil"])
    assert assert_complete(tmp_path / "again") == assert_complete(tmp_path / "saved")


def test_a_remote_processor_behaves_as_the_packages_own(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = ViTCustomImageProcessorPil(**SETTINGS)
    own.save_pretrained(tmp_path / "saved")
    remote = AutoImageProcessor.from_pretrained(tmp_path / "saved", trust_remote_code=True, backend="pil")
    assert remote.to_dict() == own.to_dict()
