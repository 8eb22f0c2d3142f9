"""Image folders DIR/<class>/… and DIR/{train,validation,test}/<class>/…, read without losing a file unsaid.

The class is the *first* folder below DIR, however deep the image lies, and no file name means anything
(`datasets`' imagefolder takes a file called train.png for a split and drops the others).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..common.errors import DataError
from ..common.text import listed
from ..image_files_vit_custom import accepted_formats
from .examples import SINGLE_LABEL
from .labels import natural_key, natural_sorted
from .raw import FolderContents, RawSplit

SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".qoi", ".avif", ".heic", ".heif",
}  # fmt: skip
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)  # http://, s3://, hf://, zip://…::…, file://


def readable_suffixes() -> frozenset[str]:
    """Suffixes of image files the installed Pillow opens (HEIC only where a plugin has registered it)."""
    formats = accepted_formats()
    known = Image.registered_extensions()
    return frozenset(suffix for suffix in IMAGE_SUFFIXES if known.get(suffix) in formats)


def walk_tree(root: str | Path, follow_links: bool = False) -> tuple[list[Path], list[str]]:
    """(every file below `root` in natural order, hidden ones included; why each link left out was not followed).

    Left out are links in a circle and, unless `follow_links`, those that lead out of `root`.
    """
    root = Path(root)
    refused: list[str] = []

    def visit(folder: Path, ancestors: frozenset[Path]) -> Iterator[Path]:
        for path in folder.iterdir():
            if not follow_links and leads_out(path, root):
                refused.append(
                    f"{path} is a link that leads out of {root}. Copy the files in, or pass "
                    "--follow_links if you trust where it leads."
                )
            elif not path.is_dir():
                yield path
            elif (real := path.resolve()) in ancestors:
                refused.append(f"{path} is a link to a folder it lies in: remove it.")
            else:
                yield from visit(path, ancestors | {real})

    found = visit(root, frozenset({root.resolve()}))
    return sorted(found, key=lambda path: natural_key(path.relative_to(root).as_posix())), refused


def walk_files(root: str | Path, follow_links: bool = False) -> list[Path]:
    """The files of `walk_tree`; raises DataError if it left out a link."""
    files, refused = walk_tree(root, follow_links)
    if refused:
        raise DataError(listed(refused, 3))
    return files


def leads_out(path: Path, root: Path) -> bool:
    """Whether `path` is a link to something that does not lie below `root`."""
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def named_files(
    cells: Sequence[str], home: Path, source: str, column: str, follow_links: bool, others: Sequence[Path] = ()
) -> list[str]:
    """The files that the cells of an image column name, relative to `home`: what every table and dataset asks.

    others: further folders in which they may lie.
    Raises DataError, calling the table or dataset `source`, for addresses, which are never fetched, for paths where no
    file lies, and, unless `follow_links`, for files outside these folders once links are followed.
    """

    def refuse(bad: Sequence[str], what: str, fix: str) -> None:
        if bad:
            raise DataError(f"{source}: {len(bad)} of {len(cells)} files of column {column!r} {what}: {fix}")

    addresses = [cell for cell in cells if ADDRESS.match(cell)]
    refuse(addresses, "are addresses, which are not fetched", f"{listed(addresses, 5)}. Download them first.")
    files = [str(home / cell) for cell in cells]
    missing = [file for file in files if not Path(file).is_file()]
    refuse(missing, "do not exist", f"{listed(missing, 5)}. Paths are read relative to its folder.")
    if not follow_links:
        inside = [folder.resolve() for folder in (home, *others)]
        outside = [file for file in files if not any(Path(file).resolve().is_relative_to(home) for home in inside)]
        fix = f"{listed(outside, 5)}. Pass --follow_links if you trust it to name files of yours."
        refuse(outside, "lie outside its folder", fix)
    return files


def find_split_folders(root: str | Path, follow_links: bool = False) -> dict[str, Path]:
    """{"train": DIR/train, "validation": DIR/val, …} if `root` is divided into splits, else {}.

    It is when it has a folder called train with folders inside. Raises DataError if folders that are no split
    lie beside it, if a split is there under two names, or if one is a link out of `root` (unless `follow_links`).
    """
    root = Path(root)
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    named = [path for path in folders if path.name.lower() in SPLIT_FOLDERS and _has_folders(path)]
    found: dict[str, Path] = {}
    for path in sorted(named):
        if not follow_links and leads_out(path, root):
            raise DataError(f"{path} is a link that leads out of {root}. Name the folder it leads to instead.")
        split = SPLIT_FOLDERS[path.name.lower()]
        if split in found:
            raise DataError(f"{found[split]} and {path} both look like the {split} split: rename or remove one.")
        found[split] = path
    if "train" not in found:
        return {}
    if others := natural_sorted(path.name for path in folders if path not in named):
        raise DataError(
            f"{root} holds split folders ({listed(sorted(p.name for p in named))}) and others beside them "
            f"({listed(others)}). Name the splits yourself with --train_dir, --validation_dir and "
            "--test_dir; if train is the name of a class, rename its folder."
        )
    return found


def _has_folders(path: Path) -> bool:
    return any(child.is_dir() and not child.name.startswith(".") for child in path.iterdir())


def is_hidden(path: Path, root: Path) -> bool:
    """Whether `path` or a folder it lies in below `root` has a name that starts with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def sort_files(root: str | Path, follow_links: bool = False) -> FolderContents:
    """Which files of `root` are labelled images, which are not, none forgotten."""
    root, readable = Path(root), readable_suffixes()
    images: list[Path] = []
    classless: list[Path] = []
    skipped: list[Path] = []
    files, refused = walk_tree(root, follow_links)
    for path in files:
        if is_hidden(path, root) or path.suffix.lower() not in readable:
            skipped.append(path)
        else:
            (images if len(path.relative_to(root).parts) > 1 else classless).append(path)
    classes = natural_sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return FolderContents(root, images, classless, skipped, classes, refused)


