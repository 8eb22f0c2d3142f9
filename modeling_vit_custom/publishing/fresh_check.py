"""What a saved folder does on a stranger's machine, measured. Run as a file in a fresh process, never imported.

Arguments: the folder, the JSON file that gets the report, the task (`Listing.for_process`),
then image files. A part that fails is reported as {"error": text} and keeps no other from being measured.
"""

import json
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from transformers import AutoImageProcessor, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import is_torchvision_available
from transformers.utils.logging import disable_progress_bar

LOCAL = {"trust_remote_code": True, "local_files_only": True}
LIBRARIES = ("torch", "torchvision", "transformers", "pillow")
BACKENDS = ("torchvision", "pil")


def load_strictly(folder, task):
    """(model, {"missing_keys": [...], ...}: what did not go one to one from the file into the model)"""
    options = {**LOCAL, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, info = getattr(transformers, task["auto"]).from_pretrained(folder, **options)
    if not type(model).__module__.startswith("transformers_modules."):
        raise RuntimeError(f"{type(model).__name__} came from {type(model).__module__}, not from the folder")
    return model.eval(), {kind: sorted(map(str, keys)) for kind, keys in info.items() if kind.endswith("_keys")}


def import_classes(folder):
    """Imports every class that the folder's configurations name; returns their names."""
    config, processor = (
        json.loads(Path(folder, name).read_text(encoding="utf-8"))
        for name in ("config.json", "preprocessor_config.json")
    )
    named = [*config["auto_map"].values(), *processor["auto_map"].values()]
    named += [entry["impl"] for entry in (config.get("custom_pipelines") or {}).values()]
    flat = [each for target in named for each in (target.values() if isinstance(target, dict) else [target])]
    return [get_class_from_dynamic_module(target, folder).__name__ for target in flat]


def run_model(model, folder, task, backend, images):
    """The output [images, numbers] to each image by itself, prepared by one backend of the processor."""
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **LOCAL)
    if processor.backend != backend:
        raise RuntimeError(f"backend={backend!r} gave {processor.backend!r}")
    with torch.no_grad():
        outputs = [model(**processor([image], return_tensors="pt")) for image in images]
    return [output[task["output"]][0].tolist() for output in outputs]


def run_pipeline(folder, task, images):
    """The whole answer to each image, by the plain call of a user."""
    run = pipeline(task["name"], model=folder, trust_remote_code=True, dtype=torch.float32, device="cpu")
    return [run(image, **task["every"]) for image in images]


def main(folder, report, task, *images):
    disable_progress_bar()
    task = json.loads(task)
    measured: dict = {"outputs": {}}

    @contextmanager
    def part(table, name):
        try:
            yield
        except BaseException as error:  # code of the folder may even call sys.exit
            table[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())}

    model = None
    with part(measured, "classes"):
        measured["classes"] = import_classes(folder)
    with part(measured, "load"):
        model, measured["load"] = load_strictly(folder, task)
    if images and model is not None:
        backends = [name for name in BACKENDS if name != "torchvision" or is_torchvision_available()]
        for backend in backends:
            with part(measured["outputs"], backend):
                measured["outputs"][backend] = run_model(model, folder, task, backend, images)
        with part(measured, "pipeline"):
            measured["pipeline"] = run_pipeline(folder, task, images)
    installed = [name for name in LIBRARIES if name != "torchvision" or is_torchvision_available()]
    measured["versions"] = {name: version(name) for name in installed}
    Path(report).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
