"""An index of images that goes up with its model, on request alone: `vit-custom publish --include_index INDEX`.

It lies in the repository as image_index/, without a graph: vectors as safetensors, and images.jsonl with paths below
the images' common folder, so that it says nothing of the machine. Its record names the weights beside it.
"""

import os
from pathlib import Path

from safetensors.numpy import save_file

from ..common.claims import stamped
from ..common.errors import DataError
from ..common.json_files import write_json
from ..common.model_files import INDEX, INDEX_IMAGES, INDEX_RECORD, INDEX_VECTORS
from ..features.index_files import Index
from ..inference.answers import json_line
from ..inference.loading import load_classifier


def include_index(index_dir: str | Path, model_dir: Path, repo_id: str, trust_remote_code: bool = False) -> str:
    """Write the index into `model_dir`/index; return a sentence that says what becomes public.

    Raises DataError for a folder that is no index, or one that another model made.
    """
    index = Index(index_dir)
    model, processor = load_classifier(str(model_dir), trust_remote_code, listing=None)
    index.check_model(str(model_dir), model, processor)
    names = _below_common_folder([record["path"] for record in index.records])
    (model_dir / INDEX).mkdir()
    save_file({"vectors": index.vectors[:]}, model_dir / INDEX_VECTORS)
    lines = (json_line({**record, "path": name}) for record, name in zip(index.records, names, strict=True))
    (model_dir / INDEX_IMAGES).write_text("".join(lines), encoding="utf-8")
    made_by = {**index.record["model"], "name": repo_id, "revision": None}
    record = stamped({**index.record, "model": made_by, "graph": False}, model_dir, (INDEX_IMAGES, INDEX_VECTORS))
    write_json(model_dir / INDEX_RECORD, record)
    return (
        f"{INDEX}/, to be published: vectors, names and labels of {len(index):,} images, such as {names[0]}; from the "
        "vectors, images much like them can be rebuilt"
    )


def _below_common_folder(paths: list[str]) -> list[str]:
    """Paths without the folder that all of them share. Raises DataError for absolute paths among relative ones."""
    try:
        top = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError as error:
        raise DataError(
            "the index names some images by absolute and others by relative paths: make it again from one folder."
        ) from error
    return [os.path.relpath(path, top) if top else path for path in paths]
