"""Images, and a maker of views that counts the views it makes."""

from pathlib import Path

import numpy as np
from real_digits import write_digit

from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.data.views import ImageResizer, eval_resizer
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor

CONFIG = ViTCustomConfig(image_size=16, patch_size=8)
PROCESSOR = ViTCustomImageProcessor.for_model(CONFIG)
MAKER = eval_resizer(PROCESSOR, CONFIG)


class Counting(ImageResizer):
    """Makes the same views as MAKER, and counts them."""

    made = 0

    def __call__(self, sources, names):
        self.made += len(sources)
        return super().__call__(sources, names)


def digits(folder: Path, count: int = 40) -> Examples:
    files = [str(write_digit(folder / f"{i}.png", i % 10, i // 10)) for i in range(count)]
    return Examples(files, files, ClassIds(np.arange(count) % 10))


def folder_of(root: Path) -> Path:
    [folder] = [path for path in root.iterdir() if path.is_dir()]
    return folder


PHOTO_MAKER = ImageResizer(PROCESSOR, (3, 160, 160), {"size": {"height": 160, "width": 160}})


def many_photos(file: str) -> Examples:
    return Examples([file] * 400, [f"copy {i}" for i in range(400)])
