"""How the training commands end: one sentence on what stopped them, and an exit code for it."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...common.errors import DataError, UsageError
from ...common.memory import memory_sentence, out_of_memory, smaller_batch
from ...common.model_files import SEARCH
from ...common.processes import leave_processes
from ...common.stopping import lost_loader, stopped
from ...common.text import printable
from ...image_decoding_vit_custom import ImageDecodingError
from ...publishing.upload import PublishError
from ..checkpointing.checkpoints import CheckpointError, numbered
from .log import logged
from .saving_as import NotSavedAs


def exit_code(command: str, parse: Callable[[], tuple[Any, ...]], work: Callable[..., None]) -> int:
    """Run `work` on the groups of flags that `parse` returns, the training group last; return the exit code.

    What is printed goes to the run's log as well, see `log`.
    0: done.   1: trained, but not published or not written as --save_as says.   2: could not be done as asked.
    3: could not go on.   130: stopped by Ctrl-C.
    """
    with logged(command):
        code = _exit_code(command, parse, work)
    if code == 0:
        leave_processes()
    return code


def _exit_code(command: str, parse: Callable[[], tuple[Any, ...]], work: Callable[..., None]) -> int:
    kept, groups = "nothing was begun", tuple[Any, ...]()
    try:
        groups = parse()
        kept = ""
        work(*groups)
    except KeyboardInterrupt:
        return stopped(command, kept or what_is_kept(Path(groups[-1].output_dir)))
    except (DataError, UsageError, ImageDecodingError) as error:
        print(printable(f"{command}: {error}"), file=sys.stderr)
        return 2
    except (CheckpointError, FloatingPointError) as error:
        print(printable(f"{command}: {error}"), file=sys.stderr)
        return 3
    except (PublishError, NotSavedAs) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError, OSError) as error:
        if out_of_memory(error) and groups:
            what = memory_sentence(error, needs_less(error, *groups))
            print(printable(f"{command}: {what} {what_is_kept(Path(groups[-1].output_dir))}."), file=sys.stderr)
            return 3
        if not isinstance(error, RuntimeError) or (lost := lost_loader(error, "dataloader_num_workers")) is None:
            raise
        print(printable(f"{command}: {lost} The same command goes on."), file=sys.stderr)
        return 3
    return 0


def needs_less(error: BaseException, *groups: Any) -> list[str]:
    """Return the flags that need less memory, with their values now, in the order in which to try them.

    error: shows whether it was a validation that failed.   groups: of flags, that of training last.
    """
    flags = {name: value for group in groups for name, value in vars(group).items()} if groups else {}
    if "per_device_train_batch_size" not in flags:  # of quickstart, which does not know them
        return ["a smaller --per_device_train_batch_size"]
    if _validating(error):
        return smaller_batch(flags["per_device_eval_batch_size"], "per_device_eval_batch_size") or ["smaller images"]
    fixes = []
    size, parts = flags["per_device_train_batch_size"], flags["gradient_accumulation_steps"]
    if size > 1:
        by = next(number for number in range(2, size + 1) if size % number == 0)
        fixes.append(
            f"--per_device_train_batch_size {size // by} (now {size}) with --gradient_accumulation_steps {parts * by} "
            f"(now {parts}), which trains the same"
        )
    names = [
        name for name in ("activation_checkpointing", "gradient_checkpointing") if name in flags
    ]  # the newer first
    if not any(flags[name] for name in names):
        fixes.append(f"--{names[0]} true (now false), which takes more time")
    shown = " ".join(map(str, flags.get("image_size") or ())) or "the model's own"
    fixes.append(f"a smaller --image_size (now {shown}) in a new --output_dir")
    if flags["on_accelerator"] and not flags["bf16"]:
        fixes.append("--bf16 true (now false) in a new --output_dir")
    return fixes


def _validating(error: BaseException) -> bool:
    """Whether an error was raised in a validation, by the functions that it passed through."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "evaluation_loop" for frame, _ in frames)


def what_is_kept(folder: Path) -> str:
    """Return a sentence on what the folder of a stopped run holds, and how to go on."""
    if found := numbered(folder):
        return f"{found[max(found)]} is kept, and the same command goes on from there"
    if (folder / SEARCH).is_file():
        return f"{folder} keeps what was found so far, and the same command goes on from there"
    return f"{folder} holds no checkpoint yet, and the same command begins again"
