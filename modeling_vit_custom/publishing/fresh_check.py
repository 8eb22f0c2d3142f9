"""Measurement of how a saved folder behaves on another machine. Run as a file in a fresh process, never imported.

Arguments: the folder, the JSON file for the report, the task (`Listing.for_process`, with "library": true if the folder
must load as a class of transformers, without remote code), then image files. A part that fails is reported as {"error":
text}; the other parts are still measured.
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
from transformers.image_utils import load_image
from transformers.utils import is_torchvision_available
from transformers.utils.logging import disable_progress_bar

LOCAL = {"local_files_only": True}
LIBRARIES = ("torch", "torchvision", "transformers", "pillow")
BACKENDS = ("torchvision", "pil")


def trust(task):
    """Return whether code of the folder is run."""
    return {"trust_remote_code": not task.get("library", False)}


def load_strictly(folder, task):
    """Load the model; return it with {"missing_keys": [...], ...}, the keys on which file and model differ."""
    options = {**LOCAL, **trust(task), "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, info = getattr(transformers, task["auto"]).from_pretrained(folder, **options)
    wanted = "transformers.models." if task.get("library") else "transformers_modules."
    if not type(model).__module__.startswith(wanted):
        raise RuntimeError(f"{type(model).__name__} came from {type(model).__module__}, not from {wanted}…")
    return model.eval(), {kind: sorted(map(str, keys)) for kind, keys in info.items() if kind.endswith("_keys")}


def import_classes(folder):
    """Import every class that the folder's configurations name; return the classes' names."""
    config, processor = (
        json.loads(Path(folder, name).read_text(encoding="utf-8"))
        for name in ("config.json", "preprocessor_config.json")
    )
    named = [*config["auto_map"].values(), *processor["auto_map"].values()]
    named += [entry["impl"] for entry in (config.get("custom_pipelines") or {}).values()]
    flat = [each for target in named for each in (target.values() if isinstance(target, dict) else [target])]
    return [get_class_from_dynamic_module(target, folder).__name__ for target in flat]


def classes_of_library(model, folder, task):
    """Return the names of transformers' classes that model and image processor are of."""
    processor = AutoImageProcessor.from_pretrained(folder, **LOCAL, **trust(task))
    named = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["architectures"]
    if named != [type(model).__name__] or not type(processor).__module__.startswith("transformers.models."):
        raise RuntimeError(f"{named} came as {type(model).__name__}, with a {type(processor).__module__}")
    return [type(model).__name__, type(processor).__name__]


def run_model(model, folder, task, backend, images):
    """Return the outputs [images, numbers], one image at a time, prepared by one backend of the processor."""
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend, **LOCAL, **trust(task))
    if getattr(processor, "backend", backend) != backend:
        raise RuntimeError(f"backend={backend!r} gave {processor.backend!r}")
    given = [load_image(image) if task.get("library") else image for image in images]
    with torch.no_grad():
        outputs = [model(**processor([image], return_tensors="pt")) for image in given]
    if outputs[0].get(task["output"]) is None:
        raise RuntimeError(f"{type(model).__name__} gives no {task['output']}: publish this model with its own code")
    return [output[task["output"]][0].tolist() for output in outputs]


def run_pipeline(folder, task, images):
    """Return the pipeline's whole answer to each image, called as a user would."""
    run = pipeline(task["name"], model=folder, dtype=torch.float32, device="cpu", **trust(task))
    return [run(image, **task["every"]) for image in images]


def main(folder, report, task, *images):
    disable_progress_bar()
    task = json.loads(task)
    measured: dict = {"outputs": {}}

    @contextmanager
    def part(table, name):
        try:
            yield
        except BaseException as error:  # the folder's code may even call sys.exit
            table[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())}

    model = None
    if not task.get("library"):
        with part(measured, "classes"):
            measured["classes"] = import_classes(folder)
    with part(measured, "load"):
        model, measured["load"] = load_strictly(folder, task)
    if task.get("library"):
        with part(measured, "classes"):
            measured["classes"] = classes_of_library(model, folder, task)
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
