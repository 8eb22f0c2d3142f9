"""Image folders DIR/<class>/… and DIR/{train,validation,test}/<class>/…, read so that no file is lost silently.

The class is the *first* folder below DIR, however deep the image lies. File names mean nothing (`datasets`' imagefolder
takes a file called train.png for a split and drops the others).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..common.errors import DataError
from ..image_files_vit_custom import accepted_formats, plugin_fix
from ..weight_files_vit_custom import shorten_list
from .names import natural_key, natural_sorted
from .raw import FolderContents, RawSplit
from .source import Source
from .targets import ClassIds

SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".qoi", ".avif", ".heic", ".heif", ".jxl", ".npy",
}  # fmt: skip
SHARDS = {".parquet", ".arrow", ".tar"}
ARRAY_SUFFIXES = frozenset({".npy"})  # read without Pillow
PLUGIN_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".jxl": "JXL"}
METADATA = ("metadata.csv", "metadata.jsonl")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)  # http://, s3://, hf://, zip://…::…, file://


def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that can be read here: HEIC and JPEG XL only if their plugin is installed."""
    formats = accepted_formats()
    known = Image.registered_extensions()
    return ARRAY_SUFFIXES | frozenset(suffix for suffix in IMAGE_SUFFIXES if known.get(suffix) in formats)


def walk_tree(root: str | Path, follow_links: bool = False) -> tuple[list[Path], list[str]]:
    """Return (every file below `root` in natural order, hidden ones included; why each skipped link was not followed).

    Circular links are skipped and, unless `follow_links`, links that lead out of `root`.
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
    """Return the files of `walk_tree`; raise DataError if it skipped a link."""
    files, refused = walk_tree(root, follow_links)
    if refused:
        raise DataError(shorten_list(refused, 3))
    return files


def leads_out(path: Path, root: Path) -> bool:
    """Return whether `path` is a link to something outside `root`."""
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def named_files(
    cells: Sequence[str], home: Path, source: str, column: str, follow_links: bool, others: Sequence[Path] = ()
) -> list[str]:
    """Return the files that the cells of an image column name, relative to `home`; every table and dataset uses this.

    others: further folders in which the files may lie.
    Raises DataError, calling the table or dataset `source`, for addresses, which are never fetched, for files that do
    not exist and, unless `follow_links`, for files outside these folders once links are followed.
    """

    def refuse(bad: Sequence[str], what: str, fix: str) -> None:
        if bad:
            raise DataError(f"{source}: {len(bad)} of {len(cells)} files of column {column!r} {what}: {fix}")

    addresses = [cell for cell in cells if ADDRESS.match(cell)]
    refuse(addresses, "are addresses, which are not fetched", f"{shorten_list(addresses, 5)}. Download them first.")
    files = [str(home / cell) for cell in cells]
    missing = [file for file in files if not Path(file).is_file()]
    refuse(missing, "do not exist", f"{shorten_list(missing, 5)}. Paths are read relative to its folder.")
    if not follow_links:
        inside = [folder.resolve() for folder in (home, *others)]
        outside = [file for file in files if not any(Path(file).resolve().is_relative_to(home) for home in inside)]
        fix = f"{shorten_list(outside, 5)}. Pass --follow_links if you trust it to name files of yours."
        refuse(outside, "lie outside its folder", fix)
    return files


def find_split_folders(root: str | Path, follow_links: bool = False) -> dict[str, Path]:
    """Return {"train": DIR/train, "validation": DIR/val, …} if `root` is divided into splits, else {}.

    It is divided if it has a train folder with folders, or a metadata file, inside. Raises DataError if folders that
    are no split lie beside it, if a split exists under two names, or if one is a link out of `root` (unless
    `follow_links`).
    """
    root = Path(root)
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    named = [path for path in folders if path.name.lower() in SPLIT_FOLDERS and _is_split(path)]
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
            f"{root} holds split folders ({shorten_list(sorted(p.name for p in named))}) and others beside them "
            f"({shorten_list(others)}). Name the splits yourself with --train_dir, --validation_dir and "
            "--test_dir; if train is the name of a class, rename its folder."
        )
    return found


def folder_of_split(source: Source) -> Path:
    """Return the folder of the split that `source` asks for, or the whole one. Raises DataError if it is not there."""
    root = Path(source.place)
    if source.split is None:
        return root
    folders = find_split_folders(root, source.follow_links)
    source.check_split(folders)
    return folders[source.split]


def _is_split(path: Path) -> bool:
    has_folders = any(child.is_dir() and not child.name.startswith(".") for child in path.iterdir())
    return has_folders or bool(metadata_files(path))


def metadata_files(folder: Path) -> list[Path]:
    """Return the tables in which `datasets` looks for the labels of a folder's images."""
    return [path for name in METADATA if (path := folder / name).is_file()]


