"""Findings on files: which of a folder are loaded, which are not, and how other tools would read them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from ..data.folders import IMAGE_SUFFIXES, is_hidden, readable_suffixes, unread_images, unread_sentence, walk_tree
from ..data.raw import RawSplit
from ..data.tables import is_table
from .findings import ERROR, NOTE, SERIOUS_SHARE, WARNING, Finding, finding

ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
# Words in folder and file names that `datasets`' imagefolder takes for a split (datasets.data_files.SPLIT_KEYWORDS).
SPLIT_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_SEPARATOR = "[-._ 0-9]"


def files_on_disk(
    sources: Iterable[str | Path], raw: Mapping[str, RawSplit], follow_links: bool
) -> tuple[dict[Path, Path], list[str]]:
    """Return ({file: the root it was found under}, why links were not followed).

    The files are all those below each folder, and those beside the images that a table names.
    """
    found: dict[Path, Path] = {}
    refused: list[str] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside, links = walk_tree(source, follow_links)
            found |= dict.fromkeys(inside, source)
            refused += links
        elif is_table(source):
            folders = {Path(image).parent for image in loaded_files(raw)}
            below = sorted(folder for folder in folders if folder.is_relative_to(source.parent))
            found |= {path: folder for folder in below for path in folder.iterdir() if path.is_file()}
            found.pop(source, None)
    return found, refused


def loaded_files(raw: Mapping[str, RawSplit]) -> set[str]:
    """Return the paths of all examples that are files."""
    return {image for part in raw.values() if isinstance(part.images, list) for image in part.images}


def link_findings(refused: Iterable[str]) -> list[Finding]:
    """Return a finding on links that are not followed, because they lead out of the folder or in a circle."""
    return finding(
        ERROR,
        "links",
        "links that lead out of the folder or in a circle",
        "Copy in what they lead to, or remove them. --follow_links follows those that lead out.",
        refused,
    )


def unloaded_findings(unloaded: Mapping[Path, Path], loaded: int) -> list[Finding]:
    """Return one finding for each reason why a file is no example; every file is in exactly one.

    unloaded: file -> the root it was found under.   loaded: how many others are examples.
    """
    groups: dict[str, list[str]] = {"hidden": [], "archive": [], "lost": [], "classless": [], "other": []}
    readable = readable_suffixes()
    for path, root in unloaded.items():
        groups[_reason(path, root, readable)].append(str(path))
    lost = len(groups["lost"])
    return [
        *finding(
            ERROR if lost > SERIOUS_SHARE * (loaded + lost) else WARNING,
            "lost-images",
            f"images that would be left out for how their names end ({_suffix_counts(groups['lost'])})",
            _ways_back(groups["lost"]),
            groups["lost"],
        ),
        *finding(
            WARNING,
            "classless-images",
            "images outside any class folder, or in no row of the table",
            "Move them into a class folder (or list them), or out of the data.",
            groups["classless"],
        ),
        *finding(
            WARNING,
            "archives",
            "archives, which are not looked into",
            "Unpack them elsewhere and look at what is in them, or move them away.",
            groups["archive"],
        ),
        *finding(
            NOTE, "hidden-files", "hidden files, which are not read", "Nothing, or delete them.", groups["hidden"]
        ),
        *finding(
            NOTE,
            "other-files",
            f"files that are no images ({_suffix_counts(groups['other'])})",
            "Nothing, if none of them should be an image.",
            groups["other"],
        ),
    ]


def _ways_back(lost: list[str]) -> str:
    """How to get images read that would be left out."""
    unread = unread_images(lost)
    rename = "Rename them: an image is read if its name ends in .jpg, .png and the like."
    return " ".join([unread_sentence(lost)] * bool(unread) + [rename] * (len(unread) < len(lost)))


def _reason(path: Path, root: Path, readable: frozenset[str]) -> str:
    suffix = path.suffix.lower()
    if is_hidden(path, root):
        return "hidden"
    if suffix in ARCHIVES:
        return "archive"
    if suffix in readable:
        return "classless"
    return "lost" if suffix in IMAGE_SUFFIXES or _holds_image(path, readable) else "other"


def _holds_image(path: Path, readable: frozenset[str]) -> bool:
    """Whether a file that is no image by its name is an image by its content."""
    if not path.is_file():  # opening a named pipe would wait forever
        return False
    known = Image.registered_extensions()
    formats = sorted({known[suffix] for suffix in readable & set(known)} - {"TGA"})  # TGA has no signature
    try:
        with Image.open(path, formats=formats):
            return True
    except Exception:  # Pillow raises errors of a dozen types for a file that is no image
        return False


def _suffix_counts(names: Iterable[str]) -> str:
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in names)
    return ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common(6))


def split_trap(root: Path, files: Iterable[Path], ours: Mapping[str, str]) -> list[Finding]:
    """Return a finding on images that `load_dataset("imagefolder")` would put into another split, several, or none.

    files: all below `root`. ours: image -> the split it is in here.
    """
    relative = {str(path): path.relative_to(root) for path in files if not is_hidden(path, root)}
    theirs = imagefolder_splits({name: path.as_posix() for name, path in relative.items()})
    odd = [
        f"{name}: {' and '.join(sorted(theirs[name])) or 'left out'}, not {split}"
        for name, split in ours.items()
        if name in theirs and theirs[name] != {split}
    ]
    return finding(
        WARNING,
        "split-words",
        'images that `load_dataset("imagefolder")` sorts into other splits, or drops, for words in names',
        "Training here takes no file name for a split. Rename the files or folders before sharing the data.",
        odd,
    )


def imagefolder_splits(paths: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the splits that `datasets` sorts each file into by the words in names.

    paths: a key of each file -> its path below the root. Folder names count if any folder has such a word, else file
    names; without any such word all files are train.
    """
    in_folder, in_name = {}, {}
    for key, path in paths.items():
        *folders, name = path.split("/")
        in_folder[key] = {
            s for s, word in SPLIT_WORDS.items() if any(_holds(word, f, f"({_SEPARATOR}|$)") for f in folders)
        }
        in_name[key] = {s for s, word in SPLIT_WORDS.items() if _holds(word, name, _SEPARATOR)}
    for found in (in_folder, in_name):
        if any(found.values()):
            return found
    return {key: {"train"} for key in paths}


def _holds(word: str, name: str, after: str) -> bool:
    return re.search(f"(^|{_SEPARATOR})({word}){after}", name) is not None
