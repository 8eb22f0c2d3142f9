"""A saved model of ours as a folder of transformers or timm, to be published: no code of ours goes up with it.

Its records come along. They name the weights that they were measured with under "before_conversion", and those beside
them, which were compared with these, under "weights".
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..common.claims import BEFORE, RECORDS, STAMP, check_claims, read_record, write_stamped
from ..common.model_files import METRICS, RECIPE_FILE, RUN_FILE
from ..conversion.engine import ConversionError
from ..conversion.export import export, load_ours, read_ours
from ..image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil
from ..weight_files_vit_custom import shorten_list
from .code_files import VERSION, is_shipped, reached_modules, read_configs
from .forms import TIMM, form_in
from .golden import read_golden
from .report import Check

RELATIVE = 5e-3  # of the largest output of an image; a mean of 0.485 in place of 0.5 makes 1.2e-2, see `golden`
_KEPT = ("LICENSE",)


@contextmanager
def as_library(model_dir: Path, library: str | None) -> Iterator[Path]:
    """Yield the folder to publish: `model_dir` itself or, with `library` ("hf", "timm"), its conversion.

    Raises ConversionError, a ValueError, for what the library cannot express, and ImportError without the library.
    """
    if library is None:
        yield model_dir
        return
    modules = reached_modules(model_dir, *read_configs(model_dir))
    if foreign := [name for name in modules if not is_shipped(model_dir / name)]:
        raise ConversionError(
            f"{shorten_list(foreign)}: not the code of {VERSION}, which is what a conversion computes. Leave out --as "
            f"{library}, and pass --trust_remote_code."
        )
    check_claims(model_dir, (METRICS, RUN_FILE))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / model_dir.resolve().name
        report = export(str(model_dir), folder, library, from_images=True)
        print(f"converted to {report['family']}: {differences(report['check'])}")
        _take_records(model_dir, folder)
        yield folder


def differences(check: Mapping[str, Any]) -> str:
    """Return a sentence on how far the answers of both models, and the pixels of both image processors, lie apart."""
    pixels, tensors = check["from_pixels"], check["from_tensors"][0]
    relative = max(tensors[kind]["relative"] for kind in ("logit", "feature") if kind in tensors)
    return (
        f"the same outputs within {relative:.1e} of the largest; pixels off by at most {pixels['grey_levels']:.2g} of "
        f"255 grey levels, {pixels['mean_grey_levels']:.2g} on average"
    )


def _take_records(model_dir: Path, folder: Path) -> None:
    """Copy figures, settings, pictures and licence beside the converted weights."""
    for name in (METRICS, RUN_FILE):
        if not (record := read_record(model_dir / name)):
            continue
        files = [file for file in RECORDS[name][0] if file != RECIPE_FILE and (model_dir / file).is_file()]
        for file in files:
            shutil.copyfile(model_dir / file, folder / file)
        write_stamped(folder / name, {**record, BEFORE: record.get(STAMP)}, files)
    for name in _KEPT:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, folder / name)


@torch.no_grad()
def compare_with_original(model_dir: Path, folder: Path) -> Check:
    """Check that the golden outputs of a converted folder are those that the original gives to the same images."""
    model = load_ours(model_dir, read_ours(model_dir)).float()
    golden, form = read_golden(folder), form_in(folder)
    processors: Any = {"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil}
    name, worst = "logits" if "logits" in golden else "pooler_output", 0.0
    for backend in form.backends:
        processor = processors["pil" if form is TIMM else backend].from_pretrained(model_dir)
        images = [str(folder / image) for image in golden["images"]]
        ours = np.array([model(**processor([image], return_tensors="pt"))[name][0].numpy() for image in images])
        theirs = np.asarray(golden[name][backend], float)
        worst = max(worst, float((np.abs(ours - theirs).max(1) / np.abs(ours).max(1).clip(1e-6)).max()))
    said = f"off by {worst:.1e} of the largest, at most {RELATIVE:g} is allowed"
    return Check("same answers as the original", worst <= RELATIVE, said)