def is_hidden(path: Path, root: Path) -> bool:
    """Return whether `path`, or a folder that it lies in below `root`, has a name that starts with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def sort_files(root: str | Path, follow_links: bool = False) -> FolderContents:
    """Sort the files of `root` into labelled images, images outside class folders and others; none is forgotten."""
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
    """Read one split from DIR/<class>/…; its notes compare the files on disk with the examples.

    Raises DataError if the folder is missing or holds no labelled image and, unless `refuse_links` is off, for links
    that are not followed.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{split}: {root} is not a folder. Give a folder of class folders or a .csv, .tsv, .jsonl or .parquet "
            "file; an archive is never unpacked here."
        )
    contents = sort_files(root, follow_links)
    if refuse_links and contents.refused:
        raise DataError(shorten_list(contents.refused, 3))
    if not contents.images:
        shards = [path.name for path in contents.skipped if path.suffix.lower() in SHARDS]
        raise DataError(
            f"{split}: {root} holds {shorten_list(shards, 3)} and no image in a class folder: name it with "
            "--dataset_name, or train with --streaming."
            if shards
            else f"{split}: no image in {root}/<class>/. Found there: {len(contents.classless)} image(s) outside "
            f"any class folder, {len(contents.skipped)} other file(s) {_suffixes(contents.skipped)}. "
            "Expected one folder for each class, with files such as .jpg or .png."
        )
    labels = [path.relative_to(root).parts[0] for path in contents.images]
    return RawSplit(
        images=[str(path) for path in contents.images],
        names=[str(path) for path in contents.images],
        targets=ClassIds,
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
        notes.append(f"NOT USED, {len(names)} image(s) outside any class folder: {shorten_list(names)}")
    if contents.skipped:
        notes += skipped_notes(root, contents.skipped)
    if empty := empty_classes(contents):
        notes.append(f"class folder(s) without any image, left out of the label map: {shorten_list(empty)}")
    deep = sum(len(path.relative_to(root).parts) > 2 for path in contents.images)
    if deep:
        notes.append(f"{deep:,} image(s) lie in sub-folders; their class is the first folder below {root}")
    return notes


def skipped_notes(root: Path, skipped: Sequence[Path]) -> list[str]:
    """Return sentences on the files below `root` that are no examples: those that are no images, those unread here."""
    names = names_below(skipped, root)
    unread = set(unread_images(names))
    others = [name for name in names if name not in unread]
    notes = [f"NOT USED, {len(others)} file(s) {_suffixes(others)}: {shorten_list(others)}"] if others else []
    return notes + ([unread_sentence(names)] if unread else [])


def unread_images(paths: Iterable[str | Path]) -> list[str]:
    """Return the paths that are images by name but that nothing here decodes (HEIC without its plugin)."""
    unreadable = IMAGE_SUFFIXES - readable_suffixes()
    return [str(path) for path in paths if Path(path).suffix.lower() in unreadable]


def unread_sentence(paths: Iterable[str | Path]) -> str:
    """Return the sentence on `unread_images` for every command: how many, which, the fix; "" if there are none."""
    if not (unread := unread_images(paths)):
        return ""
    formats = {PLUGIN_SUFFIXES.get(Path(path).suffix.lower(), "") for path in unread}
    return f"NOT READ HERE, {len(unread)} image(s) by name: {shorten_list(unread)}. Fix: {plugin_fix(formats)}."


def names_below(paths: Iterable[Path], root: Path) -> list[str]:
    """Return paths relative to `root`, as notes name them."""
    return [path.relative_to(root).as_posix() for path in paths]


def empty_classes(contents: FolderContents) -> list[str]:
    """Return the class folders that hold no readable image."""
    filled = {path.relative_to(contents.root).parts[0] for path in contents.images}
    return [name for name in contents.classes if name not in filled]


def _suffixes(paths: Iterable[str | Path]) -> str:
    counts = Counter(Path(path).suffix.lower() or "no suffix" for path in paths)
    return "(" + ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common()) + ")" if counts else ""
