"""The key of a cache of views: a record that changes when the cached images would change.

Shapes: N examples.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from .._version import __version__
from .examples import Examples, Joined, LazySelection
from .hub_datasets import DatasetImages
from .tables import ParquetImages
from .views import ImageResizer

FORMAT = 1


def cache_key(examples: Examples, maker: ImageResizer) -> dict[str, Any]:
    """Return a JSON record that changes when the views would.

    It does not notice a file that changes but keeps its size and modification time.
    """
    libraries = {name: version(name) for name in ("numpy", "pillow", "torch", "torchvision", "transformers")}
    key = {
        "format": FORMAT,
        "examples": len(examples),
        "images": images_fingerprint(examples.images),
        **maker.description(),
        "libraries": libraries | {"modeling_vit_custom": __version__},
    }
    return json.loads(json.dumps(key))


def key_hash(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def images_fingerprint(images: Sequence[Any]) -> str:
    """Return a hash of image sources; a file is not read, but goes in by its path, size and modification time."""
    digest = hashlib.sha256()
    if isinstance(images, Joined):
        return hashlib.sha256("".join(map(images_fingerprint, images.parts)).encode()).hexdigest()
    if isinstance(images, LazySelection):
        digest.update(images_fingerprint(images.items).encode() + np.asarray(images.indices, np.int64).tobytes())
    elif isinstance(images, DatasetImages):
        digest.update(f"{images.dataset._fingerprint} {images.column}".encode())
        for file in images.dataset.cache_files:  # may be rewritten under the same fingerprint
            digest.update(_source(file["filename"]))
    elif isinstance(images, ParquetImages):
        digest.update(_source(images.path) + images.column_name.encode())
    holds_images = isinstance(images, LazySelection | DatasetImages | ParquetImages) and not isinstance(images[0], str)
    for source in () if holds_images else images:
        digest.update(_source(source))
    return digest.hexdigest()


def _source(source: Any) -> bytes:
    if isinstance(source, str | os.PathLike):
        path = os.path.abspath(source)
        try:
            found = os.stat(path)
            return f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
        except OSError:
            return f"{path}\0".encode("utf-8", "surrogateescape")
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    pixels = np.asarray(source)
    return hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode() + pixels.tobytes()).digest()
