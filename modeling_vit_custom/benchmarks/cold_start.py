"""Cold start: time from the start of a new Python to a saved model's first output, and the process's peak of memory.

Each script imports what a user of that library would import; it imports this package only to measure our model.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..common.model_files import WEIGHTS
from .peers import LIBRARIES, Shape

_OPEN = {
    "ours": """
from modeling_vit_custom import ViTCustomForImageClassification
model = ViTCustomForImageClassification.from_pretrained(folder)
""",
    "transformers": """
from transformers import ViTForImageClassification
model = ViTForImageClassification.from_pretrained(folder)
""",
    "timm": """
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
model = VisionTransformer(
    img_size=s["image"], patch_size=s["patch"], num_classes=s["classes"], embed_dim=s["width"], depth=s["depth"],
    num_heads=s["heads"], mlp_ratio=s["hidden"] / s["width"],
)
model.load_state_dict(load_file(folder + "/model.safetensors"))
""",
    "torchvision": """
from safetensors.torch import load_file
from torchvision.models import VisionTransformer
model = VisionTransformer(
    image_size=s["image"], patch_size=s["patch"], num_layers=s["depth"], num_heads=s["heads"], hidden_dim=s["width"],
    mlp_dim=s["hidden"], num_classes=s["classes"],
)
model.load_state_dict(load_file(folder + "/model.safetensors"))
""",
}
_SCRIPT = """
import json, sys
folder, s = sys.argv[1], json.loads(sys.argv[2])
import torch
{open}
with torch.inference_mode():
    model.eval()(torch.zeros(1, 3, s["image"], s["image"]))
if sys.platform == "linux":
    print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
else:
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20)
"""


def cold_starts(shape: Shape, libraries: Iterable[str], repeats: int = 3) -> list[dict[str, Any]]:
    """Measure starts of each installed library, in turn; return one row each: fastest start, peak of memory in MB."""
    with tempfile.TemporaryDirectory() as root:
        folders = {library: Path(root) / library for library in libraries}
        for library in list(folders):
            try:
                _save(library, shape, folders[library])
            except ImportError as error:
                print(f"not run: the start of {library} ({error})", file=sys.stderr)
                del folders[library]
        runs: dict[str, list[tuple[float, int]]] = {library: [] for library in folders}
        for _ in range(repeats):
            for library, folder in folders.items():
                runs[library].append(_start(library, shape, folder))
    return [
        {
            "shape": shape.name,
            "library": library,
            "cold_seconds": min(seconds for seconds, _ in measured),
            "memory_mb": max(memory for _, memory in measured),
        }
        for library, measured in runs.items()
    ]


def _save(library: str, shape: Shape, folder: Path) -> None:
    """Save the model as users of the library do: a save_pretrained folder, or a state dict."""
    model: Any = LIBRARIES[library](shape)
    if library in ("ours", "transformers"):
        model.model.save_pretrained(folder)
    else:
        folder.mkdir()
        save_file(model.state_dict(), folder / WEIGHTS)


def _start(library: str, shape: Shape, folder: Path) -> tuple[float, int]:
    """(seconds, peak memory in MB) of one start."""
    script = _SCRIPT.format(open=_OPEN[library].strip())
    line = [sys.executable, "-W", "ignore", "-c", script, str(folder), json.dumps(asdict(shape))]
    began = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout.split()[-1])
