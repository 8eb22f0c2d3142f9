"""Where caches lie. Data may lie in a shared folder; compiled code lies where nobody else can write.

Whoever can change a file of compiled code that this package loads can run code as its user. A folder of code is
therefore made with mode 0700, and checked before each use: it, all above it and all in it belong to this user, cannot
be written by the group or by everybody, and are no links. Above the cache's root, folders may belong to root, and may
be sticky like /tmp. Owners and modes are those of POSIX; access control lists are not read, and on Windows, which
keeps caches in the user's profile, nothing is checked.
"""

import atexit
import hashlib
import logging
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

PRIVATE = 0o700
WRITTEN_BY_OTHERS = 0o022  # bits of the group and of everybody
COMPILERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def cache_root(kind: str) -> Path:
    """Return where caches of a kind lie: $VIT_CUSTOM_CACHE/KIND, or ~/.cache/vit_custom/KIND."""
    return Path(os.environ.get("VIT_CUSTOM_CACHE") or _home()) / kind


def make_folders(folder: Path) -> Path:
    """Make `folder` and those above it that are missing, with mode 0700 whatever the umask says; return it."""
    for part in reversed((folder, *folder.parents)):
        if not part.exists():
            part.mkdir(mode=PRIVATE, exist_ok=True)
    return folder


def private_folder(kind: str, name: str, modes: bool = True) -> Path:
    """Return the folder `name` for code of a kind; it may not be there yet, the one above it is.

    It is below `cache_root(kind)`; if that is shared, below ~/.cache/vit_custom; if that is too, it is a temporary one
    that goes when this process ends. Either is said. What is there and could have been changed by others is removed.
    modes: as of `find_fault`.
    """
    refused: list[str] = []
    for root in dict.fromkeys((cache_root(kind), _home() / kind)):
        try:
            folder = _prepare(root, name, modes)
        except OSError as error:
            refused.append(str(error))
            continue
        if refused:
            logger.warning(f"{'; '.join(refused)}. Compiled code is kept in {root} instead")
        return folder
    logger.warning(f"{'; '.join(refused)}. Compiled code is not kept")
    return make_folders(_temporary() / kind) / name


def tighten(folder: Path) -> None:
    """Take all rights of the group and of everybody from `folder` and from what is in it."""
    for path in _tree(folder):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & PRIVATE)


def find_fault(folder: Path, modes: bool = True) -> str | None:
    """Return how others could change what is in `folder`, or None; it need not be there.

    modes: whether the modes of what is in it are checked even if nobody else can enter `folder` itself; those of a
    compiler's files follow the umask.
    """
    if not hasattr(os, "geteuid"):
        return None
    real = folder.parent.resolve() / folder.name  # a link above may be; where it leads is what is checked
    return _fault_above(real) or _fault_inside(real, modes)


def keep_compiled_code_private() -> None:
    """Have torch's and Triton's compilers keep what they compile, and load again, where nobody else can write.

    Call it before anything is compiled. A folder that the user has named by their variables stays if it is private.
    Each processor has a folder of its own in either (see `processor_key`).
    """
    own = processor_key()
    torchs_own = os.path.join(tempfile.gettempdir(), "torchinductor_")  # torch writes its default into the variable
    for variable, name in COMPILERS.items():
        given = os.environ.get(variable, "")
        if given and not given.startswith(torchs_own):
            folder = Path(given).absolute()
            folder = make_folders(folder.parent if folder.name == own else folder)  # named so by a process above
            if (fault := find_fault(folder, modes=False)) is None:
                os.environ[variable] = str(make_folders(folder / own))
                continue
            logger.warning(f"{variable}={folder} is not used: {fault}")
        os.environ[variable] = str(make_folders(private_folder("compiled", name, modes=False) / own))


@cache
def processor_key() -> str:
    """Return a name, such as AVX512-1f0c9a4be2, of the processor and of the instructions that torch uses of it.

    torch 2.14 finds a compiled graph again by what is computed, and compiles it again for the processor at hand, but
    the loops in it step by the vectors of the processor that made it: found by another one, of a cluster's shared home
    or after ATEN_CPU_CAPABILITY was set, they store wrong numbers without a word.
    """
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    known = re.findall(r"^(?:model name|flags|Features|CPU part)\s*: (.+)$", lines, re.MULTILINE)
    machine = " ".join([platform.machine(), platform.processor(), *sorted(set(known))])
    return f"{torch.backends.cpu.get_cpu_capability()}-{hashlib.sha256(machine.encode()).hexdigest()[:10]}"


def _home() -> Path:
    return Path.home() / ".cache" / "vit_custom"


@cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="vit-custom-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _prepare(root: Path, name: str, modes: bool) -> Path:
    """Make `root`, and remove root/name if others could have changed it; raise OSError if they still could."""
    make_folders(root)
    base = root.parent.resolve()
    folder = base / root.name / name
    if not hasattr(os, "geteuid"):
        return folder
    if fault := _fault_above(base) or _fault(base) or _fault(folder.parent):
        raise PermissionError(fault)
    if fault := _fault_inside(folder, modes):
        logger.warning(f"{fault}: {folder} is removed, and what it held is made again")
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
        if fault := _fault_inside(folder, modes):
            raise PermissionError(fault)
    return folder


def _tree(folder: Path) -> Iterator[Path]:
    """Yield `folder`, if it is there, and all in it; links are not followed."""
    if os.path.lexists(folder):
        yield folder
        for parent, folders, files in os.walk(folder):
            yield from (Path(parent) / name for name in (*folders, *files))


def _fault_above(folder: Path) -> str | None:
    return next((fault for part in folder.parents if part.exists() and (fault := _fault(part, above=True))), None)


def _fault_inside(folder: Path, modes: bool) -> str | None:
    if fault := _fault(folder):
        return fault
    modes = modes or (folder.exists() and bool(stat.S_IMODE(folder.stat().st_mode) & ~PRIVATE))
    return next((fault for part in _tree(folder) if (fault := _fault(part, modes=modes))), None)


def _fault(path: Path, above: bool = False, modes: bool = True) -> str | None:
    """Return how others could change `path`, or None.   above: it is only on the way to a folder of ours."""
    try:
        found = path.lstat()
    except FileNotFoundError:  # removed meanwhile by another process of ours
        return None
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return f"{path} is a link or a special file"
    if found.st_uid != os.geteuid() and not (above and found.st_uid == 0):
        return f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}"
    sticky = above and found.st_mode & stat.S_ISVTX
    if modes and found.st_mode & WRITTEN_BY_OTHERS and not sticky:
        return f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}; chmod go-w)"
    return None
