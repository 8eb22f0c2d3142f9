"""An exported classifier that takes the place of the original: in `pipeline`, in `predict`, in `evaluate`.

An export is a folder: the model as a file of its format, config.json and preprocessor_config.json as in any saved
model, and export.json, which says what the file is and how it compared with the original.

Shapes: B batch, C channels, H×W pixels, K outputs.
"""

import copy
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel

from ..common.claims import sha256_of
from ..common.json_files import read_json
from ..common.model_files import CONFIGS, EXPORT
from ..configuration_vit_custom import ViTCustomConfig
from ..pipeline_vit_custom import ViTCustomImageClassificationPipeline
from ..tasks.registry import task_of
from ..unknown_vit_custom import from_logits

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "openvino": "model.xml"}
InferenceFn = Callable[[torch.Tensor], torch.Tensor]


class ExportedClassifier(PreTrainedModel):
    """A classifier computed by another runtime, without weights of its own: pixel values [B, C, H, W] → output [B, K].

    If the file has a fixed batch size, the last image is repeated to fill the batch. If the file has the preprocessing
    inside, the input is decoded images from 0 to 1, as the processor beside the file gives them.
    """

    config_class = ViTCustomConfig
    main_input_name = "pixel_values"
    image_classification_pipeline = ViTCustomImageClassificationPipeline
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # any attention in the configuration is accepted
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(
        self, config: ViTCustomConfig, run: InferenceFn, record: dict[str, Any], device: torch.device = device
    ):
        super().__init__(copy.deepcopy(config))
        self.run, self.record, self.device = run, record, device
        self.listing = task_of(config).listing
        digest = bytes.fromhex(record["sha256"])
        self.register_buffer("file_sha256", torch.tensor(list(digest), dtype=torch.uint8))  # in place of weights

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> ModelOutput:
        """Return the task's output [B, K] for pixel values [B, C, H, W].

        Raises ValueError for an image size that the file does not accept.
        """
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
        output = self.run(pixel_values) if "batch" in dynamic else in_parts_of(size[0], self.run, pixel_values)
        answer = self.listing.answer(**{self.listing.output: output})
        for name, value in from_logits(self.config.unknown, output).items():
            answer[name] = value
        return answer


def in_parts_of(count: int, run: InferenceFn, images: torch.Tensor) -> torch.Tensor:
    """Return the output for images [B, C, H, W], `count` at a time; repeat the last image to fill the last part."""
    *whole, last = images.split(count)
    filled = torch.cat([last, last[-1:].expand(count - len(last), -1, -1, -1)]) if len(last) < count else last
    return torch.cat([run(part) for part in (*whole, filled)])[: len(images)]


def is_export(folder: Path) -> bool:
    return (folder / EXPORT).is_file()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of an export's file and its weight file, if any: OpenVINO's, or ONNX's beyond 2 GB."""
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


def beside(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each configuration file beside an export's file."""
    return {name: sha256_of(folder / name) for name in CONFIGS}


def read_export(folder: Path) -> dict[str, Any]:
    """Read export.json. Raises ValueError if it is damaged."""
    path = folder / EXPORT
    try:
        record = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Export it again.") from error
    kinds = {"format": str, "sha256": str, "dynamic": list, "input": list, "preprocessing": bool}
    wrong = [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]
    wrong += ["beside"] * (not isinstance(record.get("beside", {}), dict))
    if wrong or record["format"] not in FILES:
        raise ValueError(f"{path} is damaged: {', '.join(wrong) or 'format'} cannot be used. Export it again.")
    return record


def load_exported(folder: str | Path, trust_remote_code: bool = False) -> tuple[ExportedClassifier, Any]:
    """Load (classifier, image processor) from an export's folder.

    Raises ValueError if the file or a configuration beside it is not the one that was compared, if the runtime is
    missing, and for a torch.export file without `trust_remote_code`: torch reads it by pickle.
    """
    folder = Path(folder)
    record = read_export(folder)
    path = folder / FILES[record["format"]]
    if record["format"] == "torch_export" and not trust_remote_code:
        raise ValueError(f"{path}: torch reads it by pickle, which can run code. If it is yours, --trust_remote_code.")
    if file_digest(path) != record["sha256"]:
        raise ValueError(f"{path} is not the file that {EXPORT} tells of: it was changed or damaged. Export it again.")
    for name, digest in record.get("beside", {}).items():
        if name not in CONFIGS or not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise ValueError(f"{folder / name} is not what {EXPORT} tells of: changed or lost. Export it again.")
    config = ViTCustomConfig.from_pretrained(folder)
    try:
        run = RUNTIMES[record["format"]](path)
    except ImportError as error:
        raise ValueError(f"{path} needs {error.name}: pip install 'vit-custom[export]'.") from error
    classifier = ExportedClassifier(config, run, record)
    return classifier.eval(), AutoImageProcessor.from_pretrained(folder)


def open_onnx(path: Path) -> InferenceFn:
    """Open the file in onnxruntime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    return lambda images: torch.from_numpy(session.run(None, {entry.name: images.numpy()})[0])


def open_torch_export(path: Path) -> InferenceFn:
    program = torch.export.load(path).module()

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return program(images)

    return run


@cache
def openvino_core() -> Any:
    """Return the only OpenVINO core of this process.

    Each core moves its thread's signals to a stack of its own, and several cores free these stacks in any order.
    """
    import openvino

    return openvino.Core()


def open_openvino(path: Path) -> InferenceFn:
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino_core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(images: torch.Tensor) -> torch.Tensor:
        outputs = request.infer([images.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(next(iter(outputs.values())).copy())

    return run


RUNTIMES: dict[str, Callable[[Path], InferenceFn]] = {
    "onnx": open_onnx,
    "torch_export": open_torch_export,
    "openvino": open_openvino,
}
