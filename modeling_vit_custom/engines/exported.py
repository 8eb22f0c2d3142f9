"""An exported classifier that takes the place of the original: in `pipeline`, in `predict`, in `evaluate`.

An export is a folder: the model as a file of its format, config.json and preprocessor_config.json as in any saved
model, and export.json, which says what the file is and how it compared with the original.

Shapes: B batch, C channels, H×W pixels, K classes.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from ..common.model_files import EXPORT
from ..configuration_vit_custom import ViTCustomConfig
from ..pipeline_vit_custom import ViTCustomImageClassificationPipeline

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "openvino": "model.xml"}
Run = Callable[[torch.Tensor], torch.Tensor]


class ExportedClassifier(PreTrainedModel):
    """Pixel values [B, C, H, W] → logits [B, K], computed by another runtime; it has no weights of its own.

    A file that is for one number of images is given as many, the last of them repeated. One that has the preprocessing
    inside takes decoded images from 0 to 1, as the processor beside it gives them.
    """

    config_class = ViTCustomConfig
    main_input_name = "pixel_values"
    image_classification_pipeline = ViTCustomImageClassificationPipeline
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # whatever the original's configuration says
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, config: ViTCustomConfig, run: Run, record: dict[str, Any], device: torch.device = device):
        super().__init__(copy.deepcopy(config))
        self.run, self.record, self.device = run, record, device
        digest = bytes.fromhex(record["sha256"])
        self.register_buffer("file_sha256", torch.tensor(list(digest), dtype=torch.uint8))  # in place of weights

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> ImageClassifierOutput:
        """Raises ValueError for a size that the file is not for."""
        size, dynamic = self.record["input"], self.record["dynamic"]
        for name, axis, patch in zip(("height", "width"), (2, 3), self.config.patch_hw, strict=True):
            if name in dynamic and not self.record["preprocessing"] and pixel_values.shape[axis] % patch:
                raise ValueError(f"images are {tuple(pixel_values.shape[2:])} pixels: {name} must be whole patches.")
            if name not in dynamic and pixel_values.shape[axis] != size[axis]:
                raise ValueError(
                    f"images are {tuple(pixel_values.shape[2:])} pixels, the export is for {tuple(size[2:])}: prepare "
                    f"them with the processor beside it, or export with --dynamic {name}."
                )
        if self.record["preprocessing"]:
            pixel_values = (255 * pixel_values).round().to(torch.uint8)
        if "batch" in dynamic:
            return ImageClassifierOutput(logits=self.run(pixel_values))
        return ImageClassifierOutput(logits=in_parts_of(size[0], self.run, pixel_values))


def in_parts_of(count: int, run: Run, images: torch.Tensor) -> torch.Tensor:
    """Logits of images [B, C, H, W], always so many at a time: the last one is repeated where there are fewer."""
    *whole, last = images.split(count)
    filled = torch.cat([last, last[-1:].expand(count - len(last), -1, -1, -1)]) if len(last) < count else last
    return torch.cat([run(part) for part in (*whole, filled)])[: len(images)]


def is_export(folder: Path) -> bool:
    return (folder / EXPORT).is_file()


def file_digest(path: Path) -> str:
    """SHA-256 of an export's file and of the weights beside it: OpenVINO's, or those of more than 2 GB in ONNX."""
    digest = hashlib.sha256()
    for part in parts(path):
        with open(part, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def file_bytes(path: Path) -> int:
    return sum(part.stat().st_size for part in parts(path))


def parts(path: Path) -> list[Path]:
    beside = (path.with_suffix(".bin"), path.with_name(f"{path.name}.data"))
    return [part for part in (path, *beside) if part.is_file()]


def load_exported(folder: str | Path, trust_remote_code: bool = False) -> tuple[ExportedClassifier, Any]:
    """(the classifier, its image processor) of an export's folder.

    Raises ValueError for a file that is not the one that was compared, and for one of torch.export, which torch reads
    by pickle, without `trust_remote_code`, and where its runtime is missing.
    """
    folder = Path(folder)
    record = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    path = folder / FILES[record["format"]]
    if record["format"] == "torch_export" and not trust_remote_code:
        raise ValueError(f"{path}: torch reads it by pickle, which can run code. If it is yours, --trust_remote_code.")
    if file_digest(path) != record["sha256"]:
        raise ValueError(f"{path} is not the file that {EXPORT} tells of: it was changed or damaged. Export it again.")
    config = ViTCustomConfig.from_pretrained(folder)
    try:
        run = RUNTIMES[record["format"]](path)
    except ImportError as error:
        raise ValueError(f"{path} needs {error.name}: pip install 'vit-custom[export]'.") from error
    classifier = ExportedClassifier(config, run, record)
    return classifier.eval(), AutoImageProcessor.from_pretrained(folder)


def open_onnx(path: Path) -> Run:
    """In onnxruntime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    return lambda images: torch.from_numpy(session.run(None, {entry.name: images.numpy()})[0])


def open_torch_export(path: Path) -> Run:
    program = torch.export.load(path).module()

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return program(images)

    return run


@cache
def openvino_core() -> Any:
    """The one of this process: each moves its thread's signals to a stack of its own, and frees that in any order."""
    import openvino

    return openvino.Core()


def open_openvino(path: Path) -> Run:
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino_core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(images: torch.Tensor) -> torch.Tensor:
        outputs = request.infer([images.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(next(iter(outputs.values())).copy())

    return run


RUNTIMES: dict[str, Callable[[Path], Run]] = {
    "onnx": open_onnx,
    "torch_export": open_torch_export,
    "openvino": open_openvino,
}