def read_class_folder(root: str | Path, split: str, follow_links: bool = False, refuse_links: bool = True) -> RawSplit:
    """One split from DIR/<class>/…; its notes compare the files on disk with the examples.

    Raises DataError when the folder is missing or holds no labelled image, and, unless `refuse_links` is off,
    for links that are not followed.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{split}: {root} is not a folder. Give a folder of class folders or a .csv, .tsv, .jsonl or .parquet "
            "file; an archive is never unpacked here."
        )
    contents = sort_files(root, follow_links)
    if refuse_links and contents.refused:
        raise DataError(listed(contents.refused, 3))
    if not contents.images:
        raise DataError(
            f"{split}: no image in {root}/<class>/. Found there: {len(contents.classless)} image(s) outside "
            f"any class folder, {len(contents.skipped)} other file(s) {_suffixes(contents.skipped)}. "
            "Expected one folder for each class, with files such as .jpg or .png."
        )
    labels = [path.relative_to(root).parts[0] for path in contents.images]
    return RawSplit(
        images=[str(path) for path in contents.images],
        names=[str(path) for path in contents.images],
        problem_type=SINGLE_LABEL,
        labels=labels,
        notes=[f"{split}: {note}" for note in _compare_with_disk(root, contents, labels)],
        contents=contents,
    )


def _compare_with_disk(root: Path, contents: FolderContents, labels: list[str]) -> list[str]:
    """Sentences that account for every file and every class folder below `root`."""
    total = sum(len(files) for files in (contents.images, contents.classless, contents.skipped))
    notes = [f"{total:,} files on disk, {len(labels):,} examples of {len(set(labels))} classes in {root}"]
    if contents.classless:
        names = [path.name for path in contents.classless]
        notes.append(f"NOT USED, {len(names)} image(s) outside any class folder: {listed(names)}")
    if contents.skipped:
        names = [path.relative_to(root).as_posix() for path in contents.skipped]
        notes.append(f"NOT USED, {len(names)} file(s) {_suffixes(contents.skipped)}: {listed(names)}")
        unreadable = IMAGE_SUFFIXES - readable_suffixes()
        if unread := [path for path in contents.skipped if path.suffix.lower() in unreadable]:
            notes.append(f"IMAGES that Pillow does not read here {_suffixes(unread)}: convert them to JPEG or PNG")
    if empty := empty_classes(contents):
        notes.append(f"class folder(s) without any image, left out of the label map: {listed(empty)}")
    deep = sum(len(path.relative_to(root).parts) > 2 for path in contents.images)
    if deep:
        notes.append(f"{deep:,} image(s) lie in sub-folders; their class is the first folder below {root}")
    return notes


def empty_classes(contents: FolderContents) -> list[str]:
    """Class folders that hold no readable image."""
    filled = {path.relative_to(contents.root).parts[0] for path in contents.images}
    return [name for name in contents.classes if name not in filled]


def _suffixes(paths: list[Path]) -> str:
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths)
    return "(" + ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common()) + ")" if counts else ""
