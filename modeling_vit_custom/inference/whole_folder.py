"""A folder that is there whole or not at all, as `write_whole` writes a file."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(output: str | os.PathLike) -> Iterator[Path]:
    """Gives a folder to fill, which takes the place of `output`, new or an empty folder, at the end of the block.

    It lies beside `output`, as `.NAME.…`; a process that is killed leaves it there, and no `output`. Raises OSError.
    """
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as aside:
        folder = Path(aside) / "folder"
        folder.mkdir()
        yield folder
        if output.is_symlink() or output.is_mount():  # what cannot be renamed onto gets the files, its config.json last
            for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
                shutil.move(path, output / path.name)
        else:
            os.replace(folder, output)
