"""Where caches lie. Data may lie in a shared folder; compiled code lies where nobody else can write.

Anyone who can change a file of compiled code that this package loads can run code as its user. A folder of code is
therefore made with mode 0700 and checked before each use. The folder, all folders above it and everything in it must
belong to this user, must not be writable by the group or by everybody, and must not be links. Folders above the cache's
root may belong to root, and may be sticky like /tmp. Owners and modes are those of POSIX; access control lists are not
read. Nothing is checked on Windows, which keeps caches in the user's profile.
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
    """Return the folder for caches of a kind: $VIT_CUSTOM_CACHE/KIND, or ~/.cache/vit_custom/KIND."""
    return Path(os.environ.get("VIT_CUSTOM_CACHE") or _home()) / kind


def make_folders(folder: Path) -> Path:
    """Make `folder` and its missing parents with mode 0700, whatever the umask says; return it."""
    for part in reversed((folder, *folder.parents)):
        if not part.exists():
            part.mkdir(mode=PRIVATE, exist_ok=True)
    return folder


def private_folder(kind: str, name: str, modes: bool = True) -> Path:
    """Return the private folder `name` for code of a kind. Its parent exists; the folder itself need not.

    It lies below `cache_root(kind)`. If others can write there, it lies below ~/.cache/vit_custom; if they can write
    there too, it lies in a temporary folder that is deleted when this process ends. A warning says so in both cases.
    Existing content that others could have changed is removed.   modes: see `find_fault`.
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
    """Remove all permissions of the group and of everybody from `folder` and everything in it."""
    for path in _tree(folder):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & PRIVATE)


def find_fault(folder: Path, modes: bool = True) -> str | None:
    """Return how others could change what is in `folder`, or None if they cannot; the folder need not exist.

    modes: whether to check the modes of the content even if nobody else can enter `folder` itself. False suits a
    compiler's files, whose modes follow the umask.
    """
    if not hasattr(os, "geteuid"):
        return None
    real = folder.parent.resolve() / folder.name  # links above are allowed: their targets are checked
    return _fault_above(real) or _fault_inside(real, modes)


def keep_compiled_code_private() -> None:
    """Make torch's and Triton's compilers keep, and load, compiled code where nobody else can write.

    Call it before anything is compiled. A folder that the user has set in the compilers' environment variables is used
    if it is private. In either case each processor has a folder of its own in it (see `processor_key`).
    """
    own = processor_key()
    torchs_own = os.path.join(tempfile.gettempdir(), "torchinductor_")  # torch writes its default into the variable
    for variable, name in COMPILERS.items():
        given = os.environ.get(variable, "")
        if given and not given.startswith(torchs_own):
            folder = Path(given).absolute()
            folder = make_folders(folder.parent if folder.name == own else folder)  # set by a parent process
            if (fault := find_fault(folder, modes=False)) is None:
                os.environ[variable] = str(make_folders(folder / own))
                continue
            logger.warning(f"{variable}={folder} is not used: {fault}")
        os.environ[variable] = str(make_folders(private_folder("compiled", name, modes=False) / own))


@cache
def processor_key() -> str:
    """Return a name, such as AVX512-1f0c9a4be2, for the processor and the instructions that torch uses of it.

    torch 2.14 looks up a compiled graph by what it computes, and compiles it again for the current processor, but its
    loops keep the vector length of the processor that first made it. On another processor (a cluster's shared home) or
    after ATEN_CPU_CAPABILITY was set, these loops silently store wrong numbers.
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
    """Yield `folder`, if it exists, and everything in it; links are not followed."""
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
    """Return how others could change `path`, or None.   above: `path` is only a parent of our folder."""
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
